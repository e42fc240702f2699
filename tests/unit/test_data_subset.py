"""Preparing subsets of folders, public sources, texts and the built-in world; folders as people have them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from damage import picture
from PIL import Image

from vlmdiff.config.load import load_config
from vlmdiff.config.parts import PARTS, Parts
from vlmdiff.config.world import WorldConfig
from vlmdiff.data.identity import image_identity
from vlmdiff.data.prepare import prepare_dataset
from vlmdiff.data.samples import DataError, Sample, load_samples
from vlmdiff.data.subset import Source
from vlmdiff.tables.data import DATASET_COUNTS
from vlmdiff.tables.io import read_table
from vlmdiff.world.datasets import write_dataset

ROOT = Path(__file__).parents[2]
GROUPS = ("kitchen", "street", "beach")


def photo(file: Path, seed: int) -> None:
    """Write a picture unlike any of another seed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(values).save(file)


@pytest.fixture
def photos(tmp_path) -> Path:
    """60 photos in a folder of any name, with two questions each; ids are numbers."""
    rows = []
    for i in range(60):
        photo(tmp_path / f"photos/my pics/{i}.png", i)
        for j, answer in enumerate(("yes", "no")):
            rows.append({"sample_id": 2 * i + j, "image": f"my pics/{i}.png", "prompt": f"is {j} in {i} ?",
                         "answer": answer, "choices": ["yes", "no"], "group": GROUPS[i % 3]})  # fmt: skip
    write(tmp_path / "photos", rows)
    return tmp_path / "photos"


