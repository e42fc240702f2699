"""Text from elsewhere, without what cannot be seen or turns the text around it."""

from __future__ import annotations

from unicodedata import category

REPLACEMENT = "\ufffd"


def is_visible(character: str) -> bool:
    """Tell whether a character shows, or is a space, and leaves the others where they are."""
    return character.isprintable() or category(character) == "Zs"


def visible(text: str) -> str:
    """Name characters that are not visible by their number: <U+202E>."""
    return "".join(one if is_visible(one) else f"<U+{ord(one):04X}>" for one in text)


def drawable(text: str) -> str:
    """Replace characters that are not visible one for one, white space by blanks, so that places stay."""
    return "".join(one if is_visible(one) else " " if one.isspace() else REPLACEMENT for one in text)
