"""What a section gets, what it returns, and how that is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Setting:
    """Where and how large.

    Attributes:
        device: `cuda` or `cpu`.
        small: toy sizes, to try the script itself.
    """

    device: str
    small: bool

    def synchronise(self) -> None:
        """Wait until the device has done what it was told."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], object]) -> Callable[[], None]:
        """Return work that ends when the device has done it."""

        def whole() -> None:
            work()
            self.synchronise()

        return whole

    def peak_gib(self, work: Callable[[], object]) -> float:
        """Return the most memory of the device that was in use during work, in GiB; NaN on a CPU."""
        import torch

        if self.device != "cuda":
            work()
            return float("nan")
        torch.cuda.reset_peak_memory_stats()
        self.timed(work)()
        return torch.cuda.max_memory_allocated() / 2**30


@dataclass(frozen=True)
class Row:
    """One measured value; `holds` is None where nothing is asked of it."""

    section: str
    size: str
    what: str
    value: float | None = None
    note: str = ""
    holds: bool | None = None


def at_most(section: str, size: str, what: str, value: float, limit: float) -> Row:
    """Return a row that holds if the value is not above its limit; NaN is."""
    return Row(section, size, what, value, f"at most {limit:g}", value <= limit)


def shown(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the table that is printed."""
    verdict = {None: "", True: "yes", False: "NO"}
    return pd.DataFrame(
        {
            "section": [row.section for row in rows],
            "size": [row.size for row in rows],
            "what": [row.what for row in rows],
            "value": ["" if row.value is None else f"{row.value:.4g}" for row in rows],
            "holds": [verdict[row.holds] for row in rows],
            "note": [row.note for row in rows],
        }
    )
