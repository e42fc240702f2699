"""What a decoder must do to be taken apart: transformers' own values, and heads that lie side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from vlmdiff.models.batch import Batch, make_batch
from vlmdiff.models.errors import LayoutError
from vlmdiff.models.hooks import record_inputs, stop_after
from vlmdiff.models.layout import OTHERS
from vlmdiff.models.prefix import Prefix, read_prefix
from vlmdiff.models.subject import Subject

if TYPE_CHECKING:
    from vlmdiff.models.causal_lm import CausalLM

# Rounding, in units of the last place of a vector's largest value.
UNITS = 32
# How much larger than the largest of them the values of a head are made, so that nobody overlooks it.
LARGER = 100


def rounding(values: Tensor) -> Tensor:
    """Return by how much vectors (…, width) may differ from others that were computed in another order."""
    return UNITS * torch.finfo(values.dtype).eps * values.abs().amax(dim=-1)


def same(found: Tensor, expected: Tensor) -> bool:
    """Tell whether values are the expected ones, up to rounding; what is no number is not."""
    if found.shape != expected.shape:
        return False
    difference = (found.to(expected.device) - expected).abs().amax(dim=-1)
    return bool((difference <= rounding(expected)).all())


def check_values(subject: CausalLM, batch: Batch) -> None:
    """Refuse a language model whose class returns other hidden states or logits than we read.

    Raises:
        LayoutError: naming what differs.
    """
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    own = subject.model(**inputs, output_hidden_states=True)
    check_states(subject, batch, own.hidden_states)
    # The model's own logits may have 16 bits.
    if not same(subject.final_logits(batch), own.logits[:, -1]):
        raise LayoutError(
            f"model '{subject.name}': the logits of its head are not those that its class "
            f"({type(subject.model).__name__}) returns, so it does something between; {OTHERS}"
        )


def check_states(subject: CausalLM, batch: Batch, own: tuple[Tensor, ...] | None) -> None:
    """Refuse a language model whose residual stream is not what its class calls hidden states.

    Args:
        subject: the model.
        batch: a prompt.
        own: hidden states that its class returned: embeddings, then one a block, the last one perhaps
            behind the final norm.

    Raises:
        LayoutError: naming the block, or a projection around the blocks.
    """
    width = subject.embed(batch).shape[-1]
    if width != subject.d_model:
        raise LayoutError(
            f"model '{subject.name}': found embeddings of {width} values before blocks of "
            f"{subject.d_model}, with a projection between, expected the same width; {OTHERS}"
        )
    if own is None or len(own) != subject.n_layers + 1:
        raise LayoutError(
            f"model '{subject.name}': its class returns {len(own or ())} hidden states, expected "
            f"{subject.n_layers + 1}, so its blocks cannot be compared; {OTHERS}"
        )
    streams = subject.residuals(batch, list(range(subject.n_layers)))
    last, final = subject.n_layers - 1, subject.run_decoder(batch, subject.embed(batch))
    wrong = [layer for layer in range(last) if not same(streams[layer], own[layer + 1])]
    if not any(same(one, own[-1]) for one in (streams[last], final)):
        wrong.append(last)
    if wrong:
        raise LayoutError(
            f"model '{subject.name}': block {wrong[0]} puts out something else than the hidden states that "
            f"its class ({type(subject.model).__name__}) returns; {OTHERS}"
        )
    if not same(subject.norm(streams[last]), final):
        raise LayoutError(
            f"model '{subject.name}': it does something between its last block, {subject.layout.norm} and "
            f"its head; {OTHERS}"
        )


def check_heads(subject: Subject, batch: Batch) -> None:
    """Refuse a decoder whose heads do not lie side by side before attention's output projection.

    What one group of heads keeps of earlier tokens is changed: these heads, and no others, must hand
    something else to the projection. One block of each kind of attention is tried.

    Args:
        subject: the model.
        batch: a prompt of at least two tokens.

    Raises:
        LayoutError: other parts change, or nothing does, or nothing is kept by group.
    """
    known = int(batch.last[0])
    prefix = read_prefix(subject, batch, known)
    if prefix is None:
        raise LayoutError(
            f"model '{subject.name}': it keeps no keys and values of earlier tokens in some blocks, so its "
            f"heads cannot be told apart; {OTHERS}"
        )
    kinds = {type(subject.attention(layer)): layer for layer in reversed(range(subject.n_layers))}
    for layer in sorted(kinds.values()):
        moved = moved_heads(subject, batch, prefix, layer)
        groups = len(moved)
        own = torch.arange(subject.n_heads) * groups // subject.n_heads == torch.arange(groups)[:, None]
        # A head that looks at nothing but its own token moves too little to be seen in 16 bits.
        some = (moved.masked_fill(~own, 0.0) != 0).any(dim=1)
        apart = (moved.masked_fill(own, 0.0) <= 1).all()
        if subject.n_heads % groups or not (some.all() and apart):
            raise LayoutError(
                f"model '{subject.name}': heads do not lie side by side before "
                f"{subject.layout.attention}.{subject.layout.projection} of block {layer} "
                f"({type(subject.attention(layer)).__name__}): a change in one of {groups} groups of them "
                f"moves others, or none; {OTHERS}"
            )


def moved_heads(subject: Subject, batch: Batch, prefix: Prefix, layer: int) -> Float[Tensor, "groups heads"]:
    """Return by how much heads put out something else when one group's values of earlier tokens change.

    Args:
        subject: the model.
        batch: one prompt.
        prefix: keys and values of all its tokens but the last.
        layer: block whose values are changed.

    Returns:
        Largest differences, in multiples of what rounding explains.
    """
    groups = prefix.blocks[layer][1].shape[1]
    blocks = [tuple(part.repeat(groups + 1, 1, 1, 1) for part in block) for block in prefix.blocks]
    values = blocks[layer][1]
    for group in range(groups):
        values[group + 1, group] += LARGER * values[0].abs().max()
    rows = make_batch(batch.input_ids.tolist() * (groups + 1), subject.pad_id, subject.bos_id)
    rows, past = rows.to(subject.device), Prefix(prefix.length, tuple(blocks)).past()
    projection = subject.attention_output(layer)
    with record_inputs({layer: projection}) as into, stop_after(subject.attention(layer)):
        subject.run_decoder(rows, subject.embed(rows)[:, prefix.length :], past)
    heads = into[layer].reshape(groups + 1, subject.n_heads, -1)
    return ((heads[1:] - heads[:1]).abs().amax(dim=-1) / rounding(heads[0]).max()).float().cpu()
