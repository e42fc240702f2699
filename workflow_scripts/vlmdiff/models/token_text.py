"""Tokens as readers see them: leading blanks, line ends and halves of characters included."""

from __future__ import annotations

import json
import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

BLANK = "▁"  # SentencePiece's
FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
QUOTES = "'\"`"


class TokenTexts:
    """What the tokens of a vocabulary write.

    `decode` cannot tell: it drops a blank at the start of a text, and writes one sign for all halves of
    characters.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> None:
        """Find out how a tokenizer, of transformers or of tokenizers, writes its pieces."""
        self.backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if hasattr(self.backend, "id_to_token"):
            self.alphabet, self.added = alphabet(self.backend), self.backend.get_added_tokens_decoder()
        else:  # SentencePiece's own library
            self.alphabet, self.added = "blanks", tokenizer.added_tokens_decoder
        self.tokenizer = tokenizer

    def piece(self, token: int) -> str | None:
        """Return a token as its vocabulary spells it; None if there is no such token."""
        if hasattr(self.backend, "id_to_token"):
            return self.backend.id_to_token(token)
        return self.tokenizer.convert_ids_to_tokens(token) if 0 <= token < len(self.tokenizer) else None

    def text(self, token: int) -> str | bytes | None:
        """Return what a token writes within a text, leading blank included.

        Args:
            token: its id.

        Returns:
            The text; bytes that are no whole character; None where the vocabulary has no such token, as
            behind the end of a padded embedding.
        """
        piece = self.piece(token)
        whole = piece is None or token in self.added or self.alphabet == "words"
        return piece if whole else spelled(piece, self.alphabet)

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


def alphabet(backend: Tokenizer) -> str:
    """Tell how pieces are spelled: `bytes` in GPT-2's alphabet, SentencePiece's `blanks`, or `words`."""
    decoder = backend.decoder
    steps = "" if decoder is None else json.dumps(json.loads(decoder.__getstate__()))
    if '"ByteLevel"' in steps:
        return "bytes"
    blanks = any(f'"{step}"' in steps for step in ("Metaspace", "ByteFallback", "Replace"))
    return "blanks" if blanks else "words"


@cache
def byte_of() -> dict[str, int]:
    """Return the byte that each sign of GPT-2's alphabet stands for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {sign: byte for byte, sign in bytes_to_unicode().items()}


def spelled(piece: str, kind: str) -> str | bytes:
    """Return what a piece of the vocabulary stands for."""
    if kind == "bytes":
        if not all(sign in byte_of() for sign in piece):
            return piece
        raw = bytes(byte_of()[sign] for sign in piece)
    elif found := FALLBACK.fullmatch(piece):
        raw = bytes([int(found[1], 16)])
    else:
        return piece.replace(BLANK, " ")
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
