"""What a model is shown at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from vlmdiff.activations.tokens import BOS, BREAK, IMAGE, PADDING, TEXT

# Rows and columns of an image's tokens, and of the tiles in which they follow each other.
Layout = tuple[int, int, int, int]


@dataclass(frozen=True)
class Seen:
    """What a vision tower and its projector make of images.

    Attributes:
        features: (image_tokens, d_model) of all images, one after the other.
        grids: (images, 2) rows and columns of each image's tokens, over all its tiles.
        deepstack: (levels, image_tokens, d_model) added to the residual stream of image tokens after
            block 0, 1, … by models that show their decoder several depths of the tower; else None.
        unplaced: how many more tokens an image has, behind its grid, that have no place in the picture: the
            same number for all, or (images,).
        tiles: (images, 2) rows and columns of the tiles into which each image is cut: its tokens follow each
            other tile by tile, row by row within each. None: no image is cut.
    """

    features: Float[Tensor, "image_tokens d_model"]
    grids: Int64[Tensor, "images 2"]
    deepstack: Float[Tensor, "levels image_tokens d_model"] | None = None
    unplaced: int | Int64[Tensor, " images"] = 0
    tiles: Int64[Tensor, "images 2"] | None = None

    @property
    def counts(self) -> list[int]:
        """How many tokens each image has."""
        return (self.grids.prod(dim=1) + self.unplaced).tolist()

    @property
    def layouts(self) -> list[Layout]:
        """How each image's tokens lie in it: only those of one layout have the same places."""
        tiles = torch.ones_like(self.grids) if self.tiles is None else self.tiles
        return [tuple(one) for one in torch.cat([self.grids, tiles], dim=1).tolist()]

    def places(self, image: int) -> Int64[Tensor, "placed 2"]:
        """Return row and column in the grid of each token of an image, but for those without a place."""
        rows, columns, down, across = self.layouts[image]
        cells = torch.arange(rows * columns).view(down, rows // down, across, columns // across)
        in_order = cells.transpose(1, 2).flatten()
        return torch.stack([in_order // columns, in_order % columns], dim=1)


@dataclass(frozen=True)
class Batch:
    """Right-padded prompts of one forward pass.

    Attributes:
        input_ids: (samples, sequence) tokens.
        attention_mask: (samples, sequence) 1 for real tokens, 0 for padding.
        token_type: (samples, sequence) codes of `vlmdiff.activations.tokens`.
        last: (samples,) index of the last real token.
        generated: (samples,) how many of the last real tokens are the model's own words, or are read as
            if they were; only models whose prompts see themselves as a whole tell them apart.
        seen: the images of the samples that have one, in order; None if none has.
    """

    input_ids: Int64[Tensor, "samples sequence"]
    attention_mask: Int64[Tensor, "samples sequence"]
    token_type: UInt8[Tensor, "samples sequence"]
    last: Int64[Tensor, " samples"]
    generated: Int64[Tensor, " samples"]
    seen: Seen | None = None

    def to(self, device: str | torch.device) -> Batch:
        """Return the batch with its tensors on `device`; images stay where the model put them."""
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value.to(device) for name, value in moved.items() if name != "seen"}
        return Batch(**tensors, seen=self.seen)

    def __len__(self) -> int:
        return self.input_ids.shape[0]


def pad_right(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return tokens and attention mask, (rows, longest), with padding after each row."""
    longest = max(len(row) for row in rows)
    input_ids = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return input_ids, mask


def token_types(
    input_ids: Tensor,
    mask: Tensor,
    bos_id: int | None,
    image_id: int | None,
    break_ids: Collection[int] = (),
) -> Tensor:
    """Classify tokens: BOS, image, breaks between parts of it, padding, everything else text.

    BOS is the first BOS token, wherever a family puts it, and the first token of a sequence, whatever
    it is: every later token sees it, it sees none, and so it becomes the attention sink. Only an image
    token that stands first stays an image token, because the tower's features go there. Where images have
    breaks, all that stands between a sample's image tokens is a break: newlines between tiles are no text.
    """
    types = torch.full_like(input_ids, TEXT, dtype=torch.uint8)
    types[:, 0] = BOS
    if image_id is not None:
        types[input_ids == image_id] = IMAGE
    for break_id in break_ids:
        types[input_ids == break_id] = BREAK
    if break_ids and image_id is not None:
        is_image = input_ids == image_id
        begun, goes_on = is_image.cumsum(1) > 0, is_image.flip(1).cumsum(1).flip(1) > 0
        types[begun & goes_on & ~is_image] = BREAK
    if bos_id is not None:
        found = input_ids == bos_id
        types[found & (found.cumsum(1) == 1)] = BOS
    types[mask == 0] = PADDING
    return types


def make_batch(
    rows: Sequence[Sequence[int]],
    pad_id: int,
    bos_id: int | None,
    image_id: int | None = None,
    seen: Seen | None = None,
    generated: Sequence[int] | None = None,
    break_ids: Collection[int] = (),
) -> Batch:
    """Pad token rows to a batch and classify their tokens."""
    input_ids, mask = pad_right(rows, pad_id)
    types = token_types(input_ids, mask, bos_id, image_id, break_ids)
    own = torch.tensor(list(generated) if generated is not None else [0] * len(rows))
    return Batch(input_ids, mask, types, mask.sum(1) - 1, own, seen)
