"""Whether the features of a dictionary are those of the one that it is said to come from, index by index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from vlmdiff.dictionaries.cosines import Rows, decoder_of, median_cosine
from vlmdiff.dictionaries.weights import DictionaryError

# Cosines of unrelated directions have a mean of 0 and a spread of 1 / sqrt(d_model), and so a median over
# thousands of features of 0.00. After fine-tuning it lies above 0.5: of the authors' features, the quarter
# that turned most ends at 0.88.
LEAST_MEDIAN = 0.25
# A feature that stands elsewhere is recognised by a row like this; separate trainings seldom share one.
SAME_FEATURE = 0.8
TRIED = 256  # features


def check_lineage(rows: Rows, initial: str | Path, path: str | Path) -> float:
    """Refuse a dictionary that does not keep the feature indices of the one that it is said to come from.

    Args:
        rows: decoder.
        initial: folder of the dictionary that it is said to come from.
        path: of the dictionary, for the message.

    Returns:
        the median over features of the cosine between both decoder rows.

    Raises:
        DictionaryError: the two differ in shape, or the median cosine of their decoder rows is near 0.
    """
    before = decoder_of(initial)
    if before.shape != rows.shape:
        raise DictionaryError(
            f"{path}: (d_sae, d_model) is {rows.shape}, that of its `initial` {initial} is {before.shape}; a "
            "dictionary of another width is a separate training: name the one that it started from"
        )
    alive = (np.linalg.norm(rows, axis=1) > 0) & (np.linalg.norm(before, axis=1) > 0)
    median = median_cosine(rows[alive], before[alive]) if alive.any() else 0.0
    if median >= LEAST_MEDIAN:
        return median
    raise DictionaryError(
        f"{path}: the median cosine of its decoder rows with those of its `initial` {initial} is "
        f"{median:.3f}, expected at least {LEAST_MEDIAN} (fine-tuned dictionaries have more than 0.5; single "
        f"cosines of unrelated directions are 0.00 ± {rows.shape[1] ** -0.5:.2f}). "
        f"{diagnosis(rows, before, median)}"
    )


def diagnosis(rows: Rows, before: Rows, median: float) -> str:
    """Say what may have happened, and what to do."""
    if -median >= LEAST_MEDIAN:
        return "Its rows point the other way: the sign of the decoder is turned; turn it back."
    tried = np.linspace(0, len(rows) - 1, min(TRIED, len(rows))).astype(int)
    best, cosines = best_matches(rows[tried], before)
    if np.median(cosines) < SAME_FEATURE:
        return (
            "Dictionaries of another L0, width, seed, layer or model are separate trainings, whose features "
            "do not answer to one another: name the dictionary that it started from as `initial` "
            "(docs/configure/import_dictionary.md lists those of the authors), correct `file` or `by_layer`, "
            "or set `initial: random`"
        )
    shifts, counts = np.unique((best - tried) % len(rows), return_counts=True)
    how = f"shifted by {shifts[counts.argmax()]}" if counts.max() > 0.9 * len(tried) else "in another order"
    return (
        f"It has the same features {how}: the best matching rows have a median cosine of "
        f"{np.median(cosines):.2f} (its feature {tried[0]} is feature {best[0]} there); take the file in its "
        "original order"
    )


def best_matches(
    rows: Float[np.ndarray, "tried d_model"], before: Rows
) -> tuple[Int[np.ndarray, " tried"], Float[np.ndarray, " tried"]]:
    """Return for each row the row of another decoder with the largest cosine, and that cosine."""

    def unit(one: np.ndarray) -> np.ndarray:
        return one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12)

    cosines = unit(rows) @ unit(before).T
    return cosines.argmax(axis=1), cosines.max(axis=1)
