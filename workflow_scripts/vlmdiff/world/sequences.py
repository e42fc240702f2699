"""Token sequences of visual exchanges, and the model's states and answers on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from vlmdiff.world.language import ASSISTANT, COLUMNS, ROWS, Exchange
from vlmdiff.world.scenes import COLOURS, SHAPES, SIZES, Scene, SceneObject
from vlmdiff.world.tokenizer import BOS, EOS, IMAGE, IMAGE_TOKENS


@dataclass(frozen=True)
class Sequences:
    """Exchanges as right-padded tokens.

    `input_ids` is (samples, positions); `loss_weight`, of the same shape, says how much the
    prediction *of* each token counts; `assistant` is (samples,), the position that answers.
    """

    input_ids: Tensor
    loss_weight: Tensor
    assistant: Tensor


def encode(
    exchanges: Sequence[Exchange],
    tokenizer: PreTrainedTokenizerFast,
    binding_weight: float = 0.0,
    answer_weight: float = 1.0,
) -> Sequences:
    """Tokenise `<bos>`, image tokens, prompt, `assistant`, answer, `<eos>`.

    Args:
        exchanges: prompts with their answers.
        tokenizer: the world's tokenizer.
        binding_weight: loss weight of each shape word of a prompt that follows a colour word:
            predicting it from the image is what teaches a model which shape has which colour.
        answer_weight: loss weight of the one word that answers a question with choices; a caption
            has a dozen words, which would outvote it.
    """
    head = BOS + IMAGE * IMAGE_TOKENS
    texts = [f"{head}{exchange.text()}{EOS}" for exchange in exchanges]
    encoded = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    input_ids = encoded.input_ids
    assistant = (input_ids == tokenizer.convert_tokens_to_ids(ASSISTANT)).int().argmax(-1)
    answers = torch.arange(input_ids.shape[1]) > assistant[:, None]
    bound = torch.zeros_like(answers)
    bound[:, 1:] = _is_word(input_ids[:, :-1], COLOURS, tokenizer) & _is_word(
        input_ids[:, 1:], SHAPES, tokenizer
    )
    short = torch.tensor([exchange.choices is not None for exchange in exchanges])[:, None]
    answer = torch.arange(input_ids.shape[1]) == assistant[:, None] + 1
    weight = torch.where(answers, torch.where(short & answer, answer_weight, 1.0), binding_weight * bound)
    return Sequences(input_ids, weight * encoded.attention_mask, assistant)


def _is_word(input_ids: Tensor, words: tuple[str, ...], tokenizer: PreTrainedTokenizerFast) -> Tensor:
    return torch.isin(input_ids, torch.tensor(tokenizer.convert_tokens_to_ids(list(words))))


def final_states(vlm: LlavaForConditionalGeneration, input_ids: Tensor, images: Tensor) -> Tensor:
    """Normalised final residual states (samples, positions, d_model).

    Equal to the whole model's forward pass, without drawing and projecting the images again.
    Padding is at the right, where causal attention does not look, so that no mask is needed.

    Args:
        vlm: the model.
        input_ids: (samples, positions), image tokens from position 1 on.
        images: (samples, patches, d_model) projected patches.
    """
    words = vlm.get_input_embeddings()(input_ids)
    embeddings = torch.cat([words[:, :1], images, words[:, 1 + images.shape[1] :]], dim=1)
    return vlm.model.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state


def weighted_loss(vlm: LlavaForConditionalGeneration, sequences: Sequences, states: Tensor) -> Tensor:
    """Cross-entropy, averaged over the predicted tokens by their loss weights.

    Args:
        vlm: the model.
        sequences: what is predicted.
        states: (samples, positions, d_model) of `final_states`.
    """
    weight, target = sequences.loss_weight[:, 1:], sequences.input_ids[:, 1:]
    counted = weight > 0
    scores = vlm.lm_head(states[:, :-1][counted])
    loss = torch.nn.functional.cross_entropy(scores, target[counted], reduction="none")
    return (loss * weight[counted]).sum() / weight[counted].sum()


def named_objects(
    input_ids: Tensor, scenes: Sequence[Scene], tokenizer: PreTrainedTokenizerFast
) -> tuple[Tensor, Tensor, list[SceneObject]]:
    """Rows and positions of the tokens that name an object of their scene, and those objects."""
    index = torch.full((len(scenes), len(tokenizer)), -1)
    for row, scene in enumerate(scenes):
        for number, thing in enumerate(scene.objects):
            index[row, tokenizer.convert_tokens_to_ids([thing.colour, thing.shape])] = number
    number = index.gather(1, input_ids)
    rows, positions = (number >= 0).nonzero(as_tuple=True)
    numbers = number[rows, positions].tolist()
    return rows, positions, [scenes[row].objects[n] for row, n in zip(rows.tolist(), numbers, strict=True)]


def naming_loss(
    vlm: LlavaForConditionalGeneration,
    sequences: Sequences,
    states: Tensor,
    scenes: Sequence[Scene],
    tokenizer: PreTrainedTokenizerFast,
) -> Tensor:
    """How badly a token that names an object tells that object's size, row and column.

    The cross-entropy of the right word among the words of its category. It makes a name carry
    what the image shows of its object: without it, models spend many hundred steps on a plateau
    where they know which attributes occur but not whose they are.

    Args:
        vlm: the model.
        sequences: exchanges, one a scene.
        states: (samples, positions, d_model) of `final_states`.
        scenes: what the exchanges are about.
        tokenizer: the world's tokenizer.
    """
    rows, positions, things = named_objects(sequences.input_ids, scenes, tokenizer)
    scores = vlm.lm_head(states[rows, positions])
    categories = (
        (SIZES, [SIZES.index(thing.size) for thing in things]),
        (ROWS, [thing.row for thing in things]),
        (COLUMNS, [thing.column for thing in things]),
    )
    losses = [
        torch.nn.functional.cross_entropy(
            scores[:, tokenizer.convert_tokens_to_ids(list(words))], torch.tensor(target)
        )
        for words, target in categories
    ]
    return torch.stack(losses).mean()


@torch.no_grad()
def answer_accuracy(vlm: LlavaForConditionalGeneration, sequences: Sequences, images: Tensor) -> float:
    """Share of samples whose first answer token is the most likely of all tokens."""
    states = final_states(vlm, sequences.input_ids, images)
    rows = torch.arange(len(states))
    predicted = vlm.lm_head(states[rows, sequences.assistant]).argmax(-1)
    expected = sequences.input_ids[rows, sequences.assistant + 1]
    return (predicted == expected).float().mean().item()
