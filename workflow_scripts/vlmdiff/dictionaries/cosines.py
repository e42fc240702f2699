"""Cosines between the decoder rows of two dictionaries, feature by feature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from vlmdiff.dictionaries.partial_reads import feature_rows

Rows = Float[np.ndarray, "d_sae d_model"]
COSINE_ROWS = 4096


def median_cosine(rows: Rows, initial: Rows) -> float:
    """Return the median over features of the cosine between two decoders' rows `(d_sae, d_model)`."""
    cosines = [
        cosines_or_zero(rows[start : start + COSINE_ROWS], initial[start : start + COSINE_ROWS])
        for start in range(0, len(rows), COSINE_ROWS)
    ]
    return float(np.median(np.concatenate(cosines)))


def cosines_or_zero(rows: Rows, initial: Rows) -> Float[np.ndarray, " d_sae"]:
    """Return the cosine of each pair of rows; 0 where a row is 0."""
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(initial, axis=1)
    return (rows * initial).sum(axis=1) / np.maximum(norms, 1e-12)


def decoder_of(folder: str | Path) -> Rows:
    """Return the decoder `(d_sae, d_model)` of a dictionary, without the encoder."""
    with feature_rows(folder) as file:
        return file.decoder(0, file.shape[0])
