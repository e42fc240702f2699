"""The built-in world's sentences and its tokenizer, checked against the scenes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer

from vlmdiff.world.draw import draw_image
from vlmdiff.world.language import (
    COLUMNS,
    COUNTS,
    MAKERS,
    RELATIONS,
    ROWS,
    Exchange,
    document,
    possible_relations,
    relation_sentence,
    vocabulary,
)
from vlmdiff.world.scenes import Scene, SceneObject, draw_scene
from vlmdiff.world.seeds import random_stream
from vlmdiff.world.sequences import encode
from vlmdiff.world.tokenizer import BOS, EOS, IMAGE_TOKENS, build_processor, build_tokenizer

SEEDS = st.integers(0, 100_000)
QUESTION = "what shape is the red one ?"
USER_WITH_IMAGE = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
USER_TEXT = [{"role": "user", "content": QUESTION}]


def exchange_of(kind: str, seed: int) -> tuple[Scene, Exchange]:
    rng = random_stream(seed, kind)
    scene = draw_scene(rng)
    return scene, MAKERS[kind](scene, rng)


def named(scene: Scene, words: str) -> SceneObject:
    """The object whose colour and shape words are in a text."""
    return next(thing for thing in scene.objects if f"{thing.colour} {thing.shape}" in words)


@given(SEEDS, st.sampled_from(sorted(RELATIONS)), st.booleans())
def test_statements_say_what_is_true(seed: int, name: str, truth: bool):
    scene = draw_scene(random_stream(seed))
    relation = RELATIONS[name]
    if relation not in possible_relations(scene):
        with pytest.raises(ValueError, match="undefined"):
            relation_sentence(scene, relation, truth)
        return
    left, right = relation_sentence(scene, relation, truth).split(f" is {name} ")
    assert relation.holds(named(scene, left), named(scene, right)) == truth


@given(SEEDS)
def test_a_relation_excludes_its_opposite(seed: int):
    first, second = draw_scene(random_stream(seed)).objects
    for name, opposite in (("left of", "right of"), ("above", "below")):
        assert RELATIONS[name].holds(first, second) == RELATIONS[opposite].holds(second, first)
        assert not (RELATIONS[name].holds(first, second) and RELATIONS[opposite].holds(first, second))


@given(SEEDS)
def test_answers_agree_with_the_scene(seed: int):
    scene, question = exchange_of("row", seed)
    assert question.answer == ROWS[named(scene, question.prompt).row]
    scene, question = exchange_of("column", seed)
    assert question.answer == COLUMNS[named(scene, question.prompt).column]
    scene, question = exchange_of("size", seed)
    assert question.answer == named(scene, question.prompt).size
    scene, question = exchange_of("shape", seed)
    assert (question.prompt.split()[4], question.answer) in {(o.colour, o.shape) for o in scene.objects}
    scene, question = exchange_of("colour", seed)
    assert (question.answer, question.prompt.split()[4]) in {(o.colour, o.shape) for o in scene.objects}
    scene, question = exchange_of("existence", seed)
    present = question.prompt.split()[3] in {o.colour for o in scene.objects}
    assert question.answer == ("yes" if present else "no")
    scene, question = exchange_of("count", seed)
    assert question.answer == COUNTS[sum(o.size == question.prompt.split()[2] for o in scene.objects)]


@given(SEEDS)
def test_relation_questions_agree_with_the_scene(seed: int):
    scene, question = exchange_of("relation", seed)
    subject, reference = re.findall(r"the (\w+ \w+)", question.prompt)
    relation = next(r for name, r in RELATIONS.items() if name.removesuffix(" of") == question.answer)
    assert relation.holds(named(scene, subject), named(scene, reference))


@given(SEEDS, st.sampled_from(sorted(MAKERS)))
def test_answers_are_among_the_choices(seed: int, kind: str):
    _, exchange = exchange_of(kind, seed)
    assert exchange.kind == kind
    assert exchange.choices is None or exchange.answer in exchange.choices


def test_the_vocabulary_is_exactly_what_sentences_use():
    rng = random_stream(0)
    texts = [document(draw_scene(rng), rng) for _ in range(3_000)]
    assert {word for text in texts for word in text.split()} == set(vocabulary())


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    """The processor as a reader of a checkpoint gets it: saved and loaded again."""
    folder = tmp_path_factory.mktemp("processor")
    build_processor(build_tokenizer()).save_pretrained(folder)
    return AutoProcessor.from_pretrained(folder)


def test_the_chat_template_writes_the_training_format(processor):
    rendered = processor.apply_chat_template(USER_WITH_IMAGE, add_generation_prompt=True)
    assert rendered == f"{BOS}<image>{QUESTION} assistant"
    answered = [*USER_TEXT, {"role": "assistant", "content": "circle"}]
    rendered = processor.tokenizer.apply_chat_template(answered, tokenize=False)
    assert rendered == f"{BOS}{QUESTION} assistant circle{EOS}"


def test_template_and_training_give_the_same_ids(processor):
    scene = draw_scene(random_stream(0))
    exchange = Exchange("shape", "shape", QUESTION, "circle", None)
    trained = encode([exchange], processor.tokenizer)
    text = processor.apply_chat_template(USER_WITH_IMAGE, add_generation_prompt=True)
    asked = processor(images=[draw_image(scene)], text=[text], add_special_tokens=False, return_tensors="pt")
    length = asked.input_ids.shape[1]
    assert asked.input_ids.tolist() == trained.input_ids[:, :length].tolist()
    assert trained.assistant.item() == length - 1
    assert (asked.input_ids == processor.image_token_id).sum() == IMAGE_TOKENS


def test_raw_text_gets_one_bos_and_agrees_with_the_template(processor, tmp_path):
    processor.tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rendered = tokenizer.apply_chat_template(USER_TEXT, tokenize=False, add_generation_prompt=True)
    raw = tokenizer(f"{QUESTION} assistant").input_ids
    assert tokenizer(rendered, add_special_tokens=False).input_ids == raw
    assert raw.count(tokenizer.bos_token_id) == 1
    assert tokenizer.unk_token_id not in raw
