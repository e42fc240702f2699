"""Whether a dictionary of ours and one of sae-lens encode and decode alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmdiff.dictionaries.modules import Dictionary


def alike(found: Tensor, expected: Tensor) -> None:
    """Compare values, up to a hundred-thousandth of the largest."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def same(dictionary: Dictionary, sae: Any, x: Tensor) -> None:
    """Compare activations, in units of unit decoder rows, and reconstructions; both must be sparse."""
    z, theirs = dictionary.encode(x), sae.encode(x)
    assert 0.01 < float((theirs > 0).float().mean()) < 0.9
    rescaled = getattr(sae.cfg, "rescale_acts_by_decoder_norm", False)
    norms = torch.ones(len(sae.W_dec)) if rescaled else sae.W_dec.norm(dim=1)
    assert torch.equal(z > 0, theirs * norms > 0)
    alike(z, theirs * norms)
    alike(dictionary.decode(z), sae.decode(theirs))
    alike(dictionary(x), sae(x))
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(dictionary.d_sae))
