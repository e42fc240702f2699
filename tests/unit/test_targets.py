"""Targets that nothing makes and files that are not there are refused at once, with what is near."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.local_files import missing_files
from vlmdiff.config.targets import explain_target

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
OUTPUTS = {
    "all": [],
    "controls": [],
    "train": [
        "results/tiny/{dictionary,base|adapted}/seed_{seed,0|[1-9]\\d*}/layer_{layer,0|1}/weights.safetensors"
    ],
    "data": ["results/tiny/data/{dataset,(?!)}/samples.jsonl"],
    "twice": ["results/tiny/{concept,a{1}|b}/{concept}.csv"],
    "write_summary": ["results/tiny/summary.md"],
}
WEIGHTS = "results/tiny/{}/seed_{}/layer_{}/weights.safetensors"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("controlls", "did you mean controls?"),
        ("results/tiny/sumary.md", "did you mean results/tiny/summary.md?"),
        ("entirely-else", "`snakemake --list-target-rules`"),
        ("results/huge/summary.md", "of experiment 'huge', but this configuration describes 'tiny'"),
        (WEIGHTS.format("base", 0, 99), "layer: found '99', expected one of 0, 1"),
        (
            WEIGHTS.format("bse", 0, 1),
            "dictionary: found 'bse', expected one of base, adapted; did you mean base?",
        ),
        (WEIGHTS.format("base", "x", 1), "seed: found 'x', expected a whole number"),
        (WEIGHTS.format("bse", 0, 7), "adapted; did you mean base?; layer: found '7'"),
        ("results/tiny/data/mine/samples.jsonl", "dataset: found 'mine', expected nothing of this kind"),
        ("train", f"such as {WEIGHTS.format('{dictionary}', '{seed}', '{layer}')} with values"),
        ("results/tiny/aa/aa.csv", "concept: found 'aa', expected something else"),
    ],
)
def test_a_target_is_explained_by_what_is_near(target, words):
    said = explain_target(target, OUTPUTS, ["results/tiny/summary.md"], "tiny")
    assert said.startswith(target)
    assert words in said
    assert "\n" not in said


def changed(**entries) -> dict:
    values = copy.deepcopy(DEFAULT)
    for section, named in entries.items():
        for name, entry in named.items():
            values.setdefault(section, {}).setdefault(name, {}).update(entry)
    return values


def problems(tmp_path, monkeypatch, **entries) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return missing_files(load_config(changed(**entries)))


def test_the_default_configuration_names_no_file_of_the_user(tmp_path, monkeypatch):
    assert problems(tmp_path, monkeypatch) == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "models/tuned",
            "found 'models/tuned', but there is no folder models/tuned in {here}; "
            "did you mean models/tuned-7b?",
        ),
        ("models/empty", "there is no models/empty/config.json"),
        ("~/tuned", "write the whole path"),
        ("owner/name", "is written hub:owner/name@REVISION"),
        ("owner/name@main", "is written hub:owner/name@main"),
        ("https://huggingface.co/owner/name/", "is written hub:owner/name@REVISION"),
        ("https://huggingface.co/owner/name/tree/v1/sub", "is written hub:owner/name@v1"),
        ("huggingface.co/datasets/owner/name", "is written hub:owner/name@REVISION"),
        ("hf://owner/name", "is written hub:owner/name@REVISION"),
        ("HUB:owner/name", "did you mean hub:owner/name?"),
        ("World: vlm", "did you mean world:vlm?"),
        ("models", "the folder is there, config.json is not: did you mean models/tuned-7b?"),
        ("models/empty", "the folder is there, config.json is not: name the folder that holds it"),
        ("models/tuned-7b/config.json", "/config.json is a file: name its folder, models/tuned-7b"),
        ("models/tuned-7b/config.json/", "/config.json is a file: name its folder, models/tuned-7b"),
        ("models/link", "models/link is a link that leads nowhere"),
        ("m" * 300, "put the files there"),
        ("/nowhere/at/all", "put the files there"),
    ],
)
def test_a_missing_checkpoint_names_its_key(tmp_path, monkeypatch, path, words):
    for name in ("tuned-7b", "empty"):
        (tmp_path / "models" / name).mkdir(parents=True)
    (tmp_path / "models" / "tuned-7b" / "config.json").write_text("{}")
    (tmp_path / "models" / "link").symlink_to("gone")
    (line,) = problems(tmp_path, monkeypatch, models={"vlm": {"path": path}})
    assert line.startswith("models.vlm.path: ")
    assert words.format(here=tmp_path) in line


def test_what_is_there_what_a_rule_makes_and_what_nobody_uses_is_not_missing(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text("{}")
    values = changed(models={"vlm": {"path": "there"}, "base_lm": {"path": "made"}})
    values["models"]["unused"] = {"family": "llava", "path": "nowhere"}
    monkeypatch.chdir(tmp_path)
    assert missing_files(load_config(values), lambda file: file == "made/config.json") == []


@pytest.mark.parametrize("path", ["", " ", " hub:owner/name", "models/tuned ", "\tworld:vlm"])
def test_a_path_is_not_empty_and_has_no_blanks_around_it(path):
    with pytest.raises(ConfigError, match=r"models.vlm.path: .* expected a path without blanks around it"):
        load_config(changed(models={"vlm": {"path": path}}))


FROM_THE_HUB = "a data set of the hub needs `kind` and `source: hub:OWNER/NAME@REVISION`, and no `images`"
VQA = {"kind": "vqav2", "source": "vqa", "samples": 3}


@pytest.mark.parametrize(
    ("section", "name", "entry", "key", "expected"),
    [
        *(("models", "vlm", {key: said}, key, "a path, hub:…, world:… or pypi:…")
          for key in ("path", "vision_tower") for said in ("saelens:foo", "SAELens: foo")),
        *(("dictionaries", "new", {"source": said, "format": "vlmdiff", "file": "{layer}"}, "source",
           "a path, hub:… or saelens:…") for said in ("world:foo", "World:vlm")),
        *(("datasets", "text_train", {"kind": kind, "source": said, "samples": 3}, "source",
           "a path or hub:…") for kind in ("text", "vsr", "vqav2") for said in ("world:foo", "saelens:foo")),
        ("datasets", "x", {"kind": "whatsup", "source": "hub:a/b", "samples": 3}, "source",
         "a folder on this machine"),
        *(("datasets", "x", {"path": said, "samples": 3}, "path", f"a folder on this machine; {FROM_THE_HUB}")
          for said in ("hub:a/b", "HUB:a/b", "world:b", "saelens:b")),
        *(("datasets", "x", VQA | {"kind": kind, key: said}, key, f"a folder on this machine; {FROM_THE_HUB}")
          for kind, key in (("vqav2", "images"), ("vsr", "images"), ("vsr", "image_cache"))
          for said in ("hub:c/d", "world:c")),
    ],
)  # fmt: skip
def test_every_key_knows_where_its_source_may_come_from(section, name, entry, key, expected):
    with pytest.raises(ConfigError) as error:
        load_config(changed(**{section: {name: entry}}))
    (line,) = [line for line in str(error.value).splitlines() if "expected a" in line]
    assert f"{section}.{name}." in line
    assert f"{key}: found '{entry[key]}', expected {expected}" in line


@pytest.mark.parametrize(
    ("section", "name", "entry"),
    [
        ("models", "vlm", {"path": "hub:a/b"}),
        ("models", "vlm", {"path": "worlds/saelens:foo"}),
        ("datasets", "x", {"kind": "text", "source": "hub:a/b@main", "samples": 3}),
        ("datasets", "x", {"path": "hub/a", "samples": 3}),
        ("dictionaries", "new", {"source": "hub:a/b", "format": "vlmdiff", "file": "{layer}"}),
    ],
)
def test_sources_that_a_key_takes_are_taken(section, name, entry):
    assert load_config(changed(**{section: {name: entry}}))


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    (tmp_path / "sae.npz").write_text("")
    published = {"format": "gemma_scope", "initial": "random", "file": "layer_{layer}"}
    values = changed()
    values["dictionaries"]["base"] = {"source": "sae.npz", **published}
    monkeypatch.chdir(tmp_path)
    (dictionary,) = missing_files(load_config(values))
    assert dictionary.startswith("dictionaries.base.file: found 'layer_{layer}', ")
    assert dictionary.endswith("; sae.npz is a file: name its folder, .")
    with pytest.raises(
        ConfigError, match=r"datasets.mine: mine/notes.txt: found a file, expected a folder or"
    ):
        load_config(changed(datasets={"mine": {"path": "mine/notes.txt"}}))


def test_data_sets_and_dictionaries_name_their_keys_too(tmp_path, monkeypatch):
    (tmp_path / "saes").mkdir()
    values = changed(
        datasets={
            "text_train": {"kind": "folder", "path": "mine", "samples": 3},
            "vqa_train": {"kind": "vqav2", "source": "vqa", "images": "coco", "samples": 3},
        }
    )
    published = {"format": "vlmdiff", "initial": "random", "file": "layer_{layer}"}
    values["dictionaries"]["base"] = {"source": "saes", **published}
    values["dictionaries"]["scratch"] = {"source": "other", **published}
    monkeypatch.chdir(tmp_path)
    lines = missing_files(load_config(values))
    found = {line.partition(":")[0]: line for line in lines}
    assert set(found) == {
        "datasets.text_train.path", "datasets.vqa_train.source", "datasets.vqa_train.images",
        "dictionaries.base.file", "dictionaries.scratch.source",
    }  # fmt: skip
    assert f"there is no folder mine in {tmp_path}; " in found["datasets.text_train.path"]
    assert "there is no saes/layer_0" in found["dictionaries.base.file"]


def test_a_model_of_the_world_has_to_be_one(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"models.vlm.path: found 'world:vlmm'; the world has \['base_lm'"):
        load_config(changed(models={"vlm": {"path": "world:vlmm"}}))
    values = changed()
    del values["world"]
    values["datasets"] = {
        name: {"path": name, "samples": 8}
        for name in ("text_train", "text_null", "text_null_check", "text_val", "vqa_train", "general_val",
                     "spatial_val", "truth_val", "spatial_test", "general_test")
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"models.base_lm.path: 'world:base_lm' needs the section `world`"):
        load_config(values)


def refused(*arguments: str) -> str:
    """Run Snakemake as a user would; return what it says of why it refuses."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), text=True, capture_output=True, check=False
    )
    assert done.returncode != 0
    for raw in ("MissingRuleException", "MissingInputException", "WildcardError", "Traceback", "wildcards."):
        assert raw not in done.stdout + done.stderr
    return done.stdout + done.stderr


