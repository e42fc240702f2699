"""Questions that are reported on are those that are held out; questions that rank are all."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from vlmdiff.interventions.inputs import QuestionSets
from vlmdiff.tables.data import HELD_OUT
from vlmdiff.tables.io import write_table


def write(folder: Path, name: str, kept: list[bool]) -> tuple[str, str]:
    """Write a data set and its HELD_OUT; return both paths."""
    samples, table = folder / f"{name}.jsonl", folder / f"{name}.csv"
    rows = []
    lines = []
    for number, keep in enumerate(kept):
        line = {"sample_id": f"{name} {number}", "prompt": "is it ?", "group": "g"}
        lines.append(json.dumps(line | {"answer": "yes", "choices": ["yes", "no"]}) + "\n")
        rows.append(dict.fromkeys(HELD_OUT.names, "") | {"sample_id": line["sample_id"], "kept": keep})
    samples.write_text("".join(lines))
    write_table(pd.DataFrame(rows), HELD_OUT, table)
    return str(samples), str(table)


@pytest.fixture
def files(tmp_path):
    return (
        write(tmp_path, "place", [False, True, True, False, True]),
        write(tmp_path, "general", [True, False, False, False, True]),
    )


def ids(questions: QuestionSets) -> dict[str, list[str]]:
    return {name: [one.sample_id for one in samples] for name, samples in questions.chosen().items()}


def test_the_first_held_out_samples_of_each_set_are_reported_on(files):
    (target, one), (control, other) = files
    questions = QuestionSets(target, control, ["place", "general"], 2, 1024, held_out=[one, other])
    assert ids(questions) == {"place": ["place 1", "place 2"], "general": ["general 0", "general 4"]}


def test_if_fewer_are_held_out_all_of_them_are_reported_on(files):
    (target, one), (control, other) = files
    questions = QuestionSets(target, control, ["place", "general"], 3, 1024, held_out=[one, other])
    assert ids(questions) == {
        "place": ["place 1", "place 2", "place 4"],
        "general": ["general 0", "general 4"],
    }


def test_data_to_rank_on_are_taken_as_they_are(files):
    (target, _), (control, _) = files
    found = ids(QuestionSets(target, control, ["place", "general"], 2, 1024))
    assert found == {"place": ["place 0", "place 1"], "general": ["general 0", "general 1"]}
