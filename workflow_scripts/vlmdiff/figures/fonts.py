"""Fonts for texts of any script: found among those that are installed, or named if there is none.

Figures are drawn in DejaVu Sans, which comes with matplotlib. Characters that it lacks are drawn in the first
installed font that has them; matplotlib shapes them and turns what is written from right to left.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import pandas as pd
from matplotlib import font_manager

log = logging.getLogger(__name__)
DEFAULT = "DejaVu Sans"
# Boxes that name a script; what matplotlib draws where no font has a character.
LAST_RESORT = "Last Resort"
# Tried before other fonts, so that machines with many fonts agree.
PREFERRED = ("Noto Sans", "Noto Serif", "WenQuanYi", "Lohit", "Free", "Symbola")
REGULAR = (400, "normal", "regular", "book")
# Debian's packages of fonts, by the first word of a character's Unicode name.
PACKAGES = dict.fromkeys(
    ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH"), "fonts-noto-cjk"
)
SYMBOLS, OTHERS = "fonts-symbola", "fonts-noto-core"
# Characters that show nothing by themselves: joiners, variation selectors, white space.
UNSEEN = ("Cc", "Cf", "Zs", "Zl", "Zp")


def texts_in(values: Any) -> Iterable[str]:
    """Yield the texts in tables, lists, mappings and texts; paths of images are opened, not drawn."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, pd.DataFrame):
        for name, column in values.items():
            if name != "image" and not pd.api.types.is_numeric_dtype(column.dtype):
                yield from (text for text in column.unique() if isinstance(text, str))
    elif isinstance(values, Mapping):
        yield from texts_in([*values.keys(), *values.values()])
    elif isinstance(values, (list, tuple, set)):
        for value in values:
            yield from texts_in(value)


def is_seen(character: str) -> bool:
    """Tell whether a character needs a glyph."""
    return unicodedata.category(character) not in UNSEEN and not 0xFE00 <= ord(character) <= 0xFE0F


@cache
def glyphs(path: str) -> frozenset[int]:
    """Return the characters that a font can draw; none if it cannot be scaled, like colour pictures."""
    with suppress(RuntimeError, OSError):
        font = font_manager.get_font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    return frozenset()


def installed() -> list[font_manager.FontEntry]:
    """Return the regular fonts of the machine but matplotlib's box font, preferred ones first.

    Matplotlib keeps a list of fonts between runs; those that were installed since are added to it.
    """
    manager = font_manager.fontManager
    for path in sorted(set(font_manager.findSystemFonts()) - {entry.fname for entry in manager.ttflist}):
        with suppress(RuntimeError, OSError, ValueError, KeyError):
            manager.addfont(path)
    regular = [
        entry
        for entry in manager.ttflist
        if entry.style == "normal" and entry.weight in REGULAR and not entry.name.startswith(LAST_RESORT)
    ]
    return sorted(regular, key=lambda entry: (not entry.name.startswith(PREFERRED), entry.name, entry.fname))


def families_for(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Choose fonts for texts.

    Returns:
        names of fonts, the default one first; the characters that none of the installed ones has.
    """
    known = glyphs(font_manager.findfont(DEFAULT))
    wanted = {one for one in set().union(*texts) if ord(one) not in known and is_seen(one)}
    families = [DEFAULT]
    for entry in installed() if wanted else ():
        found = {one for one in wanted if ord(one) in glyphs(entry.fname)}
        if found:
            families.append(entry.name)
            wanted -= found
        if not wanted:
            break
    return families, sorted(wanted)


def script(character: str) -> str:
    """Return the script of a character, by its Unicode name; symbols are called so."""
    if unicodedata.category(character) in ("So", "Sk", "Sm", "Sc", "Co", "Cn"):
        return "SYMBOL"
    return unicodedata.name(character, "SYMBOL").partition(" ")[0]


def missing_fonts(characters: Iterable[str]) -> str:
    """Say in one line which scripts no installed font has, and what to install."""
    scripts: dict[str, str] = {}
    for one in characters:
        scripts[script(one)] = scripts.get(script(one), "") + one
    named = ", ".join(f"{name.title()} ({shown[:5]})" for name, shown in sorted(scripts.items()))
    packages = {SYMBOLS if name == "SYMBOL" else PACKAGES.get(name, OTHERS) for name in scripts}
    return (
        f"no installed font has these characters, which are drawn as boxes: {named}. Install one, on Debian "
        f"{' '.join(sorted(packages))}, and make the figure again"
    )


def choose_fonts(values: Any) -> list[str]:
    """Return the fonts for all texts in what a figure is drawn from; warn once of what none of them has."""
    families, missing = families_for(texts_in(values))
    if missing:
        log.warning("%s", missing_fonts(missing))
    return families
