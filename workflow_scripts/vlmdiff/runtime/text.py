"""Text from elsewhere, made visible."""

from __future__ import annotations

from unicodedata import category


def visible(text: str) -> str:
    """Name characters that cannot be seen, or that turn the text around them, by their number: <U+202E>.

    Spaces and line feeds stay.
    """
    return "".join(
        one if one.isprintable() or one == "\n" or category(one) == "Zs" else f"<U+{ord(one):04X}>"
        for one in text
    )
