"""One look for all figures: print sizes, fonts, colours that colour-blind readers can tell apart."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from types import MappingProxyType
from typing import Any, Literal, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import Formatter, LogFormatterSciNotation

from vlmdiff.figures.fonts import DEFAULT, choose_fonts
from vlmdiff.runtime.text import drawable

Arguments = ParamSpec("Arguments")

SINGLE_MM = 85.0
DOUBLE_MM = 175.0
MM_PER_INCH = 25.4

# The palette of Okabe and Ito (2008), which stays distinct under all common colour deficiencies.
BLACK, GREY, LIGHT = "#000000", "#767676", "#C4C4C4"
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
TARGET_COLOUR, CONTROL_COLOUR = VERMILION, BLUE
SEQUENTIAL = "cividis"

POINTS_PER_INCH = 72.0
# Of labels of logarithmic axes, in sizes of their type: a character's width, a line with room around it.
CHARACTER_EM, LABEL_HEIGHT_EM = 0.64, 2.0
# Multiples of a power of ten, in the order in which they get labels as long as there is room.
LABELLED_FIRST = (1, 2, 5, 3, 7, 4, 6, 8, 9)

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
POWER = re.compile(r"\^\{([^}]*)\}")

SETTINGS = MappingProxyType(
    {
        "font.size": 7.0,
        "axes.titlesize": 7.5,
        "axes.labelsize": 7.5,
        "xtick.labelsize": 7.0,
        "ytick.labelsize": 7.0,
        "legend.fontsize": 7.0,
        "legend.frameon": False,
        "legend.handlelength": 1.4,
        "legend.columnspacing": 1.2,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "xtick.minor.size": 1.5,
        "ytick.minor.size": 1.5,
        "lines.linewidth": 1.1,
        "lines.markersize": 3.2,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "pdf.fonttype": 42,  # embed TrueType: text stays text
        "svg.fonttype": "path",  # outlines: the viewer's fonts cannot break the layout
        "svg.hashsalt": "vlmdiff",
        "text.parse_math": False,  # a dollar in somebody's text is a dollar
        "image.interpolation": "nearest",
    }
)


@contextmanager
def style(families: Sequence[str] = (DEFAULT,)) -> Iterator[None]:
    """Apply the settings to matplotlib's defaults, whatever the user's matplotlibrc says.

    Ticks are made when a figure is saved, so saving needs them as well.

    Args:
        families: names of fonts; a character is drawn in the first that has it.
    """
    with matplotlib.rc_context(), warnings.catch_warnings():
        # `choose_fonts` has named what no font has, once.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**SETTINGS, "font.family": list(families)})
        yield


def drawable_table(value: Any) -> Any:
    """Return a table whose texts can be drawn; anything else as it is."""
    if not isinstance(value, pd.DataFrame):
        return value
    changes = {}
    for name, column in value.items():
        # Paths of images are opened, not drawn.
        if name == "image" or pd.api.types.is_numeric_dtype(column.dtype):
            continue
        texts = [one for one in column.unique() if isinstance(one, str)]
        wrong = {one: drawable(one) for one in texts if drawable(one) != one}
        if wrong:
            changes[name] = column.map(lambda one, wrong=wrong: wrong.get(one, one))
    return value.assign(**changes) if changes else value


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Draw a figure under the shared settings, from tables whose texts can be drawn."""

    @wraps(draw)
    def inner(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        plain = [drawable_table(value) for value in args]
        tables = {key: drawable_table(value) for key, value in kwargs.items()}
        families = choose_fonts([*plain, *tables.values()])
        with style(families):
            figure = draw(*plain, **tables)
        # Saving makes further texts, in the same fonts.
        figure.font_families = families
        return figure

    return inner


def new_figure(width_mm: float, height_mm: float, layout: str | None = "constrained") -> Figure:
    """Return an empty figure of a print size in millimetres, bound to the Agg canvas."""
    figure = Figure(figsize=(width_mm / MM_PER_INCH, height_mm / MM_PER_INCH), layout=layout)
    FigureCanvasAgg(figure)
    return figure


@styled
def message_figure(text: str, width_mm: float = SINGLE_MM) -> Figure:
    """Return a figure that says why there is nothing to draw."""
    figure = new_figure(width_mm, 30.0, layout=None)
    figure.text(0.5, 0.5, text, ha="center", va="center", wrap=True, color=GREY)
    return figure


def series(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Give each name a colour and a marker, in order of first appearance."""
    unique = list(dict.fromkeys(names))
    # Beyond eight names colours come again, with another marker.
    return {
        name: (CYCLE[i % len(CYCLE)], MARKERS[(i + i // len(CYCLE)) % len(MARKERS)])
        for i, name in enumerate(unique)
    }


def legend_above(figure: Figure | SubFigure, axes: Iterable[Axes], columns: int = 4, first: str = "") -> None:
    """Put one legend of all distinct labels above the figure, those that start with `first` first."""
    found = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        for handle, label in zip(handles, labels):
            found.setdefault(label, handle)
    labels = sorted(found, key=lambda label: not label.startswith(first))
    if labels:
        handles = [found[label] for label in labels]
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, markerscale=1.3)


def power(text: str) -> str:
    """Return a formula of powers, as matplotlib writes it for its mathematical text, in plain characters."""
    inner = re.sub(r"^\$\\mathdefault\{(.*)\}\$$", r"\1", text).replace(r"\times", "×")
    return POWER.sub(lambda found: found[1].translate(SUPERSCRIPT), inner).replace("-", "−")


class PowerFormatter(LogFormatterSciNotation):
    """Writes the ticks of a logarithmic axis in plain characters: 10⁻³."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the label of one tick."""
        return power(super().__call__(x, pos))


class BetweenPowersFormatter(Formatter):
    """Labels as many ticks between powers of ten as there is room for; none where two powers are in view.

    Args:
        write: makes the label of a number.
    """

    def __init__(self, write: Callable[[float], str]) -> None:
        self.write = write
        self.shown: list[float] = []

    def set_locs(self, locs: Sequence[float]) -> None:
        """Choose the ticks that get a label: 2 and 5 first, those that are no multiple of a power last."""
        low, high = sorted(self.axis.get_view_interval())
        powers = [one for one in self.axis.get_majorticklocs() if low <= one <= high]
        self.shown = []
        if len(powers) > 1:
            return
        between = [float(one) for one in locs if low <= one <= high]
        labels = [self.write(one) for one in [*powers, *between]]
        room = self.room(max(map(len, labels), default=0)) * np.log10(high / low)
        for one in sorted(between, key=by_first_digit):
            if all(abs(np.log10(one / other)) >= room for other in [*powers, *self.shown]):
                self.shown.append(one)

    def room(self, characters: int) -> float:
        """Return what a label needs, as a share of the axis."""
        box = self.axis.axes.bbox
        em = matplotlib.rcParams["xtick.labelsize"] * self.axis.figure.dpi / POINTS_PER_INCH
        if self.axis.axis_name == "x":
            return (characters * CHARACTER_EM + 1) * em / box.width
        return LABEL_HEIGHT_EM * em / box.height

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the label of one tick."""
        return self.write(x) if any(np.isclose(x, one, rtol=1e-9) for one in self.shown) else ""


def by_first_digit(value: float) -> int:
    """Return how late a tick of a logarithmic axis gets its label."""
    digits = value / 10 ** np.floor(np.log10(value) + 1e-9)
    return next((i for i, one in enumerate(LABELLED_FIRST) if np.isclose(digits, one)), len(LABELLED_FIRST))


def scientific(value: float) -> str:
    """Write a number as a multiple of a power of ten: 3×10⁻¹."""
    digits, exponent = f"{value:e}".split("e")
    return power(rf"{float(digits):g}\times10^{{{int(exponent)}}}")


def log_scale(
    axis: Axes,
    which: Literal["x", "y"],
    scale: Literal["log", "symlog"] = "log",
    plain: str = "",
    **options: Any,
) -> None:
    """Make an axis logarithmic; `symlog` is linear around zero, as `options` say.

    Args:
        axis: the panel.
        which: its axis.
        scale: of matplotlib's.
        plain: how to write a tick, such as `{x:g}`; powers of ten if empty.
        options: of the scale.
    """
    getattr(axis, f"set_{which}scale")(scale, **options)
    found = getattr(axis, f"{which}axis")
    found.set_major_formatter(plain or PowerFormatter())
    if scale == "log":
        write = (lambda value: plain.format(x=value)) if plain else scientific
        found.set_minor_formatter(BetweenPowersFormatter(write))


def significant(value: float, digits: int = 3) -> str:
    """Write a number with as many significant digits as all others of its kind: 3.00, 12.5, 134."""
    return np.format_float_positional(value, digits, unique=False, fractional=False, trim="k").rstrip(".")


def layer_axis(axis: Axes, layers: Iterable[int]) -> None:
    """Tick every layer, or every few of many."""
    values = sorted(set(layers))
    step = max(1, round(len(values) / 8))
    axis.set_xticks(values[::step])
    axis.set_xlabel("Layer")
