"""Prompts under images: wrapped by hand in a fixed-width font, so that a token can be underlined."""

from __future__ import annotations

import re
import textwrap
import unicodedata

import matplotlib
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation, Transform

from vlmdiff.figures.style import BLACK, VERMILION

FONT = "DejaVu Sans Mono"
SIZE_PT = 6.5
# Advance width and line height of DejaVu Sans Mono in em.
ADVANCE_EM, LINE_EM = 0.602, 1.3
MM_PER_POINT = 25.4 / 72
LONE_MARK = re.compile(r"(?<=\S) (?=[.,;:?!](?: |$))")


def characters(width_mm: float) -> int:
    """Return how many characters fit into a width."""
    return max(8, int(width_mm / (SIZE_PT * ADVANCE_EM * MM_PER_POINT)))


def cells(text: str) -> float:
    """Return how many places of the fixed-width font a text takes: CJK an em each, marks above none."""
    wide = dict.fromkeys("WF", 1 / ADVANCE_EM)
    return sum(
        0
        if unicodedata.category(one) in ("Mn", "Me", "Cf")
        else wide.get(unicodedata.east_asian_width(one), 1)
        for one in text
    )


def can_be_split(line: str) -> bool:
    """Tell whether parts of a line may be written one by one: not from right to left, nor joined."""
    turned = any(unicodedata.bidirectional(one) in ("R", "AL", "AN") for one in line)
    return not turned and not any(unicodedata.category(one) in ("Mc", "Mn") for one in line)


def broken(text: str, width: int) -> list[str]:
    """Break a text into lines of so many places of a fixed-width font."""
    lines = textwrap.wrap(text, width, break_on_hyphens=False)
    if all(cells(line) <= width for line in lines):
        return lines
    # Wide characters have no blanks between words.
    return textwrap.wrap(text, max(4, int(width * ADVANCE_EM)), break_on_hyphens=False)


def wrapped(text: str, width: int) -> list[tuple[int, str]]:
    """Break a text into lines, each with the place in the text at which it starts.

    White space is first made single blanks of equal number, so that places keep their meaning. A mark that
    stands by itself stays with the word before it.
    """
    plain = "".join(" " if character.isspace() else character for character in text)
    plain = LONE_MARK.sub("\u00a0", plain)
    lines, start = [], 0
    for line in broken(plain, width):
        start = plain.index(line, start) if line in plain[start:] else start
        lines.append((start, line.replace("\u00a0", " ")))
        start += len(line)
    return lines


def put(axis: Axes, text: str, row: float, column: float, colour: str, weight: str = "normal") -> None:
    """Write below the axes, `row` lines down and `column` characters to the right."""
    axis.annotate(
        text, (0, 0), xycoords="axes fraction", xytext=place_pt(row, column), textcoords="offset points",
        va="top", ha="left", color=colour, weight=weight, fontsize=SIZE_PT,
        family=[FONT, *matplotlib.rcParams["font.family"]],
        annotation_clip=False, parse_math=False,
    )  # fmt: skip


def place_pt(row: float, column: float) -> tuple[float, float]:
    """Return the offset of a line and character from the axes' lower left corner, in points."""
    return column * ADVANCE_EM * SIZE_PT, -(row + 0.4) * LINE_EM * SIZE_PT


def underline(axis: Axes, row: int, first: float, last: float) -> None:
    """Draw a rule under characters `first:last` of a line."""
    (left, top), (right, _) = place_pt(row, first), place_pt(row, last)
    y = top - 1.05 * SIZE_PT
    axis.annotate(
        "", (0, 0), xycoords=offset_from(axis, left, y), xytext=(0, 0),
        textcoords=offset_from(axis, right, y),
        arrowprops={"arrowstyle": "-", "color": VERMILION, "lw": 0.9, "shrinkA": 0, "shrinkB": 0},
        annotation_clip=False,
    )  # fmt: skip


def offset_from(axis: Axes, x: float, y: float) -> Transform:
    """Return a transform whose origin lies x, y points from the axes' lower left corner."""
    return axis.transAxes + ScaledTranslation(x / 72, y / 72, axis.figure.dpi_scale_trans)


def write_prompt(axis: Axes, prompt: str, token: tuple[int, int], width_mm: float, max_lines: int) -> None:
    """Write a prompt under the axes and underline its characters `token[0]:token[1]`.

    A line of Arabic, Hebrew or an Indic script is written in one piece, without the underline, because its
    letters join and change their order.

    Args:
        axis: axes with the image.
        prompt: the question.
        token: first character and the one after the last; (-1, -1) if the token is not in the prompt.
        width_mm: width of the text.
        max_lines: further lines are cut, with dots.
    """
    lines = wrapped(prompt, characters(width_mm))
    for row, (start, line) in enumerate(lines[:max_lines]):
        cut = row == max_lines - 1 and len(lines) > max_lines
        shown = line[:-1] + "…" if cut else line
        first, last = max(token[0], start) - start, min(token[1], start + len(line)) - start
        if not 0 <= first < last or not can_be_split(shown):
            put(axis, shown, row, 0, BLACK)
            continue
        put(axis, shown[:first], row, 0, BLACK)
        start_cell, end_cell = cells(shown[:first]), cells(shown[:last])
        put(axis, shown[first:last], row, start_cell, VERMILION, "bold")
        put(axis, shown[last:], row, end_cell, BLACK)
        underline(axis, row, start_cell, end_cell)
