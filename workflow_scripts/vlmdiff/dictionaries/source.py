"""Which published dictionary is meant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PublishedSource:
    """Where a published dictionary lies, with what its files do not tell.

    Attributes:
        format: `llama_scope`, `gemma_scope`, `mmdiff`, `saelens` or `vlmdiff`.
        path: folder or file; for `saelens` also `saelens:RELEASE/ID`.
        k: MMDiff TopK: active features a token.
        subtract_decoder_bias: MMDiff: subtract `b_dec` from the encoder's input; None means no.
        input_scale: factor on the residual stream before the encoder, where no file names it.
    """

    format: str
    path: str | Path
    k: int | None = None
    subtract_decoder_bias: bool | None = None
    input_scale: float | None = None
