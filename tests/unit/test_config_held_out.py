"""Nothing that is used before is reported on: every key that uses data, every way to name the same data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlmdiff.config.held_out import reported, used_before
from vlmdiff.config.layers import read_layers
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.schema import references

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
# Of each side of a pair, as the configuration may have it: keys that use data, listed by hand.
USES = [
    "dictionaries.base.dataset",
    "dictionaries.data_first.dataset",
    "diff.visual_datasets",
    "diff.text_datasets",
    "comparisons.eps_low.visual_datasets",
    "comparisons.eps_low.text_datasets",
    "concepts.counting.target.dataset",
    "concepts.left_of.baseline.dataset",
    "ablation.rank_on.target",
    "ablation.rank_on.control",
    "heads.dataset",
    "heads.head_means.dataset",
    "steering.rank_on.target",
    "steering.rank_on.control",
]
REPORTS = [
    f"{section}.report_on.{side}"
    for section in ("ablation", "heads", "steering")
    for side in ("target", "control")
]
# In the place of the default's test data: other sections report on other data than those in question.
ELSEWHERE = {
    "other_target": {"path": "elsewhere/target", "samples": 20},
    "other_control": {"path": "elsewhere/control", "samples": 20},
}


def put(values: dict, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        values = values.setdefault(key, {})
    values[last] = [value] if last.endswith("_datasets") else value


def config(use: str, used: str, report: str, on: str, datasets: dict | None = None) -> dict:
    """Return the default configuration in which one key uses a data set and one key reports on another."""
    values = copy.deepcopy(DEFAULT)
    values["datasets"] = ELSEWHERE | (datasets or {})
    for key in REPORTS:
        put(values, key, "other_target" if key.endswith("target") else "other_control")
    put(values, use, used)
    put(values, report, on)
    return values


def refusal(values: dict) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(values)
    return str(error.value)


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("use", USES)
def test_every_key_that_uses_data_is_held_against_every_key_that_reports(use, report):
    mine = {"mine": {"path": "my/data", "samples": 10}, "unlike": {"path": "your/data", "samples": 10}}
    load_config(config(use, "mine", report, "unlike", mine))
    message = refusal(config(use, "mine", report, "mine", mine))
    assert f"{report}: found data set 'mine'" in message
    assert f"but {use} uses 'mine', and it is the same data set; name other data" in message


def test_the_keys_of_the_test_are_all_keys_that_use_data():
    """What is listed by hand stands for every kind of key that names a data set."""
    found = {key for kind, key, _ in references(load_config(DEFAULT)) if kind == "dataset"}

    def kind_of(key: str) -> str:
        parts = key.split(".")
        return ".".join(
            [parts[0], *parts[2:]] if parts[0] in ("dictionaries", "comparisons", "concepts") else parts
        )

    assert {kind_of(key) for key in [*USES, *REPORTS]} == {
        kind_of(key) for key in found if not key.startswith("evaluation.")
    }


def test_scores_of_dictionaries_are_no_use():
    values = copy.deepcopy(DEFAULT)
    values["evaluation"][1]["dataset"] = "spatial_test"
    found = list(references(load_config(values)))
    assert "spatial_test" not in used_before(found)
    assert reported(found) == {
        "spatial_test": "ablation.report_on.target",
        "general_test": "ablation.report_on.control",
    }


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A folder with a source, another one, and links to the first and to the whole place."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "place" / "vsr").mkdir(parents=True)
    (tmp_path / "place" / "vsr_more").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "place" / "vsr")
    (tmp_path / "link").symlink_to("place")
    return tmp_path


NAMES = [
    "place/vsr",
    "./place/vsr",
    "place/vsr/",
    "place//vsr",
    "place/vsr_more/../vsr",
    "linked",
    "link/vsr",
]


@pytest.mark.parametrize("other", [*NAMES, "{absolute}/place/vsr"])
@pytest.mark.parametrize("kind", ["folder", "vsr"])
def test_two_names_of_one_path_are_one_path(kind, other, folders):
    def entry(path: str) -> dict:
        key = "path" if kind == "folder" else "source"
        return {"kind": kind, key: path.format(absolute=folders), "samples": 10}

    def sets(path: str) -> dict:
        return {"a": entry("place/vsr"), "b": entry(path)}

    message = refusal(config("heads.dataset", "a", REPORTS[0], "b", sets(other)))
    assert f"{REPORTS[0]}: found data set 'b'" in message
    assert "but heads.dataset uses 'a', and both" in message and str(folders / "place" / "vsr") in message
    load_config(config("heads.dataset", "a", REPORTS[0], "b", sets("place/vsr_more")))


VQA = {"kind": "vqav2", "source": "hub:a/b@main", "split": "validation", "samples": 100, "offset": 50}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"offset": 149},
        {"offset": 0, "samples": 51},
        {"offset": 60, "samples": 10},
        # Other names of the same repository; what is asked and in which words does not matter.
        {"source": "hub:a/b"},
        {"source": "hub:A/b@main"},
        {"prompt": "answer en {question}", "on_missing": "skip", "text_tokens": 7},
    ],
)
def test_ranges_of_one_source_that_overlap_are_refused(changes):
    sets = {"a": VQA, "b": VQA | changes}
    message = refusal(config("concepts.counting.target.dataset", "a", REPORTS[1], "b", sets))
    assert f"{REPORTS[1]}: found data set 'b'" in message and "uses 'a', and both take rows of" in message
    assert "split 'validation': " in message and "50 to 149" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 150},
        {"offset": 0, "samples": 50},
        {"split": "train"},
        {"source": "hub:a/c@main"},
        {"source": "hub:a/b@other"},
        # Whether rows of other filters or another order are the same only the samples tell.
        {"questions": "spatial"},
        {"answers": "yes_no"},
        {"seed": 1},
    ],
)
def test_what_is_not_surely_shared_is_left_to_the_samples(changes):
    sets = {"a": VQA, "b": VQA | changes}
    load_config(config("concepts.counting.target.dataset", "a", REPORTS[1], "b", sets))


@pytest.mark.parametrize(
    ("used", "report", "words"),
    [
        (
            "general_val",
            {"kind": "general", "scenes": "validation", "samples": 24, "seed": 5},
            "'validation'",
        ),
        ("vqa_train", {"kind": "spatial", "scenes": "train", "samples": 24}, "'train'"),
        ("spatial_test", {"kind": "spatial_open", "scenes": "test", "samples": 24}, "'test'"),
        ("general_val", {"kind": "general", "scenes": "test", "samples": 24}, None),
    ],
)
def test_scenes_of_a_split_are_either_used_or_reported_on(used, report, words):
    values = config("heads.dataset", used, REPORTS[0], "mine")
    values["world"]["datasets"] = load_config(DEFAULT).world.model_dump()["datasets"] | {"mine": report}
    if words is None:
        load_config(values)
    else:
        expected = f"uses '{used}', and both show scenes of the split {words}"
        message = refusal(values)
        also = f" too: both show scenes of the split {words}"
        assert expected in message or (f"'{used}'" in message and also in message)


def test_all_that_share_are_named_and_the_same_data_set_first():
    message = refusal(config("heads.dataset", "spatial_val", REPORTS[0], "spatial_val"))
    told = message.partition("uses 'spatial_val', and it is the same data set; ")[2]
    named, _, common = told.partition(" too: ")
    assert set(named.split(", ")) == {"'general_val'", "'text_val'", "'truth_val'"}
    assert common.startswith("both show scenes of the split 'validation'; name other data")
    # Each report of a wrong set has a line of its own.
    values = config("heads.dataset", "spatial_val", REPORTS[0], "spatial_val")
    put(values, REPORTS[3], "vqa_train")
    assert refusal(values).count("name other data in one of the two keys") == 2


def test_the_key_that_ranked_nothing_says_what_is_in_its_place():
    values = copy.deepcopy(DEFAULT)
    values["heads"]["rank_on"] = {"target": "spatial_val", "control": "general_val", "samples": 300}
    message = refusal(values)
    assert (
        "heads: rank_on: no longer a key" in message and "`head_means: {dataset: …, samples: …}`" in message
    )


@pytest.mark.parametrize("value", ["drop", "keep"])
def test_shared_images_are_dropped_or_kept(value):
    assert load_config(DEFAULT).held_out.shared_images == "drop"
    values = copy.deepcopy(DEFAULT) | {"held_out": {"shared_images": value}}
    assert load_config(values).held_out.shared_images == value


@pytest.mark.parametrize("value", ["mark", True, None])
def test_other_policies_are_refused(value):
    assert "held_out.shared_images" in refusal(
        copy.deepcopy(DEFAULT) | {"held_out": {"shared_images": value}}
    )


SHIPPED = [*sorted((ROOT / "config").glob("*.yaml")), *(ROOT / "tests").glob("*/config.yaml")]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_configuration_of_the_project_reports_on_what_it_did_not_use(file):
    found = list(references(load_config(read_layers({}, [file]).values)))
    assert not set(reported(found)) & set(used_before(found))
    assert len(reported(found)) == 2
