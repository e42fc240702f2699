"""Tokenizers that lie in a tokenizer.model, of SentencePiece or of tiktoken, without a tokenizer.json."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import tiny_llava_original
from damage import refused
from tiny_tokenizers import SENTENCES
from transformers.convert_slow_tokenizer import TikTokenConverter

from vlmdiff.figures.gallery_table import load_tokenizer, prompt_spans
from vlmdiff.models.registry import load_subject
from vlmdiff.models.token_text import TokenTexts

ROOT = Path(__file__).parents[2]
TEXT = "Where is the dog?"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a checkpoint whose tokenizer files are gone."""
    folder = tiny_llava_original.build_lm(tmp_path / "lm")
    for name in ("tokenizer.json", "chat_template.jinja", "tokenizer_config.json"):
        (folder / name).unlink()
    return folder


def load(folder: Path):
    return load_subject("lm", {"family": "causal_lm"}, folder, "cpu")


@pytest.fixture
def pieces(folder):
    """Put a SentencePiece model into the checkpoint, and return the library's own reader of it."""
    sentencepiece = pytest.importorskip("sentencepiece")
    text = folder.parent / "text.txt"
    text.write_text("\n".join(SENTENCES))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=350,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **marks}))
    return sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))


def test_a_sentencepiece_model_is_read_as_its_library_does(folder, pieces):
    subject = load(folder)
    assert subject.rows([TEXT], [None], as_chat=False) == [[pieces.bos_id(), *pieces.encode(TEXT)]]
    texts = TokenTexts(subject.tokenizer)
    for token in range(pieces.get_piece_size()):
        if not pieces.is_control(token) and not pieces.is_unknown(token) and not pieces.is_byte(token):
            assert texts.text(token) == pieces.id_to_piece(token).replace("▁", " ")
    spans = prompt_spans(load_tokenizer(folder), TEXT)
    assert [span.token_id for span in spans] == pieces.encode(TEXT)


def write_tiktoken(folder: Path) -> None:
    """Write a vocabulary of single bytes in tiktoken's format."""
    lines = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]
    (folder / "tokenizer.model").write_text("\n".join(lines))


def test_a_missing_reader_is_named_with_where_it_is_pinned(folder, monkeypatch):
    def missing(url):
        raise ValueError("`tiktoken` is required to read a `tiktoken` file.")

    write_tiktoken(folder)
    monkeypatch.setattr(TikTokenConverter, "load_tiktoken_bpe", staticmethod(missing))
    message = refused(lambda: load(folder), folder)
    assert "install envs/requirements.txt" in message
    assert "fetch or copy" not in message


def test_what_reads_such_files_is_pinned():
    pinned = (ROOT / "envs" / "requirements.txt").read_text()
    assert all(f"\n{name}==" in pinned for name in ("sentencepiece", "tiktoken", "protobuf"))


def test_a_vocabulary_without_special_tokens_is_refused(folder):
    """As Llama 3's tokenizer.model is: BOS would be missing from every text."""
    pytest.importorskip("tiktoken")
    write_tiktoken(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"bos_token_id": 300}))
    message = refused(lambda: load(folder), folder)
    assert "its tokenizer has 256 tokens, but config.json says that token 300 begins a text" in message
