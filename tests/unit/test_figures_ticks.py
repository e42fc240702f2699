"""Labels of ticks and numbers in figures: legible wherever the data lie."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import synthetic_tables as tables

from vlmdiff.figures.concepts import funnel
from vlmdiff.figures.heads import attribution_vs_exact
from vlmdiff.figures.style import BetweenPowersFormatter, significant, style

# The least and the largest value: far below a decade, below one, one value, two decades, many.
SPANS = [(0.312, 0.314), (0.31, 0.66), (0.3, 0.3), (2.1, 9.5), (0.2, 8.0), (7.0, 650.0), (1e-7, 1e6)]


def shown(axis: Axes, which: str) -> list[str]:
    """Draw a figure and return the labels in view of an axis, none of which may touch another."""
    figure = axis.get_figure()
    with style():
        figure.draw_without_rendering()
        found = getattr(axis, f"{which}axis")
        low, high = sorted(found.get_view_interval())
        ticks = [*found.get_major_ticks(), *found.get_minor_ticks()]
        labels = [one.label1 for one in ticks if one.label1.get_text() and low <= one.get_loc() <= high]
        places = [label.get_window_extent() for label in labels]
    for one, other in combinations(places, 2):
        assert not one.overlaps(other)
    return [label.get_text() for label in labels]


def agreeing(low: float, high: float) -> Figure:
    """Return the figure of attribution and patching, whose values span a range."""
    attribution, patching = (make(tables.STRONG) for make in (tables.head_attribution, tables.head_patching))
    values = np.geomspace(low, high, len(attribution))
    return attribution_vs_exact(
        attribution.assign(score=values),
        patching.assign(exact_abs=np.resize(values, len(patching))),
        tables.head_agreement(tables.STRONG),
    )


@pytest.mark.parametrize(("low", "high"), SPANS)
def test_labels_of_a_logarithmic_axis_never_touch(low: float, high: float):
    axis = agreeing(low, high).axes[0]
    assert len(shown(axis, "x")) >= 2
    assert len(shown(axis, "y")) >= 2


def test_between_powers_few_are_told():
    axis = agreeing(2.1, 9.5).axes[0]
    assert set(shown(axis, "x")) == {"2×10⁰", "3×10⁰", "5×10⁰", "10¹"}
    assert isinstance(axis.xaxis.get_minor_formatter(), BetweenPowersFormatter)


def test_counts_are_plain_numbers_between_powers_too():
    table = tables.funnel(tables.STRONG)
    axis = funnel(table.assign(features=np.linspace(90, 940, len(table)).astype(int))).axes[1]
    assert {"200", "500"} <= set(shown(axis, "y")) <= {str(100 * one) for one in range(1, 11)} | {"1,000"}


@pytest.mark.parametrize(
    ("value", "written"),
    [(3.0, "3.00"), (3.4, "3.40"), (3.994, "3.99"), (9.996, "10.0"), (50.0, "50.0"), (131.2, "131"),
     (1344.0, "1340"), (0.0, "0.00"), (0.00123, "0.00123")],
)  # fmt: skip
def test_numbers_of_a_kind_have_the_same_significant_digits(value: float, written: str):
    assert significant(value) == written
