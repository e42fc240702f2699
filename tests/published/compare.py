"""Whether two looks saw the same, and in what they differ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# Of the largest value; logits of 16 bits, of models that take other ways to the same sum, differ by more.
ALLOWED = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
FIRED_ALIKE = 0.999  # of all features that either side lets fire

Arrays = Mapping[str, np.ndarray]


def models(ours: Arrays, theirs: Arrays, dtype: str) -> tuple[bool, str]:
    """Compare token ids and logits.

    Returns:
        whether they are alike; a line that tells how closely.
    """
    ids, expected = ours["ids"], theirs["ids"]
    if not np.array_equal(ids, expected):
        at = next((i for i, (a, b) in enumerate(zip(ids, expected)) if a != b), min(len(ids), len(expected)))
        return False, f"token ids differ from place {at} on: {window(ids, at)} for {window(expected, at)}"
    largest = float(np.abs(theirs["logits"]).max())
    apart = float(np.abs(ours["logits"] - theirs["logits"]).max())
    same = int(ours["logits"].argmax()) == int(theirs["logits"].argmax())
    told = f"{len(ids)} token ids equal, logits at most {apart:.1e} of {largest:.1f} apart"
    alike = apart <= ALLOWED[dtype] * largest and same
    return alike, told if same else f"{told}, and another next token"


def window(ids: np.ndarray, at: int) -> list[int]:
    """Return a few token ids from a place on."""
    return ids[at : at + 4].tolist()


def dictionaries(ours: Arrays, theirs: Arrays) -> tuple[bool, str]:
    """Compare which features fire, their activations, and reconstructions.

    Returns:
        whether they are alike; a line that tells how closely.
    """
    fired, expected = ours["z"] > 0, theirs["z"] > 0
    if ours["z"].shape != theirs["z"].shape:
        return False, f"activations are of shape {ours['z'].shape} for {theirs['z'].shape}"
    both, either = int((fired & expected).sum()), int((fired | expected).sum())
    if not either:
        return False, "nothing fires on sums of its own rows"
    alike = both / either
    apart = {
        name: float(np.abs(ours[name] - theirs[name])[mask].max() / np.abs(theirs[name]).max())
        for name, mask in (("z", fired & expected), ("x_hat", ...))
        if name == "x_hat" or both
    }
    told = f"{both} of {either} firings alike, " + ", ".join(
        f"{name} at most {value:.1e} of the largest apart" for name, value in apart.items()
    )
    return alike >= FIRED_ALIKE and max(apart.values()) <= ALLOWED["float32"], told
