"""Tokens as readers see them: blanks, line ends, quotes, halves of characters, signs without width."""

from __future__ import annotations

import pytest
import tiny_llava_original
import tiny_paligemma
import tiny_qwen_vl
from tiny_models import tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from vlmdiff.models.token_text import TokenTexts, quoted


def byte_level() -> Tokenizer:
    """Return a byte-level BPE with an added token, whose pieces are known."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    texts = [" left left left", "left's left's", "left", "猫 🐈", "a\u200bb", "\n\n\n\n", "é é"] * 5
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_special_tokens(["<｜begin▁of▁sentence｜>"])
    return backend


BYTE_LEVEL = {
    " left": ("' left'", "' left'"),
    "left": ("left", "'left'"),
    "'s": ('"\'s"', '"\'s"'),
    "\n": ("'\\n'", "'\\n'"),
    "é": ("é", "'é'"),
    "\\": ("'\\\\'", "'\\\\'"),
}


@pytest.mark.parametrize("text", BYTE_LEVEL)
def test_a_byte_level_token_is_named_by_what_it_writes(text):
    backend = byte_level()
    texts = TokenTexts(backend)
    found = [token for token in range(backend.get_vocab_size()) if texts.text(token) == text]
    assert len(found) == 1
    assert backend.encode(text).ids == found
    name, in_label = BYTE_LEVEL[text]
    assert texts.name(found[0]) == name
    assert quoted(name) == in_label


def test_halves_of_characters_are_bytes():
    backend = byte_level()
    texts = TokenTexts(backend)
    for byte in "猫".encode():
        single = next(t for t in range(300) if texts.text(t) == bytes([byte]))
        assert texts.name(single) == quoted(texts.name(single)) == f"<0x{byte:02X}>"
    whole = [texts.text(token) for token in backend.encode("猫 🐈 a\u200bb").ids]
    raw = b"".join(text if isinstance(text, bytes) else text.encode() for text in whole)
    assert raw.decode() == "猫 🐈 a\u200bb"


def test_what_shows_nothing_is_escaped():
    texts = TokenTexts(byte_level())
    tokenizer = Tokenizer(models.WordLevel({"\u200b": 0, "\ufe0f": 1, "x\u0301": 2, "\u00a0left": 3}, "x"))
    plain = TokenTexts(tokenizer)
    assert [plain.name(token) for token in range(4)] == ["'\\u200b'", "'\\ufe0f'", "x\u0301", "'\\xa0left'"]
    assert texts.name(10**6) == "<no token 1000000>"


def test_an_added_token_is_itself():
    backend = byte_level()
    token = backend.token_to_id("<｜begin▁of▁sentence｜>")
    assert TokenTexts(backend).name(token) == "<｜begin▁of▁sentence｜>"


def test_sentencepiece_blanks_and_bytes():
    tokenizer = tiny_paligemma.gemma_tokenizer()
    texts, vocabulary = TokenTexts(tokenizer), tokenizer.get_vocab()
    assert texts.name(vocabulary["▁is"]) == "' is'"
    assert texts.name(vocabulary["<0x0A>"]) == "'\\n'"
    assert texts.name(vocabulary["<0xE7>"]) == "<0xE7>"
    assert texts.name(vocabulary["▁"]) == "' '"
    assert texts.name(vocabulary["<bos>"]) == "<bos>"


def test_unigram_pieces_of_metaspace():
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁left", -1.0), ("left", -2.0), ("▁", -3.0)], 0))
    backend.decoder = decoders.Metaspace()
    assert [TokenTexts(backend).name(token) for token in (1, 2, 3)] == ["' left'", "left", "' '"]


def vocabulary(*pieces: str, model=models.BPE, decoder=None, pre_tokenizer=None, normalizer=None, **values):
    """Return a tokenizer of known pieces, with ids in their order."""
    found = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(model(found, **({"merges": []} if model is models.BPE else {}), **values))
    backend.decoder, backend.pre_tokenizer, backend.normalizer = decoder, pre_tokenizer, normalizer
    return backend


def gemma_decoder():
    """Return the decoder that Gemma's and Llama 2's published tokenizers have."""
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(
    ("piece", "decoder", "written"),
    [
        ("▁▁", gemma_decoder(), "  "),
        ("▁<table>", gemma_decoder(), " <table>"),
        ("\n\n", gemma_decoder(), "\n\n"),
        ("▁▁", decoders.Metaspace(), "  "),
        ("ĠĠ", decoders.ByteLevel(), "  "),
        ("<table>", decoders.ByteLevel(), "<table>"),
        ("é", decoders.ByteLevel(), "é"),
        ("  ", decoders.ByteLevel(), "  "),
        ("##left", decoders.WordPiece(), "left"),
    ],
)
def test_an_added_token_is_raw_only_if_it_is_special(piece, decoder, written, special):
    backend = vocabulary("left", piece, decoder=decoder)
    backend.add_tokens([AddedToken(piece, normalized=False, special=special)])
    assert TokenTexts(backend).text(1) == (piece if special else written)


GPT2, METASPACE = pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Metaspace()


@pytest.mark.parametrize(
    "steps",
    [
        {"pre_tokenizer": GPT2},
        {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.Digits(), GPT2])},
        {"normalizer": normalizers.ByteLevel()},
        {"decoder": decoders.Sequence([decoders.ByteLevel()])},
    ],
)
def test_byte_level_pieces_are_known_without_a_decoder(steps):
    texts = TokenTexts(vocabulary("Ġleft", "left", "Ċ", "ç", **steps))
    assert [texts.name(token) for token in range(4)] == ["' left'", "left", "'\\n'", "<0xE7>"]


@pytest.mark.parametrize(
    "steps",
    [
        {"pre_tokenizer": METASPACE},
        {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.Digits(), METASPACE])},
        {"normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])},
        {"decoder": gemma_decoder()},
        {"decoder": decoders.Sequence([*[gemma_decoder()], decoders.Strip(" ", 1, 0)])},
    ],
)
def test_sentencepiece_pieces_are_known_without_a_decoder(steps):
    texts = TokenTexts(vocabulary("▁left", "left", "<0x0A>", "<0xE7>", "▁", **steps))
    found = [texts.name(token) for token in range(5)]
    assert found == ["' left'", "left", "'\\n'", "<0xE7>", "' '"]


@pytest.mark.parametrize("decoder", [None, decoders.BPEDecoder(), decoders.ByteLevel()])
def test_the_mark_of_a_words_end_is_a_blank_as_in_clip(decoder):
    backend = vocabulary("left</w>", "left", decoder=decoder, end_of_word_suffix="</w>")
    assert [TokenTexts(backend).name(token) for token in range(2)] == ["'left '", "left"]


@pytest.mark.parametrize(
    ("mark", "values", "decoder"),
    [
        ("##", {"model": models.WordPiece, "unk_token": "left"}, decoders.WordPiece()),
        ("##", {"model": models.WordPiece, "unk_token": "left"}, None),
        ("@@", {"model": models.WordPiece, "unk_token": "left"}, decoders.WordPiece(prefix="@@")),
        ("@@", {"continuing_subword_prefix": "@@"}, None),
    ],
)
def test_the_mark_of_a_words_inside_is_no_text_and_others_begin_with_a_blank(mark, values, decoder):
    backend = vocabulary("left", f"{mark}left", decoder=decoder, **values)
    assert [TokenTexts(backend).name(token) for token in range(2)] == ["' left'", "left"]


def test_words_of_the_built_in_world_are_words():
    tokenizer = tiny_tokenizer()
    assert TokenTexts(tokenizer).name(tokenizer.get_vocab()["left"]) == "left"


TOKENIZERS = {
    "llama 3": tiny_llava_original.llama_tokenizer,
    "qwen": tiny_qwen_vl.qwen_tokenizer,
    "gemma": tiny_paligemma.gemma_tokenizer,
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    "text", ["The cat isn't left\nof it.", " two  blanks", "猫 and 🐈, naïve", "tab\tquote ' \" \\ end"]
)
def test_texts_of_tokens_make_up_the_text(name, text):
    """Token by token, nothing of a text is lost, and nothing is added."""
    tokenizer = TOKENIZERS[name]()
    texts = TokenTexts(tokenizer)
    found = [texts.text(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    raw = b"".join(one if isinstance(one, bytes) else one.encode() for one in found)
    assert raw.decode() == text
    assert all("\n" not in texts.name(token) for token in range(len(tokenizer)))
