"""Paths of the user are paths, never patterns, whatever characters they hold."""

from __future__ import annotations

import fnmatch
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from damage import picture
from pydantic import TypeAdapter, ValidationError

from vlmdiff.config import sources
from vlmdiff.config.datasets import Dataset, TextDataset, VqaDataset
from vlmdiff.config.load import load_config
from vlmdiff.config.local_files import unnameable_files
from vlmdiff.data.corpus import offer_text
from vlmdiff.data.samples import DataError
from vlmdiff.data.vqa import offer_vqa
from vlmdiff.dictionaries import importing, source

ROOT = Path(__file__).parents[2]
NAMES = (
    "run[12]", "run1", "a b", "ü\u4e2d", "~", "-dash", "a,b", "q?", "st*r", "100%", "#hash", ".hidden",
    "__twice",
    "a'b", 'q"', "$HOME", "a;b", "back\\slash", "!x", "[!a]",
)  # fmt: skip
WORDS = " seen by eight words or more of a text"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Folders side by side that patterns would take for one another, each with a corpus of its own."""
    root = tmp_path_factory.mktemp("corpora")
    for name in NAMES:
        (root / name).mkdir()
        text = name + WORDS
        (root / name / "train.jsonl").write_text(json.dumps({"text": text}) + "\n")
        (root / name / "train.txt").write_text(text + "\n")
        pd.DataFrame({"text": [text]}).to_parquet(root / name / "train.parquet")
    return root


@pytest.mark.parametrize(
    ("name", "suffix"), [(name, "jsonl") for name in NAMES] + [("run[12]", "txt"), ("q?", "parquet")]
)
def test_a_corpus_is_read_from_the_file_that_is_named(root, name, suffix):
    entry = TextDataset(kind="text", source=str(root / name / f"train.{suffix}"), samples=1)
    (found,) = offer_text(entry).take(5, 0)
    assert found.values["prompt"] == name + WORDS


def test_a_split_is_a_name_too(tmp_path):
    for name in ("val[12]", "val1"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name + WORDS}) + "\n")
    (found,) = offer_text(TextDataset(kind="text", source=str(tmp_path), split="val[12]", samples=1)).take(
        5, 0
    )
    assert found.values["prompt"] == "val[12]" + WORDS
    with pytest.raises(DataError, match="split 'val\\*'"):
        offer_text(TextDataset(kind="text", source=str(tmp_path), split="val*", samples=1))


def test_the_official_questions_of_a_split_are_those_of_its_name(tmp_path):
    for name, number in (("val[12]", 1), ("val1", 2)):
        question = {"question_id": number, "image_id": number, "question": f"what is {name} ?"}
        answer = {"question_id": number, "image_id": number, "multiple_choice_answer": "yes"}
        (tmp_path / f"v2_{name}_questions.json").write_text(json.dumps({"questions": [question]}))
        (tmp_path / f"v2_{name}_annotations.json").write_text(json.dumps({"annotations": [answer]}))
        (tmp_path / f"{number:012d}.jpg").write_bytes(picture("JPEG"))
    entry = VqaDataset(
        kind="vqav2", source=str(tmp_path), images=str(tmp_path), split="val[12]", samples=1
    )  # fmt: skip
    (found,) = offer_vqa(entry).take(5, 0)
    assert found.values["question"] == "what is val[12] ?"


def test_what_the_reader_of_tables_cannot_take_literally_is_refused(tmp_path):
    (tmp_path / "c::d").mkdir()
    (tmp_path / "c::d" / "train.csv").write_text("text\nx" + WORDS)
    with pytest.raises(DataError, match=r"c::d.*rename the folder or the file"):
        offer_text(TextDataset(kind="text", source=str(tmp_path / "c::d"), samples=1))


def test_files_of_a_dictionary_on_the_hub_are_names(tmp_path, monkeypatch):
    asked = []

    def fetched(_source, patterns):
        asked.extend(patterns)
        raise RuntimeError("far enough")

    monkeypatch.setattr(importing, "fetch_repository", fetched)
    with pytest.raises(RuntimeError, match="far enough"):
        importing.fetch_dictionary("hub:a/b@main", "mmdiff", {0: "run[12]/l*.pt"}, tmp_path / "sources.json")
    assert fnmatch.fnmatch("run[12]/l*.pt", asked[0])
    assert not any(fnmatch.fnmatch(other, asked[0]) for other in ("run1/l*.pt", "run[12]/layer.pt"))


@pytest.mark.parametrize(
    "entry",
    [
        {"path": "a/{x}", "samples": 1},
        {"kind": "text", "source": "a/{x}/b.txt", "samples": 1},
        {"kind": "vqav2", "source": "a", "images": "b}", "samples": 1},
        {"kind": "vsr", "source": "a", "image_cache": "{", "samples": 1},
    ],
)
def test_braces_are_refused_because_snakemake_takes_them_for_wildcards(entry):
    with pytest.raises(ValidationError, match="expected a path without braces"):
        TypeAdapter(Dataset).validate_python(entry)


def with_entries(**entries) -> dict:
    """Return the default configuration with some entries changed."""
    values = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    for section, named in entries.items():
        for name, entry in named.items():
            values.setdefault(section, {}).setdefault(name, {}).update(entry)
    return values


@pytest.mark.parametrize(
    ("file", "section", "name", "entry", "key"),
    [
        ("model{a}.safetensors", "models", "vlm", {"path": "here"}, "models.vlm.path"),
        ("pytorch_model{}.bin", "models", "vlm", {"path": "here"}, "models.vlm.path"),
        ("train{b}.jsonl", "datasets", "text_train", {"kind": "text"}, "datasets.text_train.source"),
        ("data/train-{1.parquet", "datasets", "text_train", {"kind": "text"}, "datasets.text_train.source"),
    ],
)
def test_a_file_that_is_read_and_cannot_be_named_is_refused(tmp_path, file, section, name, entry, key):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    for one in (file, "notes{old}.txt", "x{1a}.json", "validation{c}.jsonl", "config.json"):
        (tmp_path / one).write_text("{}")
    place = {"path": str(tmp_path)} if "path" in entry else {"source": str(tmp_path), "samples": 3}
    config = load_config(with_entries(**{section: {name: entry | place}}))
    assert unnameable_files(config) == [
        f"{key}: found '{tmp_path / file}', expected a name without braces (Snakemake's wildcards); rename it"
    ]


def test_a_published_dictionary_whose_path_has_braces_is_refused(tmp_path):
    entry = {"source": str(tmp_path), "format": "mmdiff", "k": 3, "file": "a{{b}}/{layer}.pt"}
    values = with_entries()
    values["dictionaries"]["base"] = entry
    found = unnameable_files(load_config(values))
    assert len(found) == 4
    assert found[0].startswith(f"dictionaries.base.file: found '{tmp_path}/a{{b}}/0.pt', expected a name")


def test_a_link_may_lead_to_braces_and_what_is_not_read_may_have_them(tmp_path):
    """The model is a link into such a folder, so is a file of a corpus; notes and the like are not read."""
    (tmp_path / "{draft}").mkdir()
    shutil.copytree(ROOT / "resources" / "world" / "vlm", tmp_path / "{draft}" / "vlm")
    for name in ("notes{old}.txt", "x{1a}.json"):
        (tmp_path / "{draft}" / "vlm" / name).write_text("{}")
    texts = [{"text": f"{word} is the first of the words of this document"} for word in ("one", "two")]
    (tmp_path / "{draft}" / "texts.jsonl").write_text("\n".join(map(json.dumps, texts)))
    (tmp_path / "vlm").symlink_to(tmp_path / "{draft}" / "vlm")
    (tmp_path / "train.jsonl").symlink_to(tmp_path / "{draft}" / "texts.jsonl")
    corpus = {"kind": "text", "source": str(tmp_path), "samples": 1200}
    values = with_entries(models={"vlm": {"path": str(tmp_path / "vlm")}}, datasets={"text_train": corpus})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", "--quiet", "all"]
    done = subprocess.run(
        [*command, "--configfile", str(tmp_path / "config.yaml")], cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_release_begins_alike_for_the_configuration_and_for_jobs():
    assert source.RELEASE == sources.RELEASE
