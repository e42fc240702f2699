"""A CSV table of a training's progress, echoed to the log."""

import csv
import logging
import time
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)


class TrainingLog:
    """Collects rows of numbers by step and writes them as one table when training ends.

    Wall time goes to the log only, so that two runs with one seed write identical tables.
    """

    def __init__(self, path: Path, every: int, rows: list[dict] | None = None):
        """Start a table, or go on with the rows of an interrupted run.

        Args:
            path: CSV file to write.
            every: steps between two rows.
            rows: rows from before an interruption.
        """
        self.path, self.every, self.rows = Path(path), every, list(rows or [])
        self._started = time.monotonic()

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self.rows:
            self._save()

    def write(self, step: int, values: Mapping[str, float | str], last: bool = False) -> None:
        """Add a row if `step` is a multiple of `every`, or the last one."""
        if step % self.every and not last:
            return
        self.rows.append({"step": step, **values})
        shown = " ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in values.items()
        )
        minutes = (time.monotonic() - self._started) / 60
        log.info("%s step %d: %s (%.1f min)", self.path.stem, step, shown, minutes)

    def _save(self) -> None:
        """Write all rows; a column is empty where a row has no such value."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in self.rows
            )
