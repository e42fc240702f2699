"""Snapshots of a tuning run, and the state from which an interrupted one goes on."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlmdiff.runtime import replacing

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """Everything about a run, beside weights and optimiser, that a resumed run needs."""

    attempt: int = 0
    step: int = 0
    phase_index: int = 0
    phase_start: int = 0
    wall_s: float = 0.0
    rows: list[dict] = field(default_factory=list)


class CheckpointFolder:
    """Snapshots by step and the state to resume from, outside the rule's declared outputs."""

    def __init__(self, folder: Path, fingerprint: str):
        self.folder, self.fingerprint = Path(folder), fingerprint
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def _latest(self) -> Path:
        return self.folder / "latest.pt"

    def _snapshot(self, attempt: int, step: int) -> Path:
        return self.folder / f"attempt_{attempt}_step_{step:06d}.safetensors"

    def save(self, model: torch.nn.Module, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
        """Keep the weights of this step and replace the state to resume from."""
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(weights, self._snapshot(progress.attempt, progress.step))
        state = {
            "fingerprint": self.fingerprint,
            "progress": vars(progress),
            "optimiser": optimiser.state_dict(),
        }
        with replacing(self._latest) as temporary:
            torch.save(state, temporary)

    def weights(self, attempt: int, step: int) -> dict[str, Tensor]:
        """The weights that were kept at a step."""
        return load_file(self._snapshot(attempt, step))

    def resume(self, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> Progress | None:
        """Restore the last state, or return None if there is none from this code and config."""
        if not self._latest.exists():
            return None
        state = torch.load(self._latest, weights_only=True)
        if state["fingerprint"] != self.fingerprint:
            log.warning("ignoring %s: other code or settings wrote it", self._latest)
            return None
        progress = Progress(**state["progress"])
        model.load_state_dict(self.weights(progress.attempt, progress.step))
        optimiser.load_state_dict(state["optimiser"])
        log.info("resuming attempt %d after step %d", progress.attempt, progress.step)
        return progress

    def nearest_step(self, attempt: int, wanted: float) -> int:
        """The step nearest to `wanted` at which weights were kept."""
        names = self.folder.glob(f"attempt_{attempt}_step_*.safetensors")
        steps = sorted(int(name.stem.rpartition("_")[2]) for name in names)
        return min(steps, key=lambda step: abs(step - wanted))

    def remove(self) -> None:
        """Delete the folder's files once the outputs are written."""
        for file in [*self.folder.glob("attempt_*.safetensors"), self._latest]:
            file.unlink(missing_ok=True)
        self.folder.rmdir()
