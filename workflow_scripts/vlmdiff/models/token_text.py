"""Tokens as readers see them: leading blanks, line ends and halves of characters included."""

from __future__ import annotations

import json
import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.decoders import Decoder
    from transformers import PreTrainedTokenizerBase

BLANK = "▁"  # SentencePiece's
FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
QUOTES = "'\"`"
# Pieces around one whose text within others is asked for.
BEFORE, BEHIND = "a", "b"


class TokenTexts:
    """What the tokens of a vocabulary write.

    A special token is itself. Any other, added or not, is what the tokenizer's decoder makes of it between
    two others: `▁left` and `Ġleft` write ` left`; WordPiece's `left` writes ` left`, its `##left` writes
    `left`; of a BPE that marks the ends of words, `left</w>` writes `left `. `decode` alone cannot tell: it
    drops a blank at the start of a text, and writes one sign for all halves of characters.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> None:
        """Find out how a tokenizer, of transformers or of tokenizers, writes its pieces."""
        self.backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        self.suffix = ""
        if hasattr(self.backend, "id_to_token"):
            self.decoder, self.added = decoder_of(self.backend), self.backend.get_added_tokens_decoder()
            self.suffix = getattr(self.backend.model, "end_of_word_suffix", None) or ""
        else:  # SentencePiece's own library
            self.decoder, self.added = sentencepiece_decoder(), tokenizer.added_tokens_decoder
        self.bytes = '"ByteLevel"' in settings(self.decoder)
        self.tokenizer = tokenizer

    def piece(self, token: int) -> str | None:
        """Return a token as its vocabulary spells it; None if there is no such token."""
        if hasattr(self.backend, "id_to_token"):
            return self.backend.id_to_token(token)
        return self.tokenizer.convert_ids_to_tokens(token) if 0 <= token < len(self.tokenizer) else None

    def text(self, token: int) -> str | bytes | None:
        """Return what a token writes within a text, blanks included.

        Args:
            token: its id.

        Returns:
            The text; bytes that are no whole character; None where the vocabulary has no such token, as
            behind the end of a padded embedding.
        """
        piece, added = self.piece(token), self.added.get(token)
        if piece is None or self.decoder is None or (added is not None and added.special):
            return piece
        text = from_bytes(piece, self.suffix) if self.bytes else decoded(self.decoder, piece)
        # What was added is whole characters, in whatever alphabet.
        return piece if added is not None and isinstance(text, bytes) else text

    def name(self, token: int) -> str:
        """Write a token on one line without a blank at either end: as it is, else in quotes with escapes.

        `left` and `' left'` are two tokens; bytes that are no whole character read `<0xE7><0x8C>`.
        """
        text = self.text(token)
        if text is None:
            return f"<no token {token}>"
        if isinstance(text, bytes):
            return "".join(f"<0x{byte:02X}>" for byte in text)
        if plain(text):
            return text
        return repr(text) if visible(text) else ascii(text)

    def shown(self, token: int) -> str:
        """Write a token as it looks in a sentence whose place a figure marks: without blanks around it."""
        text = self.text(token)
        return text.strip() if isinstance(text, str) and plain(text.strip()) else self.name(token)


def settings(step: object) -> str:
    """Return the settings of a step of a tokenizer, such as its decoder, as JSON; nothing if it has none."""
    return "" if step is None else json.dumps(json.loads(step.__getstate__()), ensure_ascii=False)


def decoder_of(backend: Tokenizer) -> Decoder | None:
    """Return a tokenizer's decoder; where it has none, what undoes its spelling, and None for whole words."""
    from tokenizers import decoders

    if backend.decoder is not None:
        return backend.decoder
    steps = settings(backend.pre_tokenizer) + settings(backend.normalizer)
    if '"ByteLevel"' in steps:
        return decoders.ByteLevel()
    if BLANK in steps:
        return sentencepiece_decoder()
    if suffix := getattr(backend.model, "end_of_word_suffix", None):
        return decoders.BPEDecoder(suffix)
    prefix = getattr(backend.model, "continuing_subword_prefix", None)
    return decoders.WordPiece(prefix, cleanup=False) if prefix else None


def sentencepiece_decoder() -> Decoder:
    """Return what undoes SentencePiece's spelling."""
    from tokenizers import decoders

    return decoders.Sequence([decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()])


@cache
def byte_of() -> dict[str, int]:
    """Return the byte that each sign of GPT-2's alphabet stands for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {sign: byte for byte, sign in bytes_to_unicode().items()}


def from_bytes(piece: str, suffix: str) -> str | bytes:
    """Return what a piece in GPT-2's alphabet stands for; `suffix`, if any, marks the end of a word."""
    body = piece.removesuffix(suffix)
    if not all(sign in byte_of() for sign in body):
        return piece
    end = b" " if body != piece else b""
    return as_text(bytes(byte_of()[sign] for sign in body) + end)


def decoded(decoder: Decoder, piece: str) -> str | bytes:
    """Return what a decoder makes of a piece between two others."""
    alone, whole = decoder.decode([BEFORE, BEHIND]), decoder.decode([BEFORE, piece, BEHIND])
    text = whole[len(BEFORE) : len(whole) - len(alone) + len(BEFORE)]
    # Half of a character is a sign for what cannot be read.
    byte = FALLBACK.fullmatch(piece)
    return as_text(bytes.fromhex(byte[1])) if byte and text != piece else text


def as_text(raw: bytes) -> str | bytes:
    """Return bytes as text if they are whole characters."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def plain(text: str) -> bool:
    """Tell whether a text reads as what it is without quotes."""
    return (
        visible(text)
        and text.isprintable()
        and not any(sign.isspace() or sign in QUOTES or sign == "\\" for sign in text)
    )


def visible(text: str) -> bool:
    """Tell whether a text shows anything: marks that only change their neighbour do not."""
    return any(unicodedata.category(sign)[0] not in "MZC" for sign in text)


def quoted(name: str) -> str:
    """Put a token's name into quotes, unless it has its own."""
    return name if name[:1] in QUOTES or re.fullmatch(r"(<0x[0-9A-F]{2}>)+", name) else f"'{name}'"
