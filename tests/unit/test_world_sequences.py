"""Loss weights of the tuning sequences, and the loss that makes names tell attributes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdiff.world.language import MAKERS, Exchange
from vlmdiff.world.scenes import COLOURS, SIZES, Scene, draw_scene
from vlmdiff.world.seeds import random_stream
from vlmdiff.world.sequences import encode, named_objects, naming_loss
from vlmdiff.world.tokenizer import EOS, build_tokenizer

TOKENIZER = build_tokenizer()


def exchange_of(kind: str, seed: int) -> tuple[Scene, Exchange]:
    rng = random_stream(seed, kind)
    scene = draw_scene(rng)
    return scene, MAKERS[kind](scene, rng)


def tokens_of(input_ids: torch.Tensor) -> list[str]:
    return TOKENIZER.convert_ids_to_tokens(input_ids.tolist())


@settings(max_examples=20)
@given(st.integers(0, 100_000))
def test_loss_falls_on_answers_and_bound_shapes_only(seed: int):
    _, exchange = exchange_of("size", seed)
    sequences = encode([exchange], TOKENIZER, binding_weight=0.5, answer_weight=5.0)
    tokens, weights = tokens_of(sequences.input_ids[0]), sequences.loss_weight[0].tolist()
    counted = {token: weight for token, weight in zip(tokens, weights, strict=True) if weight > 0}
    assert counted == {exchange.prompt.split()[-2]: 0.5, exchange.answer: 5.0, EOS: 1.0}


def test_words_of_a_caption_count_one_each():
    _, exchange = exchange_of("caption", 0)
    sequences = encode([exchange], TOKENIZER, answer_weight=5.0)
    after = sequences.loss_weight[0, sequences.assistant.item() + 1 :]
    assert after.tolist() == [1.0] * (len(exchange.answer.split()) + 1)


def test_padding_has_no_weight():
    exchanges = [exchange_of(kind, 0)[1] for kind in ("existence", "description")]
    sequences = encode(exchanges, TOKENIZER)
    padded = sequences.input_ids == TOKENIZER.pad_token_id
    assert padded.any()
    assert not sequences.loss_weight[padded].any()


@given(st.integers(0, 100_000), st.sampled_from(["statement", "description", "shape", "colour"]))
def test_names_are_the_colour_and_shape_words_of_objects_in_the_scene(seed: int, kind: str):
    scene, exchange = exchange_of(kind, seed)
    input_ids = encode([exchange], TOKENIZER).input_ids
    rows, positions, things = named_objects(input_ids, [scene], TOKENIZER)
    words = tokens_of(input_ids[0])
    assert set(rows.tolist()) == {0}
    assert all(words[p] in (t.colour, t.shape) for p, t in zip(positions.tolist(), things, strict=True))
    mentioned = [word for word in words if any(word in (o.colour, o.shape) for o in scene.objects)]
    assert len(things) == len(mentioned)


def test_colours_of_absent_objects_name_nothing():
    scene, _ = exchange_of("existence", 0)
    absent = next(c for c in COLOURS if c not in {thing.colour for thing in scene.objects})
    question = Exchange("existence", "existence", f"is there a {absent} one ?", "no", ("yes", "no"))
    assert named_objects(encode([question], TOKENIZER).input_ids, [scene], TOKENIZER)[2] == []


class Reading(torch.nn.Module):
    """Stands for a VLM whose states are word scores already."""

    def lm_head(self, states: torch.Tensor) -> torch.Tensor:
        return states


def test_naming_loss_is_the_mean_cross_entropy_over_categories():
    scene, exchange = exchange_of("statement", 1)
    sequences = encode([exchange], TOKENIZER)
    states = torch.zeros(*sequences.input_ids.shape, len(TOKENIZER))
    loss = naming_loss(Reading(), sequences, states, [scene], TOKENIZER)
    assert loss.item() == pytest.approx((math.log(len(SIZES)) + 2 * math.log(3)) / 3)
    _, positions, things = named_objects(sequences.input_ids, [scene], TOKENIZER)
    for position, thing in zip(positions.tolist(), things, strict=True):
        states[0, position, TOKENIZER.convert_tokens_to_ids(thing.size)] = 100.0
    loss = naming_loss(Reading(), sequences, states, [scene], TOKENIZER)
    assert loss.item() == pytest.approx(2 * math.log(3) / 3, abs=1e-5)
