"""What both sides are shown: one picture, one question, and residuals on which some features fire."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vlmdiff.dictionaries.modules import Dictionary

QUESTION = "What shape is on the left?"
TOKENS, ACTIVE = 32, 8


def picture() -> Image:
    """Draw a red circle to the left of a blue square."""
    from PIL import Image, ImageDraw

    found = Image.new("RGB", (480, 320), "white")
    draw = ImageDraw.Draw(found)
    draw.ellipse((50, 90, 190, 230), fill="red")
    draw.rectangle((290, 90, 430, 230), fill="blue")
    return found


def residuals(dictionary: Dictionary) -> Tensor:
    """Return residuals (tokens, d_model), each a sum of some rows of a dictionary and its bias.

    Rows are scaled so that their features' own encoder directions pass bias and threshold.
    """
    import torch

    draw = torch.Generator().manual_seed(0)
    chosen = torch.stack([torch.randperm(dictionary.d_sae, generator=draw)[:ACTIVE] for _ in range(TOKENS)])
    read = (dictionary.W_enc * dictionary.W_dec.T).sum(dim=0).abs()
    needed = dictionary.b_enc.abs() + (dictionary.threshold if dictionary.kind == "jumprelu" else 0.0)
    typical = (needed / read.clamp_min(1e-6)).median().clamp_min(0.1)
    sizes = typical * (2 + 4 * torch.rand(TOKENS, ACTIVE, 1, generator=draw))
    return (dictionary.W_dec[chosen] * sizes).sum(dim=1) + dictionary.b_dec


def peak_gb() -> float:
    """Return the largest memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