def test_snakemake_refuses_targets_that_nothing_makes():
    layer = "results/builtin/dictionaries/base/seed_0/layer_99/sae_weights.safetensors"
    shard = "results/builtin/activations/vlm/vqa_train/layers_0_3/shard_9.h5"
    said = refused(
        "controlz", "train_dictionary", "patch_heads", layer, shard,
        "--forcerun", "train_dictionry", "--until", "prepare_dataset",
    )  # fmt: skip
    for words in (
        "controlz: nothing of this name can be made; did you mean controls",
        "train_dictionary makes one set of files for each of many cases",
        "or make all with `--until patch_heads`",
        "--until prepare_dataset: its jobs may wait for each other",
        "ask for the target `sources`",
        f"{layer}: layer: found '99', expected one of 0, 1, 2, 3",
        f"{shard}: found block 9, expected 0 to 2",
        "train_dictionry: nothing of this name can be made; did you mean train_dictionary",
    ):
        assert said.count(words) == 1
    # Which would leave those that start from others untrained.
    assert "--until train_dictionary" not in said


def test_an_experiment_without_the_world_trains_no_models_of_it():
    said = refused("world_models", "--configfile", "config/paligemma2_first_look.yaml")
    assert said.count("world_models: this configuration has no `world`") == 1


def test_snakemake_refuses_files_that_are_not_there_or_do_not_fit(tmp_path):
    config = tmp_path / "config.yaml"
    values = changed(models={"vlm": {"path": "nowhere/vlm"}, "vlm_50": {"path": "resources/world/base_lm"}})
    values["concepts"]["counting"]["target"]["groups"] = ["cont"]
    entry = {"source": str(tmp_path), "format": "saelens", "file": "layer_{layer}"}
    values["dictionaries"]["published"] = entry
    (tmp_path / "layer_0").mkdir()
    config.write_text(yaml.safe_dump(values))
    said = refused("--configfile", str(config))
    for words in (
        "models.vlm.path: found 'nowhere/vlm', but there is no folder nowhere in ",
        "models.vlm_50.family: 'llava' reads checkpoints of model_type llava, but resources/world/base_lm",
        "concepts.counting.target.groups: found 'cont', but data set 'general_val'",
        f"dictionaries.published.file: {tmp_path}/layer_0/cfg.json is not there",
    ):
        assert said.count(words) == 1, words
