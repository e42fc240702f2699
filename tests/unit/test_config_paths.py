"""Where the files of the tiny experiment lie, worked out by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import stages_left_out as tiny

from vlmdiff.config.load import load_config
from vlmdiff.config.local_files import with_targets
from vlmdiff.config.paths import Paths

WEIGHTS = "sae_weights.safetensors"


def paths(**changes) -> Paths:
    """The paths of the tiny experiment with some sections replaced."""
    return Paths(load_config(tiny.tiny(**changes)))


def with_models(**models) -> Paths:
    """The paths of the tiny experiment with further models."""
    return paths(models=tiny.tiny()["models"] | models)


def test_samples_lie_where_they_are_drawn_or_prepared_or_kept():
    files = paths(
        datasets=tiny.tiny()["datasets"]
        | {
            "vsr": {"kind": "vsr", "source": "resources/vsr_random", "split": "test", "samples": 8},
            # A rule of another workflow may make it.
            "own": {"kind": "folder", "path": "/data/own", "samples": 8},
        }
    )
    assert files.samples("text_val") == "results/tiny/world/data/text_val/samples.jsonl"
    assert files.samples("vsr") == "results/tiny/data/vsr/samples.jsonl"
    assert files.samples("own") == "/data/own/samples.jsonl"


def test_a_data_set_has_a_block_for_each_shard_and_one_for_the_rest():
    # 150 samples a shard: 300 fill two, 120 do not fill one, 301 need a third.
    world = tiny.tiny()["world"]
    world["datasets"]["text_val"]["samples"] = 301
    files = paths(world=world)
    assert [len(files.blocks(name)) for name in ("text_train", "general_val", "text_val")] == [2, 1, 3]


def test_shards_of_a_layer_are_those_of_its_group():
    files = paths(extraction={"shard_samples": 150, "batch_tokens": 2048, "layers_at_once": 1})
    assert files.layer_groups == {"layers_0_0": (0,), "layers_1_1": (1,)}
    folder = "results/tiny/activations/vlm/text_train/layers_1_1"
    expected = [f"{folder}/shard_0.h5", f"{folder}/shard_1.h5"]
    assert files.shards("vlm", "text_train", "1") == files.shards_by_layer("vlm", "text_train")[1] == expected
    assert files.left_out("vlm", "general_val") == [
        f"results/tiny/activations/vlm/general_val/{group}/left_out_0.csv" for group in files.layer_groups
    ]


@pytest.mark.parametrize(
    ("world", "source", "folder"),
    [
        ("train", "world:vlm", "results/tiny/world/models/vlm"),
        ("shipped", "world:vlm", "resources/world/vlm"),
        # Control models are never shipped.
        ("shipped", "world:vlm_shuffled", "results/tiny/world/models/vlm_shuffled"),
        ("train", f"hub:someone/model@{'0' * 40}", "results/tiny/models/further"),
        ("train", "/data/model", "/data/model"),
    ],
)
def test_a_checkpoint_lies_where_its_source_says(world, source, folder):
    if world == "shipped":
        values = tiny.shortest()
        values["world"]["controls"] = {"vlm_shuffled": "shuffled_images"}
        files = Paths(load_config(values))
        folder = folder.replace("tiny", "left_out")
    else:
        files = paths()
    assert files.checkpoint("further", source) == folder


def test_weights_are_known_by_all_that_they_are_made_of(tmp_path):
    for name in ("config.json", "tokenizer.json", "model.safetensors", "notes.md"):
        (tmp_path / name).write_text("")
    local = {
        "family": "llava_original",
        "path": str(tmp_path),
        "vision_tower": f"hub:someone/tower@{'0' * 40}",
    }
    files = with_models(mine=local)
    tower = "results/tiny/models/mine_vision_tower"
    assert files.model("mine") == f"{tmp_path}/config.json"
    assert files.weights("mine") == [
        f"{tmp_path}/model.safetensors",
        f"{tmp_path}/tokenizer.json",
        f"{tower}/config.json",
        f"{tower}/commit.json",
    ]
    assert files.subject("mine")["vision_tower"] == tower
    models = "results/tiny/world/models"
    assert files.weights("vlm_untuned") == [
        f"{models}/vlm/model.safetensors",
        f"{models}/base_lm/config.json",
        f"{models}/base_lm/model.safetensors",
    ]
    assert files.subject("vlm_untuned")["untuned"] == f"{models}/base_lm"
    assert files.subject("vlm")["untuned"] is files.subject("vlm")["vision_tower"] is None


def test_of_links_the_files_that_are_meant_count_too(tmp_path):
    (tmp_path / "meant").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "meant")
    (tmp_path / "{braces}").write_text("")
    found = with_targets([tmp_path / "link", tmp_path / "{braces}"])
    assert found == [str(tmp_path / "link"), str(tmp_path / "meant")]


def test_a_published_dictionary_is_the_same_for_all_seeds():
    published = {"format": "saelens", "source": "/data/published", "file": "layer_{layer}"}
    files = paths(dictionaries=tiny.tiny()["dictionaries"] | {"published": published})
    folder = "results/tiny/dictionaries"
    assert files.dictionary("base", 1, 0) == f"{folder}/base/seed_1/layer_0/{WEIGHTS}"
    assert files.dictionaries("published", 1, "cfg.json") == [
        f"{folder}/published/seed_0/layer_0/cfg.json",
        f"{folder}/published/seed_0/layer_1/cfg.json",
    ]


def test_statistics_are_those_of_what_a_comparison_compares():
    folder = "results/tiny/features/statistics/adapted_shuffled/seed_0/vlm_shuffled"
    assert paths().statistics("totals", "shuffled_images", "0", ["text_val", "general_val"]) == [
        f"{folder}/text_val/layer_0/totals.parquet",
        f"{folder}/text_val/layer_1/totals.parquet",
        f"{folder}/general_val/layer_0/totals.parquet",
        f"{folder}/general_val/layer_1/totals.parquet",
    ]


def test_a_dictionary_is_scored_on_the_sets_that_list_it():
    files = paths()
    assert [(one["model"], one["dataset"]) for one in files.evaluation_sets("base")] == [
        ("base_lm", "text_val"),
        ("vlm", "general_val"),
    ]
    (one,) = files.evaluation_sets("scratch")
    assert one["shards"] == files.shards_by_layer("vlm", "general_val")
