"""Which tokens never became data: the table of all models and data sets, and what the summary says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from vlmdiff.summary.markdown import escape, number, percent, table
from vlmdiff.summary.sections import Section
from vlmdiff.tables.activations import FIRST, KEPT, LEFT_OUT, LEFT_OUT_PARTS, MASSIVE, MOST
from vlmdiff.tables.io import read_table, write_table

ORDER = {FIRST: 0, MASSIVE: 1, KEPT: 2}
NAMED = 3  # massive tokens that the summary names in a row


def add_up(parts: pd.DataFrame) -> pd.DataFrame:
    """Add LEFT_OUT_PARTS of all shards of one model and data set up to LEFT_OUT, these two names aside."""
    keys = ["layer", "kind", "token_type", "token_id", "token"]
    sums = dict.fromkeys(("n_tokens", "norm", "squares", "strongest", "distance"), "sum")
    ends = {"position_min": "min", "position_max": "max", "multiple_max": "max"}
    found = parts.groupby(keys, as_index=False).agg(sums | ends)
    first, kept = found["kind"] == FIRST, found["kind"] == KEPT
    whole = found["distance"].groupby(found["layer"]).transform("sum")
    without_first = found["distance"].where(~first, 0.0).groupby(found["layer"]).transform("sum")
    found["variance_share"] = found["distance"] / whole.where(first, without_first)
    found["strongest_share"] = (found["strongest"] / found["squares"]).where(kept)
    found["mean_norm"] = found["norm"] / found["n_tokens"]
    return (
        found.assign(order=found["kind"].map(ORDER), often=-found["n_tokens"])
        .sort_values(["layer", "order", "often", "token_id"])
        .reset_index(drop=True)
    )


def list_left_out(parts: Mapping[str, Sequence[str | Path]], output: str | Path) -> None:
    """Write the table LEFT_OUT.

    Args:
        parts: paths of LEFT_OUT_PARTS by "model dataset".
        output: where to write the table.
    """
    tables = [LEFT_OUT.empty_table().to_pandas()]
    for series, paths in parts.items():
        model, dataset = series.split()
        found = add_up(pd.concat([read_table(path, LEFT_OUT_PARTS) for path in paths], ignore_index=True))
        tables.append(found.assign(model=model, dataset=dataset)[LEFT_OUT.names])
    write_table(pd.concat(tables, ignore_index=True), LEFT_OUT, output)


def where_most(part: pd.DataFrame) -> str:
    """Name the most frequent massive tokens of one layer with their numbers and positions."""
    named = [
        f"{escape(row.token)} x {row.n_tokens} at {row.position_min}"
        + (f" to {row.position_max}" if row.position_max > row.position_min else "")
        for row in part.head(NAMED).itertuples(index=False)
    ]
    return ", ".join([*named, *(["…"] if len(part) > NAMED else [])])


def describe_left_out(left_out: pd.DataFrame) -> Section:
    """Say how much of the variance was left out, and where a few of the kept tokens carry most of it.

    Args:
        left_out: LEFT_OUT.
    """
    section, rows = Section("Tokens that are left out"), []
    if left_out.empty:
        return section
    for (model, dataset, layer), part in left_out.groupby(["model", "dataset", "layer"], sort=False):
        kinds = {kind: part[part["kind"] == kind] for kind in ORDER}
        first, massive, kept = (kinds[kind] for kind in ORDER)
        if len(massive):
            counted = f"{massive['n_tokens'].sum()} of {massive['n_tokens'].sum() + kept['n_tokens'].sum()}"
            rows.append(
                [*map(escape, (model, dataset)), layer, percent(first["variance_share"].sum()), counted,
                 percent(massive["variance_share"].sum()), number(massive["multiple_max"].max()),
                 where_most(massive)]
            )  # fmt: skip
        for share in kept["strongest_share"]:
            if share > MOST:
                text = (
                    f"{escape(model)} on {escape(dataset)}, layer {layer}: the strongest hundredth of the "
                    f"kept tokens carries **{percent(share)}** of the squared norms."
                )
                section.claim(False, text, text)
    of_first = left_out[left_out["kind"] == FIRST]["variance_share"]
    section.say(
        f"The first token of every sequence is no data: of all tokens' variance it would have been "
        f"{percent(of_first.min())} to {percent(of_first.max())}, by model, data set and layer.",
    )
    header = ("model", "data", "layer", "first tokens' variance", "massive tokens", "of the others' variance",
              "largest, in medians", "which, where")  # fmt: skip
    section.say(
        *(table(header, rows) if rows else ["No other token is massive (`extraction.massive_ratio`)."])
    )
    return section
