"""Puts freshly tuned adapters in the place from which `config/smollm2.yaml` takes them."""

from __future__ import annotations

import argparse
import logging
import platform
import shutil
from importlib.metadata import version
from json import dumps
from pathlib import Path

from vlmdiff.config.world import SNAPSHOTS, VLM
from vlmdiff.runtime import replacing_folder
from vlmdiff.world.shipping import PROVENANCE, NotShippableError, read_record

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "pillow")
log = logging.getLogger(__name__)


def shipped_parts(tuned: Path) -> list[Path]:
    """Return what is shipped of a folder of adapters: all snapshots of the model, controls as they ended.

    Raises:
        NotShippableError: the frame or a snapshot is missing, or a control was tuned in another way.
    """
    controls = sorted(one.parent for one in tuned.glob("*/100/adapter_model.safetensors"))
    found = [tuned / VLM / str(percent) for percent in SNAPSHOTS]
    found += [folder for folder in controls if folder.parent.name != VLM]
    files = [tuned / "frame.safetensors", *(folder / "adapter_model.safetensors" for folder in found)]
    if missing := [file for file in files if not file.is_file()]:
        raise NotShippableError(
            f"found no {', '.join(map(str, missing))}: make them with `snakemake world_models --configfile "
            "config/smollm2.yaml`"
        )
    settings = {folder: read_record(folder)["settings"] for folder in found}
    if other := [folder for folder in found if settings[folder] != settings[found[0]]]:
        raise NotShippableError(
            f"{', '.join(map(str, other))}: tuned by other settings than {found[0]}, so no control of it: "
            "remove what is out of date and tune it again"
        )
    return found


def ship(tuned: Path, target: Path) -> None:
    """Copy frame, adapters, logs and versions to the shipped folder, whole or not at all.

    Args:
        tuned: `results/<experiment>/world/tuned`.
        target: folder to replace.
    """
    parts = shipped_parts(tuned)
    with replacing_folder(target) as folder:
        shutil.copy(tuned / "frame.safetensors", folder)
        for part in parts:
            shutil.copytree(part, folder / part.relative_to(tuned))
        (folder / "training_logs").mkdir()
        for log_csv in sorted(tuned.glob("*.csv")):
            shutil.copy(log_csv, folder / "training_logs")
        versions = {name: version(name) for name in PACKAGES}
        made_with = {"python": platform.python_version(), "packages": versions}
        (folder / PROVENANCE).write_text(dumps(made_with, indent=1, sort_keys=True) + "\n")
    log.info("shipped %s to %s", ", ".join(str(part.relative_to(tuned)) for part in parts), target)


def main() -> None:
    """Ship the adapters of one results folder from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="tuned", type=Path, required=True, help="results/<exp>/world/tuned")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="resources/smollm2")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ship(arguments.tuned, arguments.target)


if __name__ == "__main__":
    main()
