"""Puts freshly trained checkpoints in the place from which the default workflow takes them."""

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from vlmdiff.runtime import replacing_folder
from vlmdiff.tables.io import read_table
from vlmdiff.tables.models import ACCURACY
from vlmdiff.world.checkpoints import RECORD

SHIPPED_MODELS = ("base_lm", "vlm_25", "vlm_50", "vlm_75", "vlm")
ALIGNED_MODEL = "vlm_0"
PROVENANCE = "provenance.json"
SHARED_KEYS = ("code_digest", "python", "packages")
log = logging.getLogger(__name__)


class NotShippableError(ValueError):
    """The checkpoints were not all made by one code and one configuration."""


def read_record(model_dir: Path) -> dict:
    """Read how a model folder was made."""
    return json.loads((model_dir / RECORD).read_text())


def provenance(models_dir: Path, accuracy_csv: Path) -> dict:
    """Gather what made the checkpoints, and how accurate they are on held-out data.

    Raises:
        NotShippableError: if two of the checkpoints come from different code, settings or versions.
    """
    records = {name: read_record(models_dir / name) for name in (*SHIPPED_MODELS, ALIGNED_MODEL)}
    common: dict[str, Any] = {}
    for name, record in records.items():
        facts = {**{key: record.pop(key) for key in SHARED_KEYS}, **record.pop("settings")}
        different = [key for key, value in facts.items() if not agrees(common, key, value)]
        if different:
            raise NotShippableError(
                f"{name} differs from the models before it in {different}: "
                "train all of them anew with `snakemake world_models`"
            )
    shared = {key: common.pop(key) for key in SHARED_KEYS}
    accuracy = read_table(accuracy_csv, ACCURACY).round(4).to_dict(orient="records")
    return {**shared, "settings": common, "models": records, "accuracy": accuracy}


def agrees(common: dict[str, Any], key: str, value: Any) -> bool:
    """Tell whether a fact fits to those known, and keep it.

    Models know different splits of the scenes: those that they were trained on or chosen by.
    """
    if not isinstance(value, dict):
        return common.setdefault(key, value) == value
    known = common.setdefault(key, {})
    return all(known.setdefault(name, one) == one for name, one in value.items())


def ship(models_dir: Path, logs_dir: Path, accuracy_csv: Path, target_dir: Path) -> None:
    """Copy models, training logs and provenance to the shipped folder, whole or not at all.

    Args:
        models_dir: folder with one Hugging Face folder a model.
        logs_dir: folder with the tables that the trainings wrote.
        accuracy_csv: accuracies of these models.
        target_dir: folder to replace.
    """
    origin = provenance(models_dir, accuracy_csv)
    with replacing_folder(target_dir) as folder:
        for name in SHIPPED_MODELS:
            shutil.copytree(models_dir / name, folder / name, ignore=shutil.ignore_patterns(RECORD))
        shutil.copytree(logs_dir, folder / "training_logs")
        (folder / PROVENANCE).write_text(json.dumps(origin, indent=1) + "\n")
    log.info("shipped %s to %s", ", ".join(SHIPPED_MODELS), target_dir)


def main() -> None:
    """Ship the models of one results folder from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="models", type=Path, required=True, help="results/<exp>/world/models")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="resources/world")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    world = arguments.models.parent
    ship(arguments.models, world / "training_logs", world / "accuracy_trained.csv", arguments.target)


if __name__ == "__main__":
    main()
