"""Where the parts of a decoder are, by the names that transformers' families give them.

Names alone prove nothing: a module that bears the right one may add its output elsewhere, scale it, or
normalise it first. So a layout is verified: what a block puts out is what entered it plus what its two
writers put out, at every block, or the model is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vlmdiff.models.errors import LayoutError
from vlmdiff.models.hooks import record_inputs, record_outputs

if TYPE_CHECKING:
    from vlmdiff.models.batch import Batch
    from vlmdiff.models.subject import Subject

# Below the language model without its head.
BLOCKS = ("layers", "h", "blocks", "decoder.layers")
NORMS = (
    "norm",
    "ln_f",
    "final_layer_norm",
    "final_layernorm",
    "norm_f",
    "layer_norm",
    "decoder.final_layer_norm",
)
# Below a block; GPT-Neo's `attn` only chooses between kinds of attention.
ATTENTIONS = ("self_attn", "attn.attention", "attn", "self_attention", "attention")
MLPS = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "fc2")
# Below attention: the projection whose input holds the heads side by side.
PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "wo")
# Below a block: what adds to the residual stream, for attention and for the MLP. Where both are normalised
# once more, the norms add; BLOOM and MPT hand the residual stream into their modules, so that only the last
# projection in them adds.
NORMALISED = (
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
)
PROJECTED = ("dense_4h_to_h", "down_proj")
OTHERS = "use a decoder-only model of a layout that docs/configure/model_families.md lists"
# Rounding of a sum of three, in units of the last place of the largest.
UNITS = 16


@dataclass(frozen=True)
class Layout:
    """Dotted names of a decoder's parts.

    Attributes:
        blocks, norm: list of blocks and final norm, below the language model.
        attention, mlp: below a block.
        projection: output projection, below attention.
        writers: what attention and MLP add to the residual stream, below a block.
        tuples: whether a block returns its output as the first of several.
    """

    blocks: str
    norm: str
    attention: str
    mlp: str
    projection: str
    writers: tuple[str, str]
    tuples: bool = False


def part(module: nn.Module, name: str) -> nn.Module | None:
    """Return the part of a module that a dotted name leads to; None if there is none."""
    for step in name.split("."):
        module = getattr(module, step, None)
    return module if isinstance(module, nn.Module) else None


def first(module: nn.Module, names: Sequence[str]) -> str | None:
    """Return the first of several names under which a module has a part."""
    return next((name for name in names if part(module, name) is not None), None)


def find_layout(model: str, decoder: nn.Module) -> Layout:
    """Find the parts of a decoder by name.

    Raises:
        LayoutError: naming what is missing, and what there is instead.
    """

    def found(what: str, module: nn.Module, names: Sequence[str], where: str) -> str:
        name = first(module, names)
        if name is None:
            there = ", ".join(child for child, _ in module.named_children()) or "nothing"
            raise LayoutError(
                f"model '{model}': found no {what} in {where} ({type(module).__name__}: {there}), expected "
                f"one named {' or '.join(names)}; {OTHERS}"
            )
        return name

    blocks = found("list of blocks", decoder, BLOCKS, "its decoder")
    norm = found("final norm", decoder, NORMS, "its decoder")
    names = set()
    for index, block in enumerate(part(decoder, blocks)):
        attention = found("attention", block, ATTENTIONS, f"block {index}")
        projection = found(
            "output projection", part(block, attention), PROJECTIONS, f"{attention} of {index}"
        )
        names.add((attention, found("MLP", block, MLPS, f"block {index}"), projection))
    if len(names) != 1:
        raise LayoutError(
            f"model '{model}': found blocks of {len(names)} kinds ({sorted(names)}), expected all alike; "
            f"{OTHERS}"
        )
    attention, mlp, projection = names.pop()
    writers = next(writers_of(part(decoder, blocks), attention, mlp, projection))
    return Layout(blocks, norm, attention, mlp, projection, writers)


def writers_of(
    blocks: Iterable[nn.Module], attention: str, mlp: str, projection: str
) -> Iterator[tuple[str, str]]:
    """Yield the pairs of modules that may be what a block adds, the likeliest first."""
    projected = [(f"{attention}.{projection}", f"{mlp}.{name}") for name in PROJECTED]
    for pair in (*NORMALISED, (attention, mlp), *projected):
        if all(part(block, name) is not None for block in blocks for name in pair):
            yield pair


def head_width(model: str, projection: nn.Module, n_heads: int) -> int:
    """Return how many values each head hands to the output projection, a linear layer or GPT-2's own kind.

    Raises:
        LayoutError: heads do not share the projection's input evenly.
    """
    width = getattr(projection, "in_features", None) or projection.weight.shape[0]
    if width % n_heads:
        raise LayoutError(
            f"model '{model}': found {width} values before the output projection of attention, expected a "
            f"multiple of its {n_heads} heads; {OTHERS}"
        )
    return width // n_heads


@torch.no_grad()
def verified(subject: Subject, batch: Batch) -> Layout:
    """Return the subject's layout with the writers that add up, at every block.

    Args:
        subject: the model, with a layout whose writers are a guess.
        batch: any prompt.

    Raises:
        LayoutError: none of the pairs adds up.
    """
    layout, blocks = subject.layout, dict(enumerate(subject.blocks))
    pairs = list(writers_of(blocks.values(), layout.attention, layout.mlp, layout.projection))
    tuples: list[bool] = []
    with ExitStack() as stack:
        entering = stack.enter_context(record_inputs(blocks))
        # Falcon adds attention to the MLP's output in place.
        leaving = stack.enter_context(record_outputs(blocks, torch.clone))
        written = {}
        for name in sorted({name for pair in pairs for name in pair}):
            modules = {index: part(block, name) for index, block in blocks.items()}
            written[name] = stack.enter_context(record_outputs(modules, torch.clone))
        handle = blocks[0].register_forward_hook(lambda _m, _a, out: tuples.append(isinstance(out, tuple)))
        stack.callback(handle.remove)
        subject.run_decoder(batch, subject.embed(batch))
    scale = getattr(subject.model.config.get_text_config(), "residual_multiplier", 1.0)
    for pair in pairs:
        parts = {index: [written[name][index] for name in pair] for index in blocks}
        if all(adds_up(entering[index], parts[index], scale, leaving[index]) for index in blocks):
            return replace(layout, writers=pair, tuples=tuples[0])
    raise LayoutError(
        f"model '{subject.name}': a block's output is not its input plus what attention and MLP put out "
        f"(tried {pairs}), so what each of them writes to the residual stream is not known; {OTHERS}"
    )


def adds_up(entering: Tensor, parts: Sequence[Tensor], scale: float, leaving: Tensor) -> bool:
    """Tell whether a block's output is its input plus its parts, up to rounding."""
    if any(one.numel() != leaving.numel() for one in parts):
        return False
    wide = [one.to(leaving.device, torch.float64).reshape(leaving.shape) for one in (entering, *parts)]
    total = wide[0] + scale * sum(wide[1:])
    largest = torch.stack([total, *wide]).abs().amax(dim=0)
    return bool(((total - leaving).abs() <= UNITS * torch.finfo(leaving.dtype).eps * largest).all())
