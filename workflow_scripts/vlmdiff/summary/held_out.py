"""What the summary says of the data that are reported on: which of them were held out."""

from __future__ import annotations

import pandas as pd

from vlmdiff.summary.markdown import escape, percent, table
from vlmdiff.summary.sections import Section


def describe_held_out(held_out: pd.DataFrame) -> Section:
    """Say how many samples are reported on, and how many show an image that was used before.

    Args:
        held_out: HELD_OUT of all data sets that are reported on.
    """
    section, rows, counted = Section("Data that are reported on"), [], 0
    if held_out.empty:
        return section
    for dataset, part in held_out.groupby("dataset", sort=False):
        shared = part[part["reason"] != ""]
        where = ", ".join(f"{escape(name)} ({n})" for name, n in shared["shared_with"].value_counts().items())
        of_all = f"{len(shared)} ({percent(len(shared) / len(part))})"
        rows.append([escape(dataset), len(part), of_all, where or "-", int(part["kept"].sum())])
        if len(shared) and shared["kept"].all():
            counted += 1
            text = (
                f"{escape(dataset)}: {of_all} of {len(part)} samples show an image that was used before, and "
                "count all the same (`held_out.shared_images: keep`): **not held out**."
            )
            section.claim(False, text, text)
    if counted:
        section.say("")
    header = ("data", "samples", "image used before", "in", "left to report on")
    section.say(
        "No sample was used before with the same text and image. Those whose image was used before, for "
        "training, contrasts, ranking or a choice, are told by public ids and by the bytes of the files:",
        "",
        *table(header, rows),
    )
    return section
