"""Paths of the user are paths, never patterns, whatever characters they hold."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path

import pandas as pd
import pytest
from damage import picture
from pydantic import TypeAdapter, ValidationError

from vlmdiff.config.datasets import Dataset, TextDataset, VqaDataset
from vlmdiff.data.corpus import offer_text
from vlmdiff.data.samples import DataError
from vlmdiff.data.vqa import offer_vqa
from vlmdiff.dictionaries import importing

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
    (tmp_path / "c::d" / "train.txt").write_text("x" + WORDS)
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
