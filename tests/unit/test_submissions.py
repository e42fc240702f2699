"""Scores from a file: what is refused, and features and directions that are known to be spatial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feature_tables import write

from vlmdiff.activations.format import ShardContent, ShardHeader
from vlmdiff.activations.tokens import IMAGE, TEXT
from vlmdiff.activations.writer import write_shard
from vlmdiff.config.world import WorldConfig, WorldDataset
from vlmdiff.data.samples import load_samples
from vlmdiff.scoreboard.board import control_rows
from vlmdiff.scoreboard.submission import projections, score_submission
from vlmdiff.scoreboard.submitted import SubmissionError, read_submission
from vlmdiff.tables.io import read_table
from vlmdiff.tables.scoreboard import METHOD_SCORES
from vlmdiff.tables.world import GROUND_TRUTH
from vlmdiff.world.datasets import write_dataset
from vlmdiff.world.sample_labels import all_labels

WIDTH = 4


def submitted(folder: Path, text: str) -> Path:
    (folder / "scores.csv").write_text(text)
    return folder / "scores.csv"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("layer,feature\n1,2\n", "found the columns layer, feature; expected layer, score, either"),
        ("layer,score\n1,2\n", "found the columns layer, score; expected layer, score, either"),
        ("layer,feature,direction,score\n1,2,1 0,3\n", "either feature or direction"),
        ("layer,feature,score,colour\n1,2,3,red\n", "found the columns layer, feature, score, colour"),
        ("layer,feature,score\n", "holds no scores"),
        ("", "no CSV that can be read"),
        ("layer,feature,score\n7,2,3\n", r"layer: found 7, expected some of \[0, 1\]"),
        ("layer,feature,score\n1,-2,3\n", "feature: found -2, expected whole numbers from 0 on"),
        ("layer,feature,score\n1,2.5,3\n", "feature: found 2.5, expected whole numbers"),
        ("layer,feature,score\nx,2,3\n", "layer: found 'x', expected whole numbers"),
        ("layer,feature,score\n1,1e30,3\n", "feature: found 1e.30, expected whole numbers"),
        ("layer,feature,score,seed\n1,2,3,\n", "seed: found nan, expected whole numbers"),
        ('layer,feature,score\n1,2,"1,5"\n', "score: found '1,5', expected finite numbers"),
        ("layer,feature,score\n1,2,\n", "score: found nan, expected finite numbers"),
        ("layer,feature,score\n1,2,inf\n", "score: found inf, expected finite numbers"),
        ("layer,feature,score,selected\n1,2,3,5\n", "selected: found 5, expected 0 or 1"),
        ("layer,feature,score,selected\n1,2,3,1\n1,3,3,yes\n", "selected: found 'yes', expected 0 or 1"),
        ("layer,feature,score\n1,2,3\n1,2,4\n", "layer 1, feature 2 has several scores"),
        ("layer,feature,score\n1,2,True\n1,3,False\n", "score: found True, expected finite numbers"),
        ("layer,feature,score\n0,1,2,1\n", "no CSV that can be read"),
        ("layer,feature,score,selected\n9,0,1,2.5,1\n9,0,0,2.5,0\n", "no CSV that can be read"),
        ("layer,direction,score\n1,1 0,3\n1,2 0,4\n", "layer 1: a direction has several scores"),
        ("layer,direction,score\n1,1 x,3\n", "direction: found '1 x', expected numbers with blanks"),
        ("layer,direction,score\n1,0 0,3\n", "direction: found 2 numbers of length 0"),
        ("layer,direction,score\n1,,3\n", "direction: found 0 numbers of length 0"),
        ("layer,direction,score\n1,1 0,3\n1,1 0 0,3\n", "direction: found 3 numbers of length 1, expected 2"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, text, told):
    with pytest.raises(SubmissionError, match=told):
        read_submission(submitted(tmp_path, text), [0, 1])


def test_words_of_truth_are_as_good_as_numbers(tmp_path):
    text = "layer,feature,score,selected\n1,1,3,1\n1,2,3,true\n1,3,3,False\n1,4,3,0\n"
    assert read_submission(submitted(tmp_path, text), [0, 1])["selected"].tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_in_a_control_nothing_may_be_found(tmp_path):
    file = submitted(tmp_path, "layer,feature,score\n")
    entry = {"method": "m", "control": "c", "seed": -1, "file": file}
    assert control_rows(entry, [0, 1])[["seed", "selected"]].to_numpy().tolist() == [[0, 0]]


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SubmissionError, match="none.csv: no CSV that can be read"):
        read_submission(tmp_path / "none.csv", [0])


def test_directions_get_unit_length(tmp_path):
    found = read_submission(submitted(tmp_path, "layer,direction,score\n0,3 4,1\n1,0 -2,2\n"), [0, 1])
    np.testing.assert_allclose(np.stack(found["direction"]), [[0.6, 0.8], [0, -1]], rtol=1e-6)
    assert found["seed"].tolist() == [0, 0] and "selected" not in found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Statements whose residual stream holds a place along the first axis, and a word along the second."""
    folder = tmp_path_factory.mktemp("world")
    config = WorldConfig(
        scenes={"train": 50, "validation": 50, "test": 400},
        datasets={"spatial": WorldDataset(kind="spatial", scenes="test", samples=320)},
    )
    file = folder / "samples.jsonl"
    write_dataset(config, "spatial", file, folder / "images")
    samples = load_samples(file)
    labels = {label.name: label.value for label in all_labels(samples)}
    rng, n = np.random.default_rng(0), len(samples)
    text = rng.normal(0, 0.05, (n, WIDTH)) - 3.0
    text[:, 0] += labels["first object in row top"]
    text[:, 1] += labels["word 'left'"]
    # Image tokens must not count.
    rows = np.stack([np.full((n, WIDTH), 50.0), text], axis=1).reshape(2 * n, WIDTH)
    content = ShardContent(
        residual={0: rows.astype(np.float16)},
        token_id=np.zeros(2 * n, np.int32),
        position=np.arange(2 * n, dtype=np.int32) % 2,
        token_type=np.array([IMAGE, TEXT] * n, np.uint8),
        offsets=np.arange(0, 2 * n + 1, 2),
        sample_id=[sample.sample_id for sample in samples],
        group=[sample.group for sample in samples],
    )
    write_shard(folder / "s.h5", content, ShardHeader("m", "d", "f", "e", 0, WIDTH, (0,), "float16"))
    return file, folder / "s.h5", text


