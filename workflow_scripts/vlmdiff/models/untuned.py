"""A vision-language model whose language model was never tuned: the weights of another one in its frame.

Tower, connector, tokenizer and prompts stay those of the checkpoint. What features do in such a model no
tuning has taught them: a null that sees image tokens (docs/understand/controls.md).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlmdiff.models.causal_lm import CausalLM
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.fingerprint import with_untuned
from vlmdiff.models.vlm import VisionLanguageModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# Of the random connector, which is the same in every run.
SEED = 0
SHAPE = {
    "d_model": "residual width",
    "n_layers": "number of blocks",
    "n_heads": "number of heads",
    "d_head": "width of a head",
}
# Settings of the frame that stay, and by which it computes other things of the same weights.
SETTINGS = ("hidden_act", "hidden_activation", "rms_norm_eps", "sliding_window", "attn_logit_softcapping")
SETTINGS += ("query_pre_attn_scalar", "final_logit_softcapping")
ROPE_SETTINGS = ("rope_type", "rope_theta", "factor")
WANTED = "name the language model that it was tuned from in `untuned`"
log = logging.getLogger(__name__)


@torch.no_grad()
def put_untuned(subject: VisionLanguageModel, text: CausalLM, projector: str) -> None:
    """Copy a language model's weights into the place of a vision-language model's own, by name.

    Where the vision-language model knows more tokens, their rows (of `<image>` and the like) stay.

    Args:
        subject: the vision-language model; changed in place, its fingerprint too.
        text: the language model that it was tuned from.
        projector: `tuned` keeps the connector, `random` draws its parameters anew.

    Raises:
        SubjectError: the language model does not fit into the frame; nothing is changed then.
    """
    check_shape(subject, text)
    check_vocabularies(subject, text)
    into, of = language_weights(subject), language_weights(text)
    check_weights(subject.name, into, of, vocabulary_weights(subject))
    if is_tied(subject) and not is_tied(text):
        raise SubjectError(
            f"model '{subject.name}': its head is its embeddings, expected the same of the language model, "
            f"whose head has weights of its own; {WANTED}"
        )
    for name, weight in of.items():
        into[name][: len(weight)].copy_(weight)
    if told := other_settings(subject.model.config.get_text_config(), text.model.config.get_text_config()):
        log.warning(
            "model '%s' computes with settings of its frame, of text alone too: %s", subject.name, told
        )
    if projector == "random":
        redraw(subject.connectors)
    subject.fingerprint = with_untuned(subject.fingerprint, text.fingerprint, projector)


def language_weights(subject: VisionLanguageModel | CausalLM) -> dict[str, Tensor]:
    """Return the weights of a decoder and its head, by names that do not depend on where it is."""
    decoder = {f"decoder.{name}": weight for name, weight in subject.decoder.state_dict().items()}
    return decoder | {f"head.{name}": weight for name, weight in subject.head.state_dict().items()}


def vocabulary_weights(subject: VisionLanguageModel) -> set[str]:
    """Return the names of the weights that have one row a token."""
    embeddings = subject.model.get_input_embeddings().weight
    found = {f"decoder.{name}" for name, one in subject.decoder.named_parameters() if one is embeddings}
    return found | {f"head.{name}" for name in subject.head.state_dict()}


def is_tied(subject: VisionLanguageModel | CausalLM) -> bool:
    """Tell whether the head's weights are those of the embeddings."""
    return subject.head.weight is subject.model.get_input_embeddings().weight


def check_shape(subject: VisionLanguageModel, text: CausalLM) -> None:
    """Refuse a language model of another width, depth or number of heads.

    Raises:
        SubjectError: naming what differs.
    """
    wrong = [
        f"{what} {getattr(text, key)}, expected {getattr(subject, key)}"
        for key, what in SHAPE.items()
        if getattr(text, key) != getattr(subject, key)
    ]
    if wrong:
        raise SubjectError(f"model '{subject.name}': found a language model of {'; '.join(wrong)}; {WANTED}")


def check_vocabularies(subject: VisionLanguageModel, text: CausalLM) -> None:
    """Refuse a language model that writes its words as other tokens; special tokens may differ.

    Raises:
        SubjectError: naming a word.
    """
    known = subject.tokenizer.get_vocab()
    own = own_words(text.tokenizer)
    if wrong := sorted(word for word, index in own.items() if known.get(word) != index):
        first = wrong[0]
        raise SubjectError(
            f"model '{subject.name}': found a language model with another vocabulary ({len(wrong)} of "
            f"{len(own)} words have other tokens: {first!r} is {own[first]}, here {known.get(first)}), "
            f"expected the same; {WANTED}"
        )


def own_words(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return a vocabulary without what was added to it."""
    added = tokenizer.get_added_vocab()
    return {word: index for word, index in tokenizer.get_vocab().items() if word not in added}


def check_weights(
    model: str, into: Mapping[str, Tensor], of: Mapping[str, Tensor], by_token: set[str]
) -> None:
    """Refuse weights of other names or shapes, and a frame whose weights are not in memory.

    Args:
        model: name of the vision-language model.
        into, of: weights of the frame and of the language model.
        by_token: names of weights that have one row a token, of which the frame may have more.

    Raises:
        SubjectError: naming the first of them.
    """
    if others := sorted(set(into) ^ set(of)):
        raise SubjectError(
            f"model '{model}': found a language model of another architecture ({len(others)} weights have no "
            f"counterpart, among them {others[0]}), expected the same weights; {WANTED}"
        )
    for name, weight in of.items():
        frame = into[name]
        more = name in by_token and frame.shape[1:] == weight.shape[1:] and len(frame) > len(weight)
        if frame.shape != weight.shape and not more:
            raise SubjectError(
                f"model '{model}': {name} of the language model has shape {tuple(weight.shape)}, expected "
                f"{tuple(frame.shape)}{' or fewer rows' * (name in by_token)}; {WANTED}"
            )
        if frame.is_meta:
            raise SubjectError(
                f"model '{model}': `device_map` keeps {name} out of memory, expected all weights in it; "
                "leave `device_map` out or use devices that hold the model"
            )


def other_settings(frame: PretrainedConfig, text: PretrainedConfig) -> str:
    """Say which settings of the frame, but for its weights, the language model has otherwise."""
    mine, theirs = (settings_of(config) for config in (frame, text))
    return ", ".join(
        f"{name} {mine[name]} (the language model: {theirs[name]})"
        for name in mine
        if mine[name] != theirs[name]
    )


def settings_of(config: PretrainedConfig) -> dict[str, Any]:
    """Return the settings of a decoder that change what it computes."""
    rope = getattr(config, "rope_parameters", None) or {}
    return {name: getattr(config, name, None) for name in SETTINGS} | {
        name: rope.get(name) for name in ROPE_SETTINGS
    }


def redraw(modules: tuple[nn.Module, ...]) -> None:
    """Draw every parameter anew: normal, with the mean and standard deviation of its old values."""
    generator = torch.Generator().manual_seed(SEED)
    for module in modules:
        for parameter in module.parameters():
            old = parameter.detach().float()
            drawn = torch.randn(parameter.shape, generator=generator).to(old.device)
            parameter.copy_(old.mean() + old.std(correction=0) * drawn)
