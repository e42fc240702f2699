"""Target and baseline of a contrast share no sample, under whatever names: found by text and image."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
from damage import picture

from vlmdiff.config.datasets import VqaDataset
from vlmdiff.config.overlap import rows_overlap
from vlmdiff.data.identity import shared_samples
from vlmdiff.data.samples import load_samples
from vlmdiff.features.separate import check_separate
from vlmdiff.features.sums import SampleSetError

LEFT, RIGHT = picture(size=(5, 5)), picture(size=(5, 5))[:-20] + b"\0" * 8 + picture(size=(5, 5))[-12:]
ROWS = [
    {"sample_id": "a", "prompt": "is it red ?", "image": LEFT, "group": "colour"},
    {"sample_id": "b", "prompt": "is it red ?", "image": RIGHT, "group": "colour"},
    {"sample_id": "c", "prompt": "where ?", "image": LEFT, "group": "place"},
    {"sample_id": "d", "prompt": "words", "image": None, "group": "text", "chat": False},
]


def write(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir()
    lines = []
    for i, row in enumerate(rows):
        if row["image"] is not None:
            (folder / f"{i}.png").write_bytes(row["image"])
            row = row | {"image": f"{i}.png"}
        lines.append(json.dumps(row) + "\n")
    (folder / "samples.jsonl").write_text("".join(lines))
    return folder / "samples.jsonl"


def renamed(rows: list[dict], **changes) -> list[dict]:
    return [deepcopy(row) | {"sample_id": f"other {i}"} | changes for i, row in enumerate(rows)]


def test_shared_samples_are_those_of_the_same_text_and_image(tmp_path):
    assert len(LEFT) == len(RIGHT) and LEFT != RIGHT
    ones = load_samples(write(tmp_path / "one", ROWS))
    others = load_samples(write(tmp_path / "other", renamed(ROWS[::-1])))
    found = {(one.sample_id, other.sample_id) for one, other in shared_samples(ones, others)}
    assert found == {("a", "other 3"), ("b", "other 2"), ("c", "other 1"), ("d", "other 0")}


def check(tmp_path, target: list[dict], baseline: list[dict], counts=(9, 9), **sides) -> None:
    files = [write(tmp_path / name, rows) for name, rows in (("t", target), ("b", baseline))]
    named = [{"dataset": "t"} | sides.get("t", {}), {"dataset": "b"} | sides.get("b", {})]
    check_separate("spatial", named, files, counts)


def test_a_sample_on_both_sides_is_refused_whatever_its_name(tmp_path):
    with pytest.raises(SampleSetError, match=r"concepts\.spatial: .* 't' and .* 'b' share 1 sample"):
        check(tmp_path, ROWS[:2], renamed([ROWS[1], ROWS[2]]))


@pytest.mark.parametrize(
    ("target", "baseline", "more"),
    [
        # Ids say nothing: other samples may have the same.
        (ROWS[:1], [ROWS[2] | {"sample_id": "a"}], {}),
        (ROWS[:1], renamed(ROWS[1:2]), {}),
        (ROWS[3:], renamed(ROWS[3:], chat=True), {}),
        # Only what is counted.
        (ROWS, renamed(ROWS), {"t": {"groups": ["colour"]}, "b": {"without": ["colour"]}}),
        (ROWS, renamed(ROWS[::-1]), {"counts": (2, 2)}),
        # Groups of one data set are separate already.
        (ROWS, renamed(ROWS), {"b": {"dataset": "t"}}),
    ],
)
def test_separate_sides_pass(tmp_path, target, baseline, more):
    check(tmp_path, target, baseline, **more)


def entry(**values) -> VqaDataset:
    return VqaDataset(**{"kind": "vqav2", "source": "hub:a/b@main", "samples": 100, **values})


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ({}, {}, True),
        ({}, {"offset": 99}, True),
        ({}, {"offset": 100}, False),
        ({"offset": 150}, {"samples": 151}, True),
        ({}, {"split": "validation"}, False),
        ({}, {"source": "hub:a/c@main"}, False),
        # Another order, another filter: what is shared only the samples tell.
        ({}, {"seed": 1}, False),
        ({"questions": "spatial"}, {"questions": "not_spatial"}, False),
        ({"questions": "spatial"}, {"questions": "spatial", "offset": 7}, True),
    ],
)
def test_overlapping_rows_of_one_source_are_known_before_they_are_read(one, other, overlap):
    assert rows_overlap(entry(**one), entry(**other)) == rows_overlap(entry(**other), entry(**one)) == overlap
