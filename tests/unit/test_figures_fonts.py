"""Texts of any script are drawn in an installed font, or one line names what to install."""

from __future__ import annotations

import logging
import warnings

import matplotlib
import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

from vlmdiff.figures import fonts
from vlmdiff.figures.fonts import choose_fonts, families_for, missing_fonts, texts_in
from vlmdiff.figures.prompts import can_be_split, cells, wrapped
from vlmdiff.figures.save import save_figure
from vlmdiff.figures.style import new_figure, styled

# Of the block of Tangut, which few machines have a font for.
TANGUT = "\U00017000"


def box_font(path, family: str, characters: str) -> None:
    """Write a font whose glyphs are filled boxes."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 700), (900, 700), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    box, names = pen.glyph(), [f"g{ord(one):x}" for one in characters]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", *names])
    font.setupCharacterMap({ord(one): name for one, name in zip(characters, names)})
    font.setupGlyf(dict.fromkeys((".notdef", *names), box))
    font.setupHorizontalMetrics(dict.fromkeys((".notdef", *names), (1000, 100)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2(usWeightClass=400)
    font.setupPost()
    font.save(path)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine that has matplotlib's fonts, and those that a test adds."""
    own = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    added: list[str] = []
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(added))

    def add(family: str, characters: str) -> None:
        path = str(tmp_path / f"{family}.ttf")
        box_font(path, family, characters)
        added.append(path)

    return add


@styled
def named(frame: pd.DataFrame) -> Figure:
    """Draw the texts of a table."""
    figure = new_figure(60.0, 30.0, layout=None)
    for i, text in enumerate(frame["group"]):
        figure.text(0.1, 0.1 + 0.4 * i, text)
    return figure


def pixels(frame: pd.DataFrame) -> np.ndarray:
    figure = named(frame)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., 0]


def test_a_character_is_drawn_in_the_font_that_has_it(machine, tmp_path, caplog):
    machine("Other", "\u4e00")
    machine("Tangut Sans", TANGUT)
    frame = pd.DataFrame({"group": [f"a{TANGUT}"]})
    with caplog.at_level(logging.WARNING):
        figure = named(frame)
        save_figure(figure, [tmp_path / f"figure.{kind}" for kind in ("pdf", "svg", "png")])
    assert figure.font_families == ["DejaVu Sans", "Tangut Sans"]
    assert figure.texts[0].get_fontfamily() == ["DejaVu Sans", "Tangut Sans"]
    assert not caplog.records
    # The box of the font is full: 0.7 em high, 0.8 em wide, at 7 points and 100 dots an inch.
    em = 7 / 72 * figure.dpi
    dark = (pixels(frame) < 128).sum() - (pixels(pd.DataFrame({"group": ["a"]})) < 128).sum()
    assert dark == pytest.approx(0.7 * em * 0.8 * em, rel=0.25)


def test_what_no_font_has_is_named_once_with_what_to_install(machine, tmp_path, caplog):
    frame = pd.DataFrame({"group": ["左边", "बाईं", "🙂"], "image": ["ไทย.png"] * 3, "n": [1, 2, 3]})
    with caplog.at_level(logging.WARNING), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        save_figure(named(frame), [tmp_path / "figure.png", tmp_path / "figure.svg"])
    (record,) = caplog.records
    said = record.getMessage()
    for words in ("Cjk (左边)", "Devanagari (", "Symbol (🙂)", "drawn as boxes", "Thai"):
        assert (words in said) == (words != "Thai")
    assert "fonts-noto-cjk fonts-noto-core fonts-symbola" in said
    assert not [one for one in seen if "Glyph" in str(one.message)]


def test_fonts_are_looked_for_only_where_they_are_needed(machine, monkeypatch):
    monkeypatch.setattr(fonts, "installed", lambda: pytest.fail("looked for fonts"))
    assert families_for(["plain ÄΩЖ", "يسار", "שמאל", "−⁻³ …", "a\u200d\ufe0f\u00a0b"]) == (
        ["DejaVu Sans"],
        [],
    )


def test_preferred_fonts_come_first_and_few_are_taken(machine):
    machine("Aardvark", "\u4e00")
    machine("Noto Sans Test", f"\u4e00{TANGUT}")
    assert families_for([f"\u4e00{TANGUT}"]) == (["DejaVu Sans", "Noto Sans Test"], [])


def test_texts_are_found_wherever_they_are():
    frame = pd.DataFrame({"a": ["x", "y"], "image": ["p", "q"], "n": [1, 2]})
    found = texts_in([frame, {"k": ["v"]}, ("t", 3, None), "s"])
    assert sorted(found) == ["k", "s", "t", "v", "x", "y"]
    assert missing_fonts("한") == (
        "no installed font has these characters, which are drawn as boxes: Hangul (한). Install one, on "
        "Debian fonts-noto-cjk, and make the figure again"
    )
    assert choose_fonts([]) == ["DejaVu Sans"]


def test_matplotlib_joins_letters_and_turns_what_is_written_from_right_to_left():
    """The pinned matplotlib lays out texts with libraqm; older ones write letters alone, in wrong order."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    flags = matplotlib.ft2font.LoadFlags.NO_HINTING
    alone = {font.get_char_index(ord(one)) for one in "سبع"}
    assert not {item.glyph_index for item in font._layout("سبع", flags)} & alone
    turned = [item.glyph_index for item in font._layout("שמאל", flags)]
    assert turned == [font.get_char_index(ord(one)) for one in reversed("שמאל")]


def test_a_users_style_changes_nothing(tmp_path):
    frame, files = pd.DataFrame({"group": ["left"]}), [tmp_path / "a.png", tmp_path / "a.svg"]
    save_figure(named(frame), files)
    before = [file.read_bytes() for file in files]
    mine = {"font.size": 30, "text.color": "red", "savefig.bbox": "tight", "path.sketch": (3, 50, 2)}
    with matplotlib.rc_context(mine):
        save_figure(named(frame), files)
        assert matplotlib.rcParams["font.size"] == 30
    assert [file.read_bytes() for file in files] == before


def test_wide_characters_take_an_em_and_joined_ones_are_not_split():
    assert (cells("left"), cells("e\u0301")) == (4, 1)
    # An advance of DejaVu Sans Mono is 0.602 em.
    assert cells("左边") == pytest.approx(2 / 0.602)
    assert can_be_split("the left 左边") and not can_be_split("يسار") and not can_be_split("बाईं")
    assert [line for _, line in wrapped("左" * 20, 12)] == ["左" * 7, "左" * 7, "左" * 6]
    assert [start for start, _ in wrapped("左" * 20, 12)] == [0, 7, 14]
