"""What a model is shown at once."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT


@dataclass(frozen=True)
class Batch:
    """Right-padded prompts of one forward pass.

    Attributes:
        input_ids: (samples, sequence) tokens.
        attention_mask: (samples, sequence) 1 for real tokens, 0 for padding.
        token_type: (samples, sequence) codes of `vlmdiff.activations.tokens`.
        pixel_values: (images, channels, height, width) of the samples that have an image, in
            order; None if none has.
        last: (samples,) index of the last real token.
    """

    input_ids: Int64[Tensor, "samples sequence"]
    attention_mask: Int64[Tensor, "samples sequence"]
    token_type: UInt8[Tensor, "samples sequence"]
    pixel_values: Float[Tensor, "images channels height width"] | None
    last: Int64[Tensor, " samples"]

    def to(self, device: str | torch.device) -> Batch:
        """Return the batch with its tensors on `device`."""
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{name: value if value is None else value.to(device) for name, value in moved.items()})

    def __len__(self) -> int:
        return self.input_ids.shape[0]


def pad_right(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return tokens and attention mask, (rows, longest), with padding after each row."""
    longest = max(len(row) for row in rows)
    input_ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return input_ids, mask


def token_types(input_ids: Tensor, mask: Tensor, bos_id: int | None, image_id: int | None) -> Tensor:
    """Classify tokens: BOS (only at the start), image, padding, everything else text."""
    types = torch.full_like(input_ids, TEXT, dtype=torch.uint8)
    if image_id is not None:
        types[input_ids == image_id] = IMAGE
    if bos_id is not None:
        types[:, 0][input_ids[:, 0] == bos_id] = BOS
    types[mask == 0] = PADDING
    return types


def make_batch(
    rows: list[list[int]],
    pad_id: int,
    bos_id: int | None,
    image_id: int | None = None,
    pixel_values: Tensor | None = None,
) -> Batch:
    """Pad token rows to a batch and classify their tokens."""
    input_ids, mask = pad_right(rows, pad_id)
    return Batch(
        input_ids, mask, token_types(input_ids, mask, bos_id, image_id), pixel_values, mask.sum(1) - 1
    )
