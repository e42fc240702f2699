"""A model's own words: greedy, equal to transformers' generation, stopped where they must stop."""

import pytest
import torch
from PIL import Image

from vlmdiff.activations.tokens import TEXT
from vlmdiff.models import describe as module
from vlmdiff.models import prefix
from vlmdiff.models.describe import describe, rows_of, tokens_of_words
from vlmdiff.models.prefix import Prefix
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
    monkeypatch.setattr(subject, "final_logits", lambda batch, past=None: logits)
    longer = rows_of(describe(subject, batch, 2, ()))
    assert [len(row) - len(prompt) for row, prompt in zip(longer, rows_of(batch))] == [0, 2]


def test_who_has_finished_says_no_more(subject, batch, monkeypatch):
    """The first sample stops at once, and would speak again at the next step."""
    red, blue = (subject.tokenizer.convert_tokens_to_ids(word) for word in ("red", "blue"))
    spoken = iter([[blue, red], [red, red], [red, red]])

    def logits(_batch, past=None):
        return torch.nn.functional.one_hot(torch.tensor(next(spoken)), len(subject.tokenizer)).float()

    monkeypatch.setattr(module, "kept_prefix", lambda *_: None)
    monkeypatch.setattr(subject, "final_logits", logits)
    longer = rows_of(describe(subject, batch, 3, {blue}))
    assert [row[len(before) :] for row, before in zip(longer, rows_of(batch))] == [[], [red] * 3]


def test_tokens_that_all_prompts_share_run_once(subject, batch, monkeypatch):
    widths = []
    handle = subject.block(1).register_forward_pre_hook(
        lambda _m, args, kwargs: widths.append((args[0] if args else kwargs["hidden_states"]).shape[1]),
        with_kwargs=True,
    )
    found = rows_of(describe(subject, batch, 4, ()))
    handle.remove()
    whole, shared = batch.input_ids.shape[1], int(batch.last.min())
    assert shared > 9, "images lie before the last token"
    # The whole prompt, twice; a try of what was kept; then what differs, one own word longer at each step.
    assert widths == [whole, whole, *(whole - shared + own for own in (0, 1, 2, 3))]
    monkeypatch.setattr(module, "kept_prefix", lambda *_: None)
    assert rows_of(describe(subject, batch, 4, ())) == found


def test_a_decoder_that_does_not_go_on_from_a_prefix_says_the_same(subject, batch, monkeypatch):
    expected = rows_of(describe(subject, batch, 4, ()))
    monkeypatch.setattr(prefix, "read_prefix", lambda *_: Prefix(3, ()))
    assert rows_of(describe(subject, batch, 4, ())) == expected


def test_without_memory_nothing_is_kept(subject, batch, monkeypatch):
    expected = rows_of(describe(subject, batch, 4, ()))
    monkeypatch.setattr(module, "spare_bytes", lambda device, on_cpu: 1000)
    monkeypatch.setattr(module, "trusted_prefix", None)
    assert rows_of(describe(subject, batch, 4, ())) == expected


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
