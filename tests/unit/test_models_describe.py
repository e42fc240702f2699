"""A model's own words: greedy, equal to transformers' generation, stopped where they must stop."""

import pytest
import torch
from PIL import Image

from vlmdiff.activations.tokens import TEXT
from vlmdiff.models.describe import describe, rows_of, tokens_of_words
from vlmdiff.models.registry import load_subject

SPEC = {"family": "llava", "dtype": "float32", "attention": "sdpa"}
PROMPTS = ["left of the red circle ?", "red"]
IMAGES = [Image.new("RGB", (36, 36), "red"), Image.new("RGB", (36, 36))]


@pytest.fixture(scope="module")
def subject(tiny_vlm_path):
    return load_subject("vlm", SPEC, tiny_vlm_path)


@pytest.fixture
def batch(subject):
    return subject.prepare(PROMPTS, IMAGES)


def test_continuation_equals_transformers_greedy_generation(subject, batch):
    eos = subject.tokenizer.eos_token_id
    longer = describe(subject, batch, 4, ())
    assert longer.generated.tolist() == [
        len(row) - len(prompt) for row, prompt in zip(rows_of(longer), rows_of(batch), strict=True)
    ]
    pixels = subject.processor.image_processor(IMAGES, return_tensors="pt").pixel_values
    for index, row in enumerate(rows_of(longer)):
        prompt = rows_of(batch)[index]
        spoken = subject.model.generate(
            input_ids=torch.tensor([prompt]),
            pixel_values=pixels[index : index + 1],
            max_new_tokens=4,
            do_sample=False,
        )[0, len(prompt) :].tolist()
        expected = spoken[: spoken.index(eos)] if eos in spoken else spoken
        assert row == prompt + expected


def test_nothing_is_added_for_zero_steps(subject, batch):
    assert describe(subject, batch, 0, ()) is batch


def test_a_word_that_must_not_be_said_ends_the_continuation(subject, batch):
    free = rows_of(describe(subject, batch, 4, ()))
    first = free[0][len(rows_of(batch)[0])]
    assert rows_of(describe(subject, batch, 4, {first}))[0] == rows_of(batch)[0]


def test_a_placeholder_of_an_image_is_no_word(subject, batch, monkeypatch):
    """An untuned model may well say it; there is no image for it."""
    logits = torch.zeros(len(PROMPTS), len(subject.tokenizer))
    logits[0, subject.image_id] = logits[1, subject.tokenizer.convert_tokens_to_ids("red")] = 1.0
    monkeypatch.setattr(subject, "final_logits", lambda batch: logits)
    longer = rows_of(describe(subject, batch, 2, ()))
    assert [len(row) - len(prompt) for row, prompt in zip(longer, rows_of(batch))] == [0, 2]


def test_who_has_finished_says_no_more(subject, batch, monkeypatch):
    """The first sample stops at once, and would speak again at the next step."""
    red, blue = (subject.tokenizer.convert_tokens_to_ids(word) for word in ("red", "blue"))
    spoken = iter([[blue, red], [red, red], [red, red]])
    logits = lambda _: torch.nn.functional.one_hot(torch.tensor(next(spoken)), len(subject.tokenizer)).float()  # noqa: E731
    monkeypatch.setattr(subject, "final_logits", logits)
    longer = rows_of(describe(subject, batch, 3, {blue}))
    assert [row[len(before) :] for row, before in zip(longer, rows_of(batch))] == [[], [red] * 3]


def test_own_words_are_text_tokens(subject, batch):
    longer = describe(subject, batch, 3, ())
    added = longer.last - batch.last
    text = (longer.token_type == TEXT).sum(1) - (batch.token_type == TEXT).sum(1)
    assert torch.equal(text, added)


def test_tokens_of_words_ignore_case_and_blanks(subject):
    vocabulary = subject.tokenizer.get_vocab()
    assert tokens_of_words(subject.tokenizer, ["LEFT", "no such word"]) == {vocabulary["left"]}


def test_words_are_found_with_blanks_around_them_and_in_any_case():
    class Tokenizer:
        def get_vocab(self):
            return {"_left": 1, "Left": 2, "left": 3, "lefty": 4, "LEFT_": 5, "right": 6}

        def convert_tokens_to_string(self, tokens):
            return "".join(tokens).replace("_", " ")

    assert tokens_of_words(Tokenizer(), ["Left"]) == {1, 2, 3, 5}
