"""Where the time of a run goes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vlmdiff.figures.style import BLUE, DOUBLE_MM, LIGHT, legend_above, new_figure, styled

SHOWN = 18
ROW_MM = 5.0
BAR = 0.38


def dearest(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rules that are shown, all others in one row."""
    if len(table) <= SHOWN:
        return table
    rest = table.iloc[SHOWN:]
    sums = rest[["jobs", "wall_s", "cpu_s"]].sum().to_dict()
    return pd.concat(
        [table.head(SHOWN), pd.DataFrame([{"rule": f"{len(rest)} other rules", **sums}])], ignore_index=True
    )


@styled
def costs(table: pd.DataFrame) -> Figure:
    """Draw wall and processor time of each rule, the dearest first.

    Args:
        table: COSTS.
    """
    shown = dearest(table)
    figure = new_figure(DOUBLE_MM, 22 + ROW_MM * len(shown))
    axis, places = figure.add_subplot(), np.arange(len(shown))
    axis.barh(places - BAR / 2, shown["wall_s"], BAR, color=BLUE, label="wall time")
    axis.barh(places + BAR / 2, shown["cpu_s"], BAR, color=LIGHT, label="processor time")
    axis.set_yticks(places, [f"{row.rule} ({int(row.jobs)})" for row in shown.itertuples(index=False)])
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlabel(
        f"Seconds over all jobs of the rule (number in brackets); {table['wall_s'].sum():.0f} s in all"
    )
    legend_above(figure, [axis])
    return figure
