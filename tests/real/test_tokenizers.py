"""Vocabularies of Llama 3, Llama 4 and Qwen: labels, chat formats, token types, by their packages' code."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from vocabularies import VOCABULARIES, Vocabulary, build

from vlmdiff.activations.tokens import BOS, PADDING, TEXT
from vlmdiff.models.registry import load_subject
from vlmdiff.models.token_text import TokenTexts, quoted

DOCUMENTS = [
    "The cat is left of the dog; it isn't above it.\n\n  Two blanks, 1234567 and naïve café.",
    "左边的猫在狗的上面。🐈‍⬛",
    " a document that begins with a blank",
    'def f(x):\n\treturn x  # tabs, "quotes" and \\backslashes',
]
MARKS = {"llama 3": "<|eot_id|>", "llama 4": "<|eot|>", "qwen": "<|im_end|>"}


@pytest.fixture(scope="module", params=sorted(VOCABULARIES))
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def vocabulary(name: str) -> Vocabulary:
    return VOCABULARIES[name]()


@pytest.fixture(scope="module")
def folder(vocabulary: Vocabulary, tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("real") / "lm", vocabulary)


@pytest.fixture(scope="module")
def subject(folder: Path):
    return load_subject("lm", {"family": "causal_lm"}, folder, "cpu")


def first(subject) -> list[int]:
    bos = subject.tokenizer.bos_token_id
    return [] if bos is None else [bos]


def test_documents_have_the_tokens_of_the_packages_own_encoder(subject, vocabulary):
    """One BOS for Llama and none for Qwen; alone and together."""
    expected = [
        first(subject) + vocabulary.reference.encode(text, disallowed_special=()) for text in DOCUMENTS
    ]
    sizes = [None] * len(DOCUMENTS)
    assert subject.rows(DOCUMENTS, sizes, as_chat=False) == expected
    assert [subject.rows([one], [None], as_chat=False)[0] for one in DOCUMENTS] == expected
    if subject.tokenizer.bos_token:
        again = [f"{subject.tokenizer.bos_token}{text}" for text in DOCUMENTS]
        assert subject.rows(again, sizes, as_chat=False) == expected


def test_every_token_is_named_by_the_bytes_that_it_writes(subject, vocabulary):
    """All of a vocabulary of 128,000 to 200,000: no text is lost, and each name is one line."""
    texts, size = TokenTexts(subject.tokenizer), vocabulary.reference.n_vocab
    for token in range(size):
        text = texts.text(token)
        raw = text if isinstance(text, bytes) else text.encode()
        assert raw == vocabulary.reference.decode_single_token_bytes(token), token
        shown = texts.name(token)
        assert shown.strip() == shown and shown.isprintable() and shown, token
    names = {texts.name(token) for token in range(size)}
    assert len(names) > 0.999 * size
    assert texts.name(size + 5) == f"<no token {size + 5}>"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" left", "' left'"),
        ("left", "'left'"),
        ("\n", "'\\n'"),
        ("'s", '"\'s"'),
        ("左", "'左'"),
        ("\n\n", "'\\n\\n'"),
        (" \\", "' \\\\'"),
    ],
)
def test_labels_of_words_that_matter(subject, vocabulary, text, label):
    token = vocabulary.reference.encode_single_token(text)
    assert quoted(TokenTexts(subject.tokenizer).name(token)) == label


def test_a_byte_of_a_character_is_a_byte(subject, vocabulary):
    token = vocabulary.reference.encode_single_token(b"\xe5")
    assert quoted(TokenTexts(subject.tokenizer).name(token)) == "<0xE5>"


def test_a_question_is_a_conversation_of_one_turn(subject, vocabulary, name):
    """Llama's by its package's own format, Qwen's ChatML sign by sign."""
    question = "Where is the dog?"
    found = subject.rows([question], [None])[0]
    special = set(vocabulary.special)
    encode = vocabulary.reference.encode
    if name == "llama 3":
        from llama_models.datatypes import RawMessage
        from llama_models.llama3.chat_format import ChatFormat
        from llama_models.llama3.tokenizer import Tokenizer

        dialog = [RawMessage(role="user", content=question)]
        expected = ChatFormat(Tokenizer(vocabulary.file)).encode_dialog_prompt(dialog).tokens
    elif name == "llama 4":
        text = "<|begin_of_text|><|header_start|>user<|header_end|>\n\n" + question
        expected = encode(
            text + "<|eot|><|header_start|>assistant<|header_end|>\n\n", allowed_special=special
        )
    else:
        text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        expected = encode(text, allowed_special=special)
    assert found == expected


def test_a_mark_in_a_caption_ends_no_turn(subject, vocabulary, name):
    mark = MARKS[name]
    plain, marked = subject.rows(["a sign", f"a sign {mark}"], [None] * 2)
    ends = vocabulary.reference.encode_single_token(mark)
    assert plain.count(ends) == marked.count(ends)
    assert vocabulary.reference.decode(marked).count(mark) == plain.count(ends) + 1
    document = subject.rows([f"a sign {mark}"], [None], as_chat=False)[0]
    assert ends not in document
    assert vocabulary.reference.decode(document).endswith(f"a sign {mark}")


def test_types_of_tokens(subject):
    """Only what begins a sequence is BOS, whichever token that is; all else is text, or padding."""
    batch = subject.prepare(DOCUMENTS, [None] * len(DOCUMENTS), as_chat=False)
    for types, last in zip(batch.token_type.tolist(), batch.last.tolist(), strict=True):
        assert types == [BOS] + [TEXT] * last + [PADDING] * (len(types) - last - 1)


def test_the_day_of_a_template_is_the_configs(folder, subject, name):
    """Llama 4's published template tells the day where tools are offered; the fingerprint records it."""
    other = load_subject("lm", {"family": "causal_lm", "prompt_date": date(2025, 1, 2)}, folder, "cpu")
    assert (other.fingerprint != subject.fingerprint) == (name == "llama 4")
    assert other.rows(["Where?"], [None]) == subject.rows(["Where?"], [None])
