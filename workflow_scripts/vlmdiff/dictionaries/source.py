"""Which published dictionary is meant, and of which files it is made; without torch, for the rules too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# What one dictionary consists of, beneath its path; the path itself is the file where there are none.
FILES: dict[str, tuple[str, ...]] = {
    "llama_scope": ("hyperparams.json", "checkpoints/final.safetensors"),
    "gemma_scope": ("params.npz",),
    "gemma_scope_2": ("params.safetensors",),
    "mmdiff": (),
    "qwen_scope": (),
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "vlmdiff": ("cfg.json", "sae_weights.safetensors"),
    "sparsify": ("cfg.json", "sae.safetensors"),
    "openmoss": ("config.json", "sae_weights.safetensors"),
    "dictionary_learning": ("config.json", "ae.pt"),
    "crosscoder": (),
}
SCALER = "activation_scaler.json"
# What is read if it is there.
OPTIONAL: dict[str, tuple[str, ...]] = {
    "saelens": (SCALER,),
    "vlmdiff": (SCALER,),
    "gemma_scope_2": ("config.json",),
}
# As in `vlmdiff.config.sources`, whose checks of a configuration must not make trainings stale.
RELEASE = "saelens:"


def published_files(format: str, path: str) -> list[str]:
    """Return the files that one published dictionary must have, given its path."""
    if not FILES[format] or Path(path).suffix == ".npz":
        return [path]
    return [f"{path}/{name}" for name in FILES[format]]


def formats_in(folder: Path) -> list[str]:
    """Return the formats of which a folder has all files; none of those that are one file."""
    return [kind for kind, names in FILES.items() if names and all((folder / one).is_file() for one in names)]


def files_read(format: str, path: str) -> list[Path]:
    """Return the files on this machine that are read."""
    optional = [Path(path, name) for name in OPTIONAL.get(format, ())]
    return [*map(Path, published_files(format, path)), *(file for file in optional if file.is_file())]


@dataclass(frozen=True)
class PublishedSource:
    """Where a published dictionary lies, with what its files do not tell.

    Attributes:
        format: one of `FILES`.
        path: folder or file; for `saelens` also `saelens:RELEASE/ID`.
        k: TopK of MMDiff and Qwen Scope: active features a token.
        subtract_decoder_bias: MMDiff: subtract `b_dec` from the encoder's input; None means no.
        input_scale: factor on the residual stream before the encoder, where no file names it.
    """

    format: str
    path: str | Path
    k: int | None = None
    subtract_decoder_bias: bool | None = None
    input_scale: float | None = None
