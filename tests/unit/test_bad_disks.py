"""A full or read-only disk: one error that names the output and the remedy, and nothing half written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from damage import mounting, nothing_left, picture, refused
from matplotlib.figure import Figure
from sparse_activations import write_sparse_shards
from test_bad_tables import FRAME, SCHEMA

from vlmdiff.data.images import StoredImage
from vlmdiff.data.prepare import prepare_dataset
from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.dictionaries.training import train_dictionary
from vlmdiff.figures.save import save_figure
from vlmdiff.figures.style import new_figure
from vlmdiff.runtime.disk_errors import StorageError
from vlmdiff.runtime.files import replacing, replacing_folder
from vlmdiff.tables.io import write_table

SIZE = 2**16


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 kB with one small table on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting(folder, f"size={SIZE}")
    try:
        write_table(FRAME, SCHEMA, folder / "kept.csv")
        kept = (folder / "kept.csv").read_bytes()
        yield folder
        assert (folder / "kept.csv").read_bytes() == kept
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def closed(disk) -> Path:
    """The same file system, read-only."""
    done = subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True)
    if done.returncode:
        pytest.skip("a file system cannot be made read-only here")
    return disk


def table(folder: Path, suffix: str) -> Path:
    frame = pd.concat([FRAME.assign(effect=np.random.default_rng(i).random(len(FRAME))) for i in range(200)])
    write_table(frame, SCHEMA, folder / f"table.{suffix}")


def dictionary(folder: Path) -> None:
    made = TopKDictionary(64, 512, 4)
    torch.nn.init.normal_(made.W_dec)
    save_dictionary(made, folder / "sae", {})


def figure(folder: Path) -> None:
    drawn: Figure = new_figure(100, 100)
    drawn.subplots().imshow(np.random.default_rng(0).random((900, 900)))
    save_figure(drawn, [folder / "figure.png"])


def stored_picture(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    from PIL import Image

    (folder.parent / "noise.png").touch()
    Image.fromarray(noise).save(folder.parent / "noise.png")
    StoredImage("noise.png", (folder.parent / "noise.png").read_bytes()).place(folder)


def training(folder: Path) -> None:
    source = folder.parent / "source"
    if not source.exists():
        write_sparse_shards(source, tokens=800, layers=(0,), blocks=1)
    architecture = {"kind": "topk", "d_sae": 1024, "k": 3, "bandwidth": 0.001, "l0_coefficient": 1.0,
                    "subtract_decoder_bias": True}  # fmt: skip
    stage = {"tokens": ["text"], "steps": 4, "batch_tokens": 64, "learning_rate": 1e-3, "warmup": 0.5,
             "snapshots": []}  # fmt: skip
    train_dictionary(
        sorted(source.glob("*.h5")), "random", 0, 0, architecture, stage, {}, folder / "sae",
        folder.parent / "work", checkpoint_every_s=1e9,
    )  # fmt: skip


def text_folder(folder: Path) -> None:
    with replacing_folder(folder / "made") as made:
        for i in range(40):
            (made / f"{i}.txt").write_text("word " * 1000)


WRITERS: dict[str, Callable[[Path], None]] = {
    "shard": lambda folder: write_sparse_shards(folder / "shards", tokens=4000),
    "parquet": lambda folder: table(folder, "parquet"),
    "csv": lambda folder: table(folder, "csv"),
    "dictionary": dictionary,
    "figure": figure,
    "picture": stored_picture,
    "folder": text_folder,
    "training": training,
}
TRIED = [pytest.param(one, marks=pytest.mark.long if one == "training" else ()) for one in WRITERS]


@pytest.mark.parametrize("name", TRIED)
def test_a_full_disk_ends_in_one_error_and_nothing_half_written(disk, name):
    before = {path for path in disk.rglob("*") if path.is_file()}
    message = refused(lambda: WRITERS[name](disk), disk)
    assert "no space is left" in message and "run snakemake again" in message
    assert {path for path in disk.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", TRIED)
def test_a_read_only_disk_ends_in_one_error(closed, name):
    with nothing_left(closed):
        message = refused(lambda: WRITERS[name](closed), closed)
    assert "read-only" in message and "run snakemake again" in message


def test_a_data_set_on_a_full_disk_is_absent(disk):
    source = disk.parent / "own"
    source.mkdir()
    (source / "a.png").write_bytes(picture())
    line = '{"sample_id": "%d", "image": "a.png", "prompt": "' + "what ? " * 300 + '", "group": "g"}\n'
    (source / "samples.jsonl").write_text("".join(line % i for i in range(80)))
    entry = {"kind": "folder", "path": str(source), "samples": 80}
    made = disk / "data"
    refused(lambda: prepare_dataset("d", entry, made / "samples.jsonl", made / "counts.csv"), disk)
    assert [path.name for path in made.iterdir()] == ["images"]


def test_space_that_was_freed_is_used(disk):
    (disk / "ballast").write_bytes(bytes(SIZE // 2))
    refused(lambda: text_folder(disk), disk)
    (disk / "ballast").unlink()
    with replacing(disk / "small.txt") as temporary:
        temporary.write_text("now there is room")
    assert (disk / "small.txt").read_text() == "now there is room"


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyError("no"), FileNotFoundError(2, "no such file", "x")]
)
def test_other_errors_pass_as_they_are(tmp_path, error):
    with nothing_left(tmp_path), pytest.raises(type(error)) as caught, replacing(tmp_path / "a.txt"):
        raise error
    assert caught.value is error and not isinstance(error, StorageError)