TRUTH = [
    {"chance": 0.2, "layer": 0, "feature": f, "seed": seed, "spatial": f == seed, "spatial_match": f <= 1}
    for seed in (0, 1)
    for f in range(3)
]


def scored(world, folder: Path, text: str, truth: list[dict] | None = None) -> pd.DataFrame:
    file, shard, _ = world
    real = write(folder / "truth.parquet", GROUND_TRUTH, TRUTH if truth is None else truth)
    score_submission(
        submitted(folder, text), [real], {"spatial": file}, {"spatial": {0: [shard]}}, folder / "out.csv", 1
    )
    return read_table(folder / "out.csv", METHOD_SCORES)


def test_projections_are_the_largest_on_text(world):
    _, shard, text = world
    found, names = projections([shard], 0, np.eye(WIDTH, dtype=np.float32)[:2])
    np.testing.assert_allclose(found, text[:, :2], atol=2e-3)
    assert len(names) == len(text)


def test_a_direction_that_tells_a_place_is_spatial(world, tmp_path):
    """The place, its opposite, a word, noise; ranked with the word first."""
    lines = ["0,1 0 0 0,2,1", "0,-1 0 0 0,1,1", "0,0 1 0 0,3,1", "0,0 0 1 0,0,0"]
    row = scored(world, tmp_path, "\n".join(["layer,direction,score,selected", *lines]) + "\n").iloc[0]
    assert (row["rule"], row["seed"], row["ranked"], row["selected"]) == ("own", 0, 4, 3)
    assert row["precision"] == pytest.approx(2 / 3) and row["recall"] == 1
    assert row["average_precision"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_the_truth_of_a_direction_does_not_depend_on_the_other_lines(world, tmp_path):
    lines = [
        f"0,{' '.join(map(str, row))},1" for row in np.random.default_rng(5).normal(size=(20, WIDTH)).round(3)
    ]
    lines.append("0,1 0 0 0,2")
    alone = [scored(world, tmp_path, f"layer,direction,score\n{line}\n").iloc[0] for line in lines]
    found = sum(not np.isnan(row["average_precision_any"]) for row in alone)
    file = "\n".join(["layer,direction,score,selected", *(f"{line},1" for line in lines)])
    together = scored(world, tmp_path, file + "\n").iloc[0]
    assert 0 < found < len(lines) and together["precision_any"] == pytest.approx(found / len(lines))


def test_large_scores_rank_as_they_are(world, tmp_path):
    text = "layer,direction,score\n0,1 0 0 0,18446744073709551615\n0,0 0 1 0,0\n"
    assert scored(world, tmp_path, text).iloc[0]["average_precision"] == 1


def test_directions_of_another_width_are_refused(world, tmp_path):
    with pytest.raises(
        SubmissionError, match="direction: found 2 numbers, expected 4, the width of the model"
    ):
        scored(world, tmp_path, "layer,direction,score\n0,1 0,1\n")


def test_features_are_held_against_the_dictionary_of_their_seed(world, tmp_path):
    text = "layer,feature,score,selected,seed\n0,0,2,1,0\n0,2,1,0,0\n0,0,2,1,1\n"
    found = scored(world, tmp_path, text, TRUTH).set_index("seed")
    assert found.loc[0, "precision"] == 1 and found.loc[1, "precision"] == 0
    assert found.loc[0, "average_precision"] == 1
    # The real one is not ranked and comes last with the third: two of three.
    assert found.loc[1, "average_precision"] == pytest.approx(1 / 3)
    assert found["recall_any"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0,3,1,0", "feature: found 3, expected 0 to 2"),
        ("0,1,1,2", "seed: found 2, of which there is no dictionary"),
    ],
)
def test_features_that_the_dictionary_lacks_are_refused(world, tmp_path, line, told):
    with pytest.raises(SubmissionError, match=told):
        scored(world, tmp_path, f"layer,feature,score,seed\n{line}\n", TRUTH)
