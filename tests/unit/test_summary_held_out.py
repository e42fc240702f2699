"""The summary says how many samples are held out, and where the images of the others were used."""

from __future__ import annotations

import pandas as pd

from vlmdiff.summary.held_out import describe_held_out
from vlmdiff.tables.data import HELD_OUT


def rows(dataset: str, shared: list[str], kept: bool, fresh: int) -> list[dict]:
    one = {"dataset": dataset, "sample_id": "s", "image": "i", "shared_sample": "o"}
    used = [one | {"kept": kept, "reason": "shared image", "shared_with": name} for name in shared]
    return used + [one | {"kept": True, "reason": "", "shared_with": ""}] * fresh


def table(*parts: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part], columns=HELD_OUT.names)


def test_dropped_samples_are_counted_by_the_data_that_used_their_images():
    held_out = table(rows("vsr_test", ["vsr_val", "vqa", "vsr_val"], False, 5), rows("control", [], False, 4))
    section = describe_held_out(held_out)
    assert "| vsr\\_test | 8 | 3 (37.5 %) | vsr\\_val (2), vqa (1) | 5 |" in section.lines
    assert "| control | 4 | 0 (0.0 %) | - | 4 |" in section.lines
    assert not section.failed


def test_kept_samples_are_called_not_held_out():
    section = describe_held_out(table(rows("test", ["val"], True, 3)))
    assert section.failed == [
        "test: 1 (25.0 %) of 4 samples show an image that was used before, and count all the same "
        "(`held_out.shared_images: keep`): **not held out**."
    ]
    assert "| test | 4 | 1 (25.0 %) | val (1) | 4 |" in section.lines


def test_without_tables_there_is_nothing_to_say():
    assert not describe_held_out(table()).lines
