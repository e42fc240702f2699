"""Subsets in the configuration: counted before anything runs, named by groups, held out from each other."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlmdiff.config.base import LONGEST_NAME
from vlmdiff.config.datasets import is_prepared
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.local_files import missing_files
from vlmdiff.config.schema import Config
from vlmdiff.config.storage import planned_series
from vlmdiff.config.subsets import Counting

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
# 60 samples of 30 photos: 10 of the kitchen, 20 of a street.
ROWS = [
    {"sample_id": f"s{i}", "image": f"pics/{i // 2}.png", "prompt": f"question {i} ?",
     "group": "kitchen" if i // 2 < 10 else "street"}
    for i in range(60)
]  # fmt: skip
SUBSET = {"kind": "subset", "of": "photos"}


@pytest.fixture
def photos(tmp_path) -> str:
    (tmp_path / "photos").mkdir()
    write(tmp_path / "photos", ROWS)
    return str(tmp_path / "photos")


def write(folder: Path, rows: list[dict]) -> None:
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def values(photos: str | dict | None = None, **datasets: Any) -> dict:
    """Return the default configuration with further data sets, `photos` by its path or entry."""
    changed, entry = copy.deepcopy(DEFAULT), {"path": photos} if isinstance(photos, str) else photos
    changed["datasets"] = ({"photos": entry} if entry else {}) | datasets
    return changed


def put(changed: dict, path: str, value: Any) -> dict:
    *parents, last = path.split(".")
    inner = changed
    for key in parents:
        inner = inner[int(key) if isinstance(inner, list) else key]
    inner[int(last) if isinstance(inner, list) else last] = value
    return changed


def load(photos: str, **datasets: Any) -> Config:
    return load_config(values(photos, **datasets))


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as error:
        action()
    return str(error.value)


@pytest.mark.parametrize(
    "entry, expected",
    [
        ({}, 60),
        ({"part": "train"}, 30),
        ({"part": "null"}, 6),
        ({"part": None}, 6),
        ({"part": "test"}, 12),
        ({"groups": ["kitchen"]}, 20),
        ({"part": "validation", "groups": ["kitchen"]}, 4),
        ({"part": "validation", "without": ["kitchen"]}, 8),
        ({"part": "train", "images": False}, 30),
        ({"part": "train", "samples": 7}, 7),
    ],
)
def test_samples_of_a_local_folder_are_counted(photos, entry, expected):
    config = load(photos, mine=SUBSET | entry)
    assert config.dataset("mine").samples == expected
    assert config.dataset("photos").samples == 60


def test_parts_are_those_of_the_samples_that_are_used(photos):
    part = SUBSET | {"part": "train"}
    assert load_config(values({"path": photos, "samples": 20}, mine=part)).dataset("mine").samples == 10
    shares = {"train": 0.9, "test": 0.1}
    config = load_config(values({"path": photos, "parts": shares}, mine=part))
    assert config.dataset("mine").samples == 54


def test_one_public_id_under_two_names_is_one_image(photos):
    """Ids pair photo i with photo i + 15, so that parts hold whole pairs: 30, 6, 12 and 12 of 60 samples."""
    rows = [{**row, "group": "all", "image_id": f"mine:{i // 2 % 15}"} for i, row in enumerate(ROWS)]
    write(Path(photos), rows)
    counting = Counting(load(photos, **PARTS).datasets)
    ids = {part: {one["image_id"] for one in counting.records(part)} for part in PARTS}
    assert ids["train"] and not ids["train"] & ids["test"] and not ids["validation"] & ids["test"]
    assert len(counting.records("test")) == 12


def test_what_is_read_in_place_and_what_is_prepared(photos):
    """A canonical folder is read in place; numbers for texts are rewritten, skipped images left out."""
    folder = load(photos).dataset("photos")
    assert not is_prepared(folder)
    assert is_prepared(folder.model_copy(update={"on_missing": "skip"}))
    assert is_prepared(load(photos, mine=SUBSET).dataset("mine"))
    write(Path(photos), [{**row, "sample_id": i} for i, row in enumerate(ROWS)])
    assert is_prepared(folder)


def test_texts_are_planned_as_texts(photos):
    """20 text tokens of each sample as the folder says, and no image tokens where there are no images."""
    folder = {"path": photos, "text_tokens": 33}
    changed = values(folder, text=SUBSET | {"images": False}, shown=SUBSET)
    changed["models"] |= {
        "mine": {"family": "llava", "path": "x", "planned": {"d_model": 8, "image_tokens": 100}}
    }
    scored = {"dictionaries": ["base"], "model": "mine"}
    changed["evaluation"] = [scored | {"dataset": "text"}, scored | {"dataset": "shown"}]
    sizes = {(s.model, s.dataset): s.tokens for s in planned_series(load_config(changed))}
    assert (sizes["mine", "text"], sizes["mine", "shown"]) == (33, 133)


@pytest.mark.parametrize(
    "entry, expected",
    [
        (
            {"groups": ["kichen"]},
            "mine: groups: found 'kichen', expected groups of 'photos': kitchen, street; did",
        ),
        (
            {"without": ["beach"]},
            "mine: without: found 'beach', expected groups of 'photos': kitchen, street",
        ),
        (
            {"without": ["kitchen", "street"]},
            "mine: found no sample of 'photos' that `groups` and `without` leave",
        ),
        ({"samples": 61}, "mine: samples: found 61, expected at most 60"),
        ({"part": "dev"}, "datasets.mine.part: Input should be 'all', 'train', 'null', 'validation' or"),
        ({"of": "fotos"}, "datasets.mine.of: unknown dataset 'fotos'"),
        ({"of": "mine"}, "datasets.mine.of: leads back (mine -> mine)"),
        ({"of": "text_train"}, "mine.samples: needed, for the samples of 'text_train' cannot be counted"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(photos, entry, expected):
    assert expected in refusal(lambda: load(photos, mine=SUBSET | entry))


@pytest.mark.parametrize(
    ("part", "refused"), [("validation", True), ("test", True), ("train", False), (None, False)]
)
def test_a_part_without_a_share_is_refused_where_nothing_can_be_counted(part, refused):
    corpus = {
        "kind": "text",
        "source": "hub:a/corpus@main",
        "samples": 90,
        "parts": {"train": 0.5, "null": 0.5},
    }
    config = {"of": "corpus", "kind": "subset", "part": part, "samples": 9}
    both = values({"path": "/nowhere", "samples": 9}, corpus=corpus, mine=config)
    if not refused:
        assert load_config(both).dataset("mine").samples == 9
        return
    assert (
        f"datasets.mine.part: found '{part}', but datasets.corpus.parts gives it no share "
        "(train 0.5, null 0.5); give it one, or name another part"
    ) in refusal(lambda: load_config(both))


def test_an_empty_part_is_refused(photos):
    shares = {"path": photos, "parts": {"train": 0.5, "test": 0.5}}
    message = refusal(lambda: load_config(values(shares, mine=SUBSET | {"part": "null"})))
    assert (
        "datasets.mine: found no sample of 'photos' in part 'null' (share 0), expected some of the 60"
        in message
    )


def test_a_wrong_samples_file_is_told_once_with_its_line(photos):
    write(Path(photos), [*ROWS[:3], {"prompt": "a"}])
    message = refusal(lambda: load(photos, mine=SUBSET, yours=SUBSET))
    assert "datasets.photos: " in message and message.count("line 4: keys missing: ['group']") == 1


def test_more_samples_than_there_are_are_refused(photos):
    message = refusal(lambda: load_config(values({"path": photos, "samples": 61})))
    assert f"datasets.photos: samples: found 61, but {photos}/samples.jsonl has 60" in message


def test_a_folder_that_is_not_there_needs_a_number(tmp_path):
    entry = {"path": str(tmp_path / "fotos")}
    message = refusal(lambda: load_config(values(entry)))
    said = f"datasets.photos.path: found '{tmp_path}/fotos', but there is no folder {tmp_path}/fotos; "
    assert said in message and "if a rule makes it, set datasets.photos.samples" in message
    # A rule may make it.
    changed = values(entry | {"samples": 9}, mine=SUBSET | {"part": "train", "samples": 4})
    config = load_config(put(changed, "diff.visual_datasets", ["mine"]))
    assert config.dataset("mine").samples == 4
    assert any(line.startswith("datasets.photos.path: ") for line in missing_files(config))


USED = {"target": {"dataset": "validation", "groups": ["kitchen"]}, "control": "validation", "samples": 40}
PARTS = {part: SUBSET | {"part": part} for part in ("train", "validation", "test")}


def experiment(photos: str, report: Any, used: Any = "train") -> dict:
    """Return a configuration that trains on one thing and reports on another."""
    others = {side: {"path": f"elsewhere/{side}", "samples": 20} for side in ("target", "control")}
    changed = values(photos, **PARTS, **others)
    for section in ("ablation", "heads", "steering"):
        changed[section]["report_on"] |= {side: side for side in others}
    changed["ablation"]["rank_on"] = copy.deepcopy(USED)
    return put(put(changed, "dictionaries.adapted.dataset", used), "ablation.report_on.target", report)


def test_groups_become_subsets_with_names(photos):
    changed = experiment(photos, {"dataset": "test", "groups": ["kitchen"]})
    put(changed, "evaluation.0.dataset", {"dataset": "validation", "without": ["street"], "samples": 3})
    put(changed, "diff.visual_datasets", ["validation", {"dataset": "validation", "groups": ["kitchen"]}])
    put(changed, "heads.dataset", {"dataset": "validation", "groups": ["street", "kitchen", "street"]})
    put(changed, "heads.head_means.dataset", {"dataset": "validation"})
    config = load_config(changed)
    assert config.ablation.report_on.target == "test_kitchen"
    assert config.ablation.rank_on.target == "validation_kitchen"
    assert config.evaluation[0].dataset == "validation_without_street_first_3"
    assert config.diff.visual_datasets == ["validation", "validation_kitchen"]
    assert (config.heads.dataset, config.heads.head_means.dataset) == (
        "validation_kitchen_street",
        "validation",
    )
    entry = config.dataset("test_kitchen")
    assert (entry.of, entry.part, entry.groups, entry.samples) == ("test", "all", ["kitchen"], 4)
    assert config.dataset("validation_without_street_first_3").samples == 3
    assert changed["ablation"]["report_on"]["target"] == {"dataset": "test", "groups": ["kitchen"]}


def test_groups_of_the_built_in_world(tmp_path):
    changed = put(values(), "ablation.report_on.target", {"dataset": "spatial_test", "groups": ["left of"]})
    config = load_config(changed)
    assert config.ablation.report_on.target == "spatial_test_left_of"
    # How many there are is not known; not more than there are of all.
    assert config.dataset("spatial_test_left_of").samples == config.dataset("spatial_test").samples == 1200
    groups = {"dataset": "spatial_test", "groups": ["left of"]}
    taken = values(None, spatial_test_left_of={"path": "mine", "samples": 5})
    put(taken, "ablation.report_on.target", groups)
    name = load_config(taken).ablation.report_on.target
    assert name.startswith("spatial_test_left_of_") and len(name) == len("spatial_test_left_of_") + 6


@pytest.mark.parametrize("groups", [["кухня"], ["x" * 80], [f"group {i}" for i in range(20)]])
def test_names_of_any_groups_are_names(photos, groups):
    write(Path(photos), [{**row, "group": groups[i % len(groups)]} for i, row in enumerate(ROWS)])
    changed = values(photos)
    name = load_config(put(changed, "heads.dataset", {"dataset": "photos", "groups": groups})).heads.dataset
    again = load_config(
        put(changed, "heads.dataset", {"dataset": "photos", "groups": groups[::-1]})
    ).heads.dataset
    assert name == again and name.startswith("photos") and len(name) <= LONGEST_NAME


@pytest.mark.parametrize(
    "report, expected",
    [
        (
            {"groups": ["kitchen"]},
            "ablation.report_on.target.dataset: Field required (found: {'groups': ['kitchen']}",
        ),
        (
            {"dataset": "test", "group": "kitchen"},
            "ablation.report_on.target.group: unknown key; did you mean `groups`?",
        ),
        (
            {"dataset": "tset", "groups": ["kitchen"]},
            "ablation.report_on.target.dataset: unknown dataset 'tset'",
        ),
        (
            {"dataset": "test", "groups": ["kichen"]},
            "ablation.report_on.target: groups: found 'kichen', expected",
        ),
    ],
)
def test_wrong_groups_are_refused_with_the_key_that_was_written(photos, report, expected):
    assert expected in refusal(lambda: load_config(experiment(photos, report)))


def test_messages_tell_where_groups_and_data_sets_were_written(photos):
    """Also where the key of a message is that of the subset that groups became."""
    for report, expected in (
        ({"dataset": "test", "groups": ["kichen"]}, "ablation.report_on.target.groups written in FILE)"),
        ({"dataset": "tset", "groups": ["kitchen"]}, "ablation.report_on.target.dataset written in FILE)"),
        ({"groups": ["kitchen"]}, "ablation.report_on.target.dataset written in FILE)"),
    ):
        changed = experiment(photos, report)
        assert expected in refusal(lambda: load_config(changed, lambda key: f"{key} written in FILE"))  # noqa: B023


def test_parts_of_one_folder_are_held_out_from_each_other(photos):
    for report in (
        "test",
        {"dataset": "test", "groups": ["kitchen"]},
        {"dataset": "test", "without": ["street"]},
    ):
        load_config(experiment(photos, report))


@pytest.mark.parametrize(
    "report, used, shared",
    [
        ("test", "test", "it is the same data set"),
        ("test", "photos", "'test' is part of 'photos'"),
        ("photos", "train", "'train' is part of 'photos'"),
        ({"dataset": "test", "groups": ["kitchen"]}, "test", "'test_kitchen' is part of 'test'"),
        ({"dataset": "photos", "groups": ["kitchen"]}, {"dataset": "photos", "groups": ["kitchen", "street"]},
         "both take samples of 'photos'"),
        ({"dataset": "photos", "groups": ["kitchen"]}, "test", "both take samples of 'photos'"),
    ],
)  # fmt: skip
def test_subsets_that_overlap_are_refused(photos, report, used, shared):
    changed = put(experiment(photos, report, used), "ablation.rank_on.target", "train")
    put(changed, "ablation.rank_on.control", "validation")
    message = refusal(lambda: load_config(changed))
    assert "ablation.report_on.target: found data set" in message and shared in message


@pytest.mark.parametrize(
    "report, used",
    [
        # Other groups of one part may show the same images: the rule `hold_out` compares them.
        ({"dataset": "test", "groups": ["kitchen"]}, {"dataset": "test", "groups": ["street"]}),
        ({"dataset": "test", "without": ["kitchen"]}, {"dataset": "test", "without": ["street"]}),
        ("test", {"dataset": "validation", "groups": ["kitchen"]}),
    ],
)
def test_subsets_that_need_not_overlap_are_taken(photos, report, used):
    load_config(experiment(photos, report, used))


def test_subsets_of_the_world_show_scenes_of_its_splits():
    changed = put(values(), "ablation.report_on.target", {"dataset": "spatial_test", "groups": ["above"]})
    put(changed, "ablation.rank_on.target", {"dataset": "general_test", "groups": ["count"]})
    assert "both show scenes of the split 'test'" in refusal(lambda: load_config(changed))
