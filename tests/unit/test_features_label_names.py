"""Labels of two data sets that name different samples alike are those of the samples themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from feature_tables import write

from vlmdiff.data.samples import load_samples
from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.extraction.blocks import extract_block
from vlmdiff.features.labels import LabelCriteria, label_features
from vlmdiff.features.sums import SampleSetError
from vlmdiff.models.registry import load_subject
from vlmdiff.tables.features import FINAL_FEATURES
from vlmdiff.tables.io import read_table
from vlmdiff.tables.labels import LABEL_EVIDENCE, LABELS

CRITERIA = LabelCriteria(tokens=3, strong_samples=0.2, moderate=0.3, strong=0.6, fdr=0.05, shown=2, tested=3)
FEATURES = (1, 3)


@pytest.fixture(scope="module")
def subject(tiny_vlm_path):
    return load_subject("vlm", {"family": "llava"}, tiny_vlm_path)


@pytest.fixture(scope="module")
def folder(subject, tmp_path_factory) -> Path:
    """Final features, and a dictionary of random directions."""
    folder = tmp_path_factory.mktemp("named")
    dictionary = TopKDictionary(subject.d_model, 4, k=2, subtract_decoder_bias=False)
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.randn(subject.d_model, 4, generator=torch.Generator().manual_seed(1)))
        dictionary.W_dec.copy_(torch.nn.functional.normalize(dictionary.W_enc.T, dim=1))
    save_dictionary(dictionary, folder / "layer_0", {})
    rows = [{"layer": 0, "feature": f, "name": f"L0F{f}"} for f in FEATURES]
    write(folder / "final.csv", FINAL_FEATURES, rows)
    return folder


def label(folder: Path, subject, files: list[Path], output: Path) -> list[pd.DataFrame]:
    """Label by the shards that lie beside samples.jsonl of each data set; return both tables."""
    outputs = output / "labels.csv", output / "evidence.csv", output / "samples.csv"
    shards = {0: [[file.parent / "s.h5"] for file in files]}
    label_features(
        "c", 0, folder / "final.csv", files, shards, {0: folder / "layer_0"}, subject, CRITERIA, outputs
    )
    return [read_table(file, schema) for file, schema in zip(outputs, (LABELS, LABEL_EVIDENCE))]


def data_set(folder: Path, images: Path, rows: list[dict], subject) -> Path:
    """Write a data set and its activations."""
    shutil.copytree(images, folder / "images")
    file = folder / "samples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = load_samples(file)
    extract_block(subject, samples, folder / "s.h5", dataset="d", block=0, shard_samples=40, layers=[0])
    return file


@pytest.fixture(scope="module")
def files(subject, tiny_dataset, tmp_path_factory) -> list[Path]:
    """The whole data set, and its halves, whose samples are both named 0 to 19."""
    root = tmp_path_factory.mktemp("halves")
    rows = [json.loads(line) for line in (tiny_dataset / "samples.jsonl").read_text().splitlines()]
    parts = [
        rows,
        *([row | {"sample_id": str(i)} for i, row in enumerate(p)] for p in (rows[:20], rows[20:])),
    ]
    return [data_set(root / str(i), tiny_dataset / "images", part, subject) for i, part in enumerate(parts)]


def test_data_sets_may_name_different_samples_alike(folder, subject, files, tmp_path):
    whole, *halves = files
    expected = label(folder, subject, [whole], tmp_path)
    for file in halves:
        # A file may hold more than was run.
        more = json.loads(file.read_text().splitlines()[0]) | {"sample_id": "more", "group": "another"}
        with file.open("a") as stream:
            stream.write(json.dumps(more) + "\n")
    assert (expected[1]["kind"] == "trait").any()
    for found, table in zip(label(folder, subject, halves, tmp_path), expected, strict=True):
        pd.testing.assert_frame_equal(found, table, rtol=1e-3)


def test_activations_of_another_data_set_are_refused(folder, subject, files, tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"sample_id": "x", "prompt": "a b", "group": "g"}\n')
    shutil.copy(files[0].parent / "s.h5", tmp_path / "s.h5")
    with pytest.raises(SampleSetError, match="40 samples of the activations are not in the data set"):
        label(folder, subject, [tmp_path / "samples.jsonl"], tmp_path)
