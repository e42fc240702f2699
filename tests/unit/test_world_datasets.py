"""The analysis data sets of the built-in world: balance, separation, format."""

import json
from collections import Counter, defaultdict
from itertools import combinations

import pytest
from PIL import Image
from pydantic import ValidationError

from vlmdiff.config.world import WorldConfig, WorldDataset
from vlmdiff.world.datasets import make_samples, write_dataset
from vlmdiff.world.draw import IMAGE_PIXELS
from vlmdiff.world.language import GENERAL_KINDS, RELATIONS
from vlmdiff.world.scenes import scene_splits

CONFIG = WorldConfig()
SPLITS = scene_splits(CONFIG.scenes.model_dump(), CONFIG.seed)
SAMPLES = {
    name: make_samples(spec, SPLITS[spec.scenes], CONFIG.seed) for name, spec in CONFIG.datasets.items()
}


@pytest.mark.parametrize("name", CONFIG.datasets)
def test_each_data_set_has_its_size_and_no_repetition(name: str):
    assert len(SAMPLES[name]) == CONFIG.datasets[name].samples
    if CONFIG.datasets[name].kind not in ("text", "mixed"):
        assert len({(sample.scene, sample.prompt) for sample in SAMPLES[name]}) == len(SAMPLES[name])


def test_data_sets_of_different_splits_share_no_scene():
    scenes = defaultdict(set)
    for name, samples in SAMPLES.items():
        scenes[CONFIG.datasets[name].scenes] |= {sample.scene for sample in samples}
    for one, other in combinations(scenes, 2):
        assert not scenes[one] & scenes[other]


@pytest.mark.parametrize("name", ["spatial_val", "spatial_test"])
def test_text_alone_says_nothing_about_the_truth_of_a_statement(name: str):
    truths = defaultdict(Counter)
    for sample in SAMPLES[name]:
        truths[sample.prompt][sample.exchange.answer] += 1
    assert all(counts["true"] == counts["false"] for counts in truths.values())


def test_true_and_false_statements_hold_the_same_texts(tmp_path):
    write_dataset(CONFIG, "truth_val", tmp_path / "samples.jsonl", tmp_path / "images")
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    texts = {
        group: sorted(row["prompt"] for row in rows if row["group"] == group) for group in ("true", "false")
    }
    assert texts["true"] == texts["false"] and 2 * len(texts["true"]) == len(rows)
    assert all(row["group"] == row["answer"] for row in rows)
    assert [row["prompt"] for row in rows] == [sample.prompt for sample in SAMPLES["spatial_val"]]


@pytest.mark.parametrize("name", ["spatial_val", "spatial_test"])
def test_statements_are_balanced_over_relation_and_truth(name: str):
    counts = Counter((sample.exchange.group, sample.exchange.answer) for sample in SAMPLES[name])
    assert len(counts) == 2 * len(RELATIONS)
    assert set(counts.values()) == {len(SAMPLES[name]) // (2 * len(RELATIONS))}


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("general_test", set(GENERAL_KINDS)),
        ("spatial_open_test", {"horizontal relation", "vertical relation", "row", "column"}),
    ],
)
def test_questions_are_balanced_over_groups_and_answers(name: str, groups: set[str]):
    answers = defaultdict(Counter)
    for sample in SAMPLES[name]:
        answers[sample.exchange.group][sample.exchange.answer] += 1
    assert set(answers) == groups
    assert len({counts.total() for counts in answers.values()}) == 1
    assert all(max(counts.values()) - min(counts.values()) <= 1 for counts in answers.values())


def test_text_data_sets_with_other_seeds_differ():
    assert {s.prompt for s in SAMPLES["text_train"]} != {s.prompt for s in SAMPLES["text_null"]}


def small_config(**datasets: WorldDataset) -> WorldConfig:
    return WorldConfig(scenes={"train": 200, "validation": 200, "test": 200}, datasets=datasets)


def test_written_files_are_complete_and_the_same_every_time(tmp_path):
    config = small_config(statements=WorldDataset(kind="spatial", scenes="test", samples=16))
    for run in ("first", "second"):
        write_dataset(config, "statements", tmp_path / run / "samples.jsonl", tmp_path / run / "images")
    text = (tmp_path / "first" / "samples.jsonl").read_text()
    assert text == (tmp_path / "second" / "samples.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["sample_id"] for row in rows] == [f"statements-{index:06d}" for index in range(16)]
    for row in rows:
        assert Image.open(tmp_path / "first" / row["image"]).size == (IMAGE_PIXELS, IMAGE_PIXELS)
        assert row["caption"] == row["prompt"]
        assert row["label"] == (row["answer"] == "true")
        assert row["relation"] == row["group"]
        objects, relations = row["scene"]["objects"], row["scene"]["relations"]
        names = [f"the {thing['colour']} {thing['shape']}" for thing in objects]
        held = {f"{names[r['subject']]} is {r['relation']} {names[r['object']]} ." for r in relations}
        assert (row["caption"] in held) == bool(row["label"])
        first, second = (f"the {row[who]['colour']} {row[who]['shape']}" for who in ("first", "second"))
        assert row["caption"] == f"{first} is {row['relation']} {second} ."
        assert row["first"] in objects and row["second"] in objects
    # Statements name the objects of a scene in either order.
    assert 0 < sum(row["first"] == row["scene"]["objects"][0] for row in rows) < len(rows)


def test_text_rows_have_neither_image_nor_answer(tmp_path):
    config = small_config(texts=WorldDataset(kind="text", scenes="train", samples=5))
    write_dataset(config, "texts", tmp_path / "samples.jsonl", tmp_path / "images")
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {(row["image"], row["answer"], row["choices"], row["group"]) for row in rows} == {
        (None, None, None, "text")
    }


def test_too_few_scenes_are_reported():
    spec = WorldDataset(kind="spatial", scenes="test", samples=8_000)
    with pytest.raises(ValueError, match=r"ask for fewer samples or more scenes"):
        make_samples(spec, SPLITS["test"][:100], seed=0)


def test_unbalanceable_sizes_are_refused():
    with pytest.raises(ValidationError, match="multiple of 8"):
        WorldDataset(kind="spatial", scenes="test", samples=12)


@pytest.mark.parametrize(
    ("stage", "scenes"),
    [
        ("language_model", {"train": 12_000}),
        ("vision", {"train": 12_000}),
        ("tuning", {"train": 12_000, "validation": 2_000}),
    ],
)
def test_a_training_depends_on_no_scenes_that_are_drawn_after_its_own(stage, scenes):
    settings = CONFIG.stage_settings(stage)
    assert settings["scenes"] == scenes
    assert set(settings) == {"seed", "weights_dtype", "scenes", stage}


def test_later_splits_change_no_scene_of_earlier_ones():
    small = scene_splits({"train": 100, "validation": 60, "test": 50}, 0)
    large = scene_splits({"train": 100, "validation": 60, "test": 90}, 0)
    assert (small["train"], small["validation"]) == (large["train"], large["validation"])
    assert small["test"] == large["test"][:50]
