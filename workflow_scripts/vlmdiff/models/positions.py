"""Which tokens of a batch stand where."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from vlmdiff.activations.tokens import IMAGE, TEXT
from vlmdiff.models.batch import Batch


def text_after_image(batch: Batch) -> Bool[Tensor, "samples tokens"]:
    """Mark text tokens that follow the last image token of their sample."""
    position = torch.arange(batch.token_type.shape[1], device=batch.token_type.device)
    is_image = batch.token_type == IMAGE
    last_image = torch.where(is_image, position, -1).amax(dim=1, keepdim=True)
    return (batch.token_type == TEXT) & (position > last_image) & (last_image >= 0)