def write(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "samples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def prepare(folder: Path, entry: dict, source: Source | None = None) -> list[Sample]:
    """Prepare a data set as the rule does; return its samples."""
    prepare_dataset("mine", entry, folder / "samples.jsonl", folder / "counts.csv", source)
    return load_samples(folder / "samples.jsonl")


def prepare_parts(folder: Path, source: Source, **keys: object) -> dict[str, list[Sample]]:
    entry = {"kind": "subset", "of": "photos"} | keys
    return {part: prepare(folder / part, entry | {"part": part}, source) for part in PARTS}


def check_disjoint(parts: dict[str, list[Sample]]) -> None:
    shown = {part: {image_identity(one) for one in samples} for part, samples in parts.items()}
    assert sum(map(len, shown.values())) == len(set.union(*shown.values()))


def test_parts_of_a_folder_are_what_was_counted(photos, tmp_path):
    folder = prepare(tmp_path / "whole", {"path": str(photos)})
    assert [one.sample_id for one in folder] == [str(i) for i in range(120)]
    parts = prepare_parts(tmp_path / "parts", Source(tmp_path / "whole/samples.jsonl", 120, root="images/"))
    assert {part: len(samples) for part, samples in parts.items()} == {
        "train": 60, "null": 12, "validation": 24, "test": 24}  # fmt: skip
    check_disjoint(parts)
    assert {one.sample_id for samples in parts.values() for one in samples} == {
        one.sample_id for one in folder
    }
    for samples in parts.values():
        assert len(set(Counter(one.group for one in samples).values())) == 1, "each group alike"
        assert [int(one.sample_id) for one in samples] == sorted(int(one.sample_id) for one in samples)
    first = parts["test"][0]
    original = photos / f"my pics/{int(first.sample_id) // 2}.png"
    assert first.image_file.resolve() == original and (tmp_path / "parts/test/images").is_symlink()
    counts = read_table(tmp_path / "parts/null/counts.csv", DATASET_COUNTS).iloc[0]
    assert counts[["kind", "source", "split", "requested", "kept"]].tolist() == [
        "subset",
        "photos",
        "null",
        12,
        12,
    ]


def test_one_config_and_its_job_choose_the_same_samples(photos, tmp_path):
    """The configuration counts by paths, the job looks at bytes too; groups narrow a part of a part."""
    (photos / "samples.jsonl").rename(photos / "old.jsonl")
    rows = [json.loads(line) | {"sample_id": f"s{i}"} for i, line in enumerate((photos / "old.jsonl").open())]
    write(photos, [row for i, row in enumerate(rows) if i % 5])
    subset = {"kind": "subset", "of": "photos", "part": "validation", "without": ["beach"]}
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    values["datasets"] = {"photos": {"path": str(photos)}, "mine": subset}
    planned = load_config(values).dataset("mine").samples
    found = prepare(tmp_path / "mine", subset, Source(photos / "samples.jsonl", 96))
    assert len(found) == planned and {one.group for one in found} == {"kitchen", "street"}
    inner = {"kind": "subset", "of": "mine", "groups": ["street"], "samples": 2}
    nested = prepare(
        tmp_path / "inner", inner, Source(tmp_path / "mine/samples.jsonl", planned, root="images/")
    )
    assert nested[0].image_file.is_file()
    assert [one.sample_id for one in nested] == [one.sample_id for one in found if one.group == "street"][:2]


@pytest.mark.parametrize("other", [shutil.copy, os.symlink, os.link], ids=["copy", "link", "hard link"])
def test_a_photo_under_other_names_stays_together(photos, tmp_path, other):
    rows = [json.loads(line) for line in (photos / "samples.jsonl").open()]
    for i in range(0, 60, 2):
        copy = photos / f"copies/{i}.png"
        copy.parent.mkdir(exist_ok=True)
        # Of another size than all others, so that nothing but the name tells that it is one file.
        source = photos / f"my pics/{i}.png"
        source.write_bytes(source.read_bytes() + bytes(i))
        other(source, copy)
        rows.append(rows[2 * i] | {"sample_id": 1000 + i, "image": f"copies/{i}.png", "prompt": "again ?"})
    for row in rows:
        row["sample_id"] = str(row["sample_id"])
    parts = prepare_parts(tmp_path / "parts", Source(write(photos, rows), len(rows)))
    check_disjoint(parts)
    assert sum(map(len, parts.values())) == 150


def test_texts_alone(photos, tmp_path):
    rows = [
        json.loads(line) | {"image_id": f"mine:{i}"}
        for i, line in enumerate((photos / "samples.jsonl").open())
    ]
    for row in rows:
        row["sample_id"] = str(row["sample_id"])
    source = Source(write(photos, rows), 120)
    shown, texts = (prepare_parts(tmp_path / str(images), source, images=images) for images in (True, False))
    for part in PARTS:
        assert [one.prompt for one in texts[part]] == [one.prompt for one in shown[part]]
        assert {(one.image, getattr(one, "image_id", None)) for one in texts[part]} == {(None, None)}
        assert all(one.image_id.startswith("mine:") for one in shown[part])
    assert not list((tmp_path / "False/train/images").iterdir())


def test_a_corpus_is_split_by_text(tmp_path):
    lines = [f"the number {i % 50} is a word of many letters here" for i in range(100)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines) + "\n")
    entry = {"kind": "text", "source": str(tmp_path / "corpus.txt"), "samples": 100}
    prepare(tmp_path / "corpus", entry)
    parts = prepare_parts(tmp_path / "parts", Source(tmp_path / "corpus/samples.jsonl", 100))
    assert [len(parts[part]) for part in PARTS] == [50, 10, 20, 20]
    assert all(len({one.prompt for one in samples}) == len(samples) // 2 for samples in parts.values())


def test_a_subset_of_vsr_by_groups_and_part(tmp_path):
    """Real annotations; statements about one picture (COCO's number) stay together."""
    vsr, coco = ROOT / "resources" / "vsr_random", tmp_path / "coco"
    coco.mkdir()
    (coco / "one.jpg").write_bytes(picture("JPEG"))
    for line in (vsr / "dev.jsonl").read_text().splitlines():
        if not (target := coco / json.loads(line)["image"]).exists():
            # Sizes differ, so that no two pictures are one.
            target.write_bytes(picture("JPEG") + target.name.encode())
    entry = {"kind": "vsr", "source": str(vsr), "split": "dev", "samples": 400, "images": str(coco)}
    whole = prepare(tmp_path / "vsr", entry)
    source = Source(tmp_path / "vsr/samples.jsonl", 400, Parts(train=0.5, test=0.5), "images/")
    subset = {"kind": "subset", "of": "vsr", "samples": 400, "groups": ["under", "on"]}
    parts = {part: prepare(tmp_path / part, subset | {"part": part}, source) for part in ("train", "test")}
    assert sum(map(len, parts.values())) == sum(one.group in ("under", "on") for one in whole)
    ids = {part: {one.image_id for one in samples} for part, samples in parts.items()}
    assert ids["train"] and ids["test"] and not ids["train"] & ids["test"]
    assert parts["test"][0].open_image() is not None and parts["test"][0].choices == ["Yes", "No"]


def test_a_subset_of_the_built_in_world(tmp_path):
    """Its scenes are drawn again for each sample: pictures of the same bytes stay in one part."""
    world = WorldConfig(scenes={"train": 200, "validation": 200, "test": 200},
                        datasets={"mine": {"kind": "spatial", "scenes": "test", "samples": 160}})  # fmt: skip
    folder = tmp_path / "world"
    folder.mkdir()
    write_dataset(world, "mine", folder / "samples.jsonl", folder / "images")
    whole = load_samples(folder / "samples.jsonl")
    assert len({image_identity(one) for one in whole}) < len(whole)
    parts = prepare_parts(
        tmp_path / "parts", Source(folder / "samples.jsonl", 160), groups=["left of", "above"]
    )
    check_disjoint(parts)
    assert sum(map(len, parts.values())) == 80
    assert {one.group for one in parts["train"]} == {"left of", "above"}
    assert parts["train"][0].scene == next(
        one.scene for one in whole if one.sample_id == parts["train"][0].sample_id
    )


@pytest.mark.parametrize(
    "keys, expected",
    [
        (
            {"groups": ["kitchin"]},
            "datasets.mine: groups: found 'kitchin', expected groups of 'photos': beach, kit",
        ),
        ({"without": list(GROUPS)}, "datasets.mine: found no sample of 'photos'"),
    ],
)
def test_an_empty_subset_is_refused(photos, tmp_path, keys, expected):
    source = Source(tmp_path / "whole/samples.jsonl", 120)
    prepare(tmp_path / "whole", {"path": str(photos)})
    with pytest.raises(DataError, match=expected):
        prepare(tmp_path / "mine", {"kind": "subset", "of": "photos"} | keys, source)
    assert not (tmp_path / "mine/samples.jsonl").exists()


def test_fewer_than_planned_are_all_used(photos, tmp_path, caplog):
    prepare(tmp_path / "whole", {"path": str(photos)})
    entry = {"kind": "subset", "of": "photos", "groups": ["beach"], "samples": 50}
    assert len(prepare(tmp_path / "mine", entry, Source(tmp_path / "whole/samples.jsonl", 120))) == 40
    assert "40 samples, fewer than the 50 planned" in caplog.text


def test_a_csv_beside_its_photos_is_prepared(tmp_path):
    """Images lie in the folder itself and in folders of any name; open answers have no choices."""
    photo(tmp_path / "mine/a.png", 1), photo(tmp_path / "mine/deep/er/b.png", 2)
    table = "image;prompt;answer;group;year\na.png;What is it?;a cup;thing;1999\n"
    (tmp_path / "mine/list.csv").write_text(table + f"{tmp_path}/mine/deep/er/b.png;Where?;;place;\n")
    one, other = prepare(tmp_path / "data", {"path": str(tmp_path / "mine/list.csv")})
    assert (one.sample_id, one.answer, one.choices, one.year) == ("row_1", "a cup", None, "1999")
    assert (other.sample_id, other.group, other.answer) == ("row_2", "place", None)
    assert one.image_file.resolve() == tmp_path / "mine/a.png" and other.open_image().size == (8, 8)


def test_a_dry_run_on_one_folder_of_photos(photos, tmp_path):
    """The whole experiment is planned: the folder is prepared once, and each part and group of it."""
    values = yaml.safe_load((ROOT / "tests/workflow/config.yaml").read_text())
    part = {"kind": "subset", "of": "photos"}
    values["datasets"] = {"photos": {"path": str(photos)}} | {name: part | {"part": name} for name in PARTS}
    values["datasets"] |= {f"text_{name}": part | {"part": name, "images": False} for name in PARTS}
    del values["dictionaries"]["null_check"], values["diff"]["null_check"]
    for name, stage in values["dictionaries"].items():
        text = "null" if name.startswith("null") else "train"
        stage["dataset"] = "train" if stage["dataset"] == "vqa_train" else f"text_{text}"
    for entry in values["evaluation"]:
        entry["dataset"] = "text_validation" if entry["model"] == "base_lm" else "validation"
    values["diff"] |= {"visual_datasets": ["validation"], "text_datasets": ["text_validation"]}
    kitchen, others = ({"dataset": "validation", key: ["kitchen"]} for key in ("groups", "without"))
    values["concepts"] = {"kitchen": {"target": kitchen, "baseline": others}}
    values["ablation"]["concepts"] = ["kitchen"]
    values["heads"] |= {"concepts": ["kitchen"], "dataset": kitchen, "head_means": {"dataset": "validation"}}
    values["steering"]["concepts"], values["scoreboard"] = ["kitchen"], "none"
    for section in ("ablation", "heads", "steering"):
        for use, name in (("rank_on", "validation"), ("report_on", "test")):
            if use in values[section]:
                values[section][use] = {
                    "target": kitchen | {"dataset": name}, "control": others | {"dataset": name}}  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", "--directory", str(tmp_path / "run"),
               "--configfile", str(tmp_path / "config.yaml")]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, env=os.environ, text=True, capture_output=True, check=False)
    assert run.returncode == 0, (run.stdout + run.stderr)[-3000:]
    made = {line.split("=")[1] for line in run.stdout.splitlines() if "wildcards: dataset=" in line}
    names = {f"{name}_{which}" for name in ("validation", "test") for which in ("kitchen", "without_kitchen")}
    assert {
        "photos",
        "train",
        "validation",
        "test",
        "text_train",
        "text_null",
        "text_validation",
        *names,
    } <= made
    assert "base_lm on text_train: 60 samples" in run.stdout + run.stderr
