"""Massive tokens: a few whose residual is so long that means, losses and variances are theirs alone.

The first token of a sequence is one in nearly every language model (arXiv 2309.17453, 2402.17762) and never
counts as data. Others are found by the rule of this module.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from vlmdiff.activations.tokens import TOKEN_TYPES


def data_tokens(
    token_type: UInt8[Tensor, "samples sequence"], codes: list[int]
) -> Bool[Tensor, "samples sequence"]:
    """Mark the tokens of some types that count as data: never the first one of a sequence."""
    marked = torch.isin(token_type, torch.tensor(codes, dtype=token_type.dtype, device=token_type.device))
    marked[:, 0] = False
    return marked


def norm_multiples(
    residual: Float[Tensor, "samples sequence d_model"], token_type: UInt8[Tensor, "samples sequence"]
) -> Float[Tensor, "samples sequence"]:
    """Return each token's norm over the lower median of the norms of its sample's tokens of the same type.

    The median is one of the norms, so among few tokens, too, the long ones do not move it towards themselves,
    and one token at least is never massive. The first token, BOS and padding are left out of the medians and
    are NaN. A sample is compared with itself alone, so nothing depends on which samples share its batch or
    shard.
    """
    norms = torch.linalg.vector_norm(residual, dim=-1, dtype=torch.float32)
    token_type = token_type.to(norms.device)
    found = torch.full_like(norms, torch.nan)
    for code in TOKEN_TYPES.values():
        own = data_tokens(token_type, [code])
        if own.any():
            ours = norms.masked_fill(~own, torch.nan)
            median = ours.nanquantile(0.5, dim=1, keepdim=True, interpolation="lower")
            found = torch.where(own, norms / median, found)
    return found


def above(multiples: Float[Tensor, "samples sequence"], ratio: float) -> Bool[Tensor, "samples sequence"]:
    """Mark multiples above a ratio; none if it is 0."""
    return multiples > ratio if ratio else torch.zeros_like(multiples, dtype=torch.bool)


def massive_tokens(
    residual: Float[Tensor, "samples sequence d_model"],
    token_type: UInt8[Tensor, "samples sequence"],
    ratio: float,
) -> Bool[Tensor, "samples sequence"]:
    """Mark tokens whose norm is above `ratio` times their sample's median (`norm_multiples`)."""
    return above(norm_multiples(residual, token_type), ratio)
