"""The contrasts that text cannot pass, on tiny models of two families: from images to selected features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_paligemma
import torch
from PIL import Image
from tiny_models import D_MODEL, build_tiny_vlm

from vlmdiff.data.prepare import prepare_dataset
from vlmdiff.data.samples import load_samples
from vlmdiff.data.subset import Source
from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.extraction.blocks import extract_block
from vlmdiff.features.counterfactual import write_counterfactual
from vlmdiff.features.text_matched import write_text_matched
from vlmdiff.models.registry import load_subject
from vlmdiff.tables.features import CONTRAST
from vlmdiff.tables.io import read_table

LAYER, TEXTS, COPIES = 1, 10, 8
COUNT = TEXTS * COPIES
LIMITS = {"min_effect_size": 0.8, "min_frequency": 0.02, "fdr": 0.05, "within": None}
FAMILIES = {
    "llava": lambda folder: build_tiny_vlm(folder),
    "paligemma": lambda folder: tiny_paligemma.build(folder, layers=3),
}


def write_scenes(folder: Path) -> Path:
    """Write images that are bright on one side, each shown with a text that does not tell which."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for i in range(COUNT):
        left, size = i % 2 == 0, 36
        image = Image.new("RGB", (size, size), (20 + i, 60, 60))
        image.paste((255, 255, 200 - i), (0, 0, size // 2, size) if left else (size // 2, 0, size, size))
        image.save(folder / "images" / f"{i}.png")
        lines.append(
            {
                "sample_id": f"s{i}",
                "image": f"images/{i}.png",
                "prompt": f"the cat is left of the dog {'now ' * (i // COPIES)}.",
                "answer": "left" if left else "right",
                "choices": ["left", "right"],
                "group": "side",
                # Half of either side.
                "coin": ("heads", "tails")[i // 2 % 2],
            }
        )
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "samples.jsonl"


@pytest.fixture(scope="module", params=list(FAMILIES))
def measured(request, tmp_path_factory):
    """Activations of a random model on images and on mirrored ones, and a random dictionary."""
    root = tmp_path_factory.mktemp(request.param)
    subject = load_subject(
        "vlm", {"family": request.param, "attention": "eager"}, FAMILIES[request.param](root / "vlm")
    )
    files = {"scenes": write_scenes(root / "scenes")}
    for name, transform in (("mirrored", {"mirror": "left_right"}), ("dimmed", {"brightness": 0.9})):
        files[name] = root / name / "samples.jsonl"
        entry = {"kind": "subset", "of": "scenes", "transform": transform, "samples": COUNT}
        prepare_dataset(name, entry, files[name], root / f"{name}.csv", Source(files["scenes"], COUNT))
    shards = {}
    for name, file in files.items():
        shards[name] = {LAYER: [root / f"{name}.h5"]}
        samples = load_samples(file)
        extract_block(
            subject, samples, root / f"{name}.h5", dataset=name, block=0, shard_samples=COUNT, layers=[LAYER]
        )
    generator, dictionary = torch.Generator().manual_seed(0), TopKDictionary(D_MODEL, 64, k=16)
    with torch.no_grad():
        rows = torch.nn.functional.normalize(torch.randn(64, D_MODEL, generator=generator), dim=1)
        dictionary.W_dec.copy_(rows)
        dictionary.W_enc.copy_(rows.T)
    save_dictionary(dictionary, root / "dictionary", {})
    return root, load_samples(files["scenes"]), shards


def matched(measured, label):
    root, samples, shards = measured
    criteria = LIMITS | {"label": label, "strata": "prompt"}
    folders, output = {LAYER: root / "dictionary"}, root / f"{label}.parquet"
    write_text_matched("side", samples, shards["scenes"], folders, criteria, output)
    return read_table(output, CONTRAST)


def changed(measured, against, transformed):
    root, samples, shards = measured
    shown = [[sample.sample_id for sample in samples]] * 2
    pair, output = (shards[against], shards[transformed]), root / f"{transformed}.parquet"
    folders = {LAYER: root / "dictionary"}
    write_counterfactual("side", samples, shown, pair, folders, LIMITS | {"label": "answer"}, output)
    return read_table(output, CONTRAST)


def test_equal_texts_find_what_the_image_decides(measured):
    found = matched(measured, "answer")
    assert found["selected"].any()
    assert (found["n_target"] + found["n_baseline"] == COUNT).all()


def test_equal_texts_find_nothing_of_a_coin(measured):
    assert not matched(measured, "coin")["selected"].any()


def test_a_mirror_turns_what_tells_the_sides(measured):
    found = changed(measured, "dimmed", "mirrored")
    assert found["selected"].any()
    told = set(found.loc[found["selected"], "feature"])
    assert told & set(matched(measured, "answer").query("selected")["feature"])


def test_a_change_that_turns_nothing_finds_less(measured):
    mirrored, dimmed = (changed(measured, "scenes", name)["effect_size"] for name in ("mirrored", "dimmed"))
    assert dimmed.max() < mirrored.max()
