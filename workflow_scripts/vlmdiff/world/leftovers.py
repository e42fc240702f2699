"""What earlier runs left in a checkpoint folder: kept if a run may go on from it, else deleted.

`CheckpointFolder` ignores the state of other settings, but looks for weights of a step by file name; and a
run that was killed while it cleared its folder has lost some of them.
"""

import logging
import shutil
from pathlib import Path

import torch

from vlmdiff.runtime.disk_errors import not_read
from vlmdiff.runtime.files import sweep_once

STATE = "latest.pt"
log = logging.getLogger(__name__)


def clear_leftovers(folder: Path, fingerprint: str, every: int) -> None:
    """Delete a checkpoint folder unless a run with this fingerprint can go on from it.

    Args:
        folder: of a `CheckpointFolder`; may be missing.
        fingerprint: of code, settings and start weights, as the run will have it.
        every: steps between two checkpoints.
    """
    if not folder.is_dir():
        return
    sweep_once(folder.resolve())
    if problem := unusable(folder, fingerprint, every):
        log.warning("%s: %s; training starts anew", folder, problem)
        shutil.rmtree(folder)


def unusable(folder: Path, fingerprint: str, every: int) -> str | None:
    """Return why a run cannot go on from a checkpoint folder; None if it can."""
    if not (folder / STATE).is_file():
        return f"there is no {STATE}"
    try:
        state = torch.load(folder / STATE, weights_only=True)
        attempt, step = state["progress"]["attempt"], state["progress"]["step"]
    except Exception as error:  # a damaged file fails in many ways, and none may stop a new start
        if problem := not_read(folder / STATE, error):
            raise problem from error
        return f"{STATE} cannot be read ({error})"
    if state["fingerprint"] != fingerprint:
        return "other code or settings wrote it"
    wanted = {*range(every, step + 1, every), step}
    missing = [one for one in sorted(wanted) if not weights_file(folder, attempt, one).is_file()]
    return f"weights of the steps {missing} are missing" if missing else None


def weights_file(folder: Path, attempt: int, step: int) -> Path:
    """Return where `CheckpointFolder` keeps the weights of a step."""
    return folder / f"attempt_{attempt}_step_{step:06d}.safetensors"
