"""samples.jsonl has two readers, of data sets as they are and of those to be prepared, and one rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlmdiff.config.datasets import FolderDataset
from vlmdiff.data.prepare import prepare_dataset
from vlmdiff.data.samples import DataError, load_samples

ROWS = [
    {"sample_id": "a", "prompt": "one\u2028two\x85three", "group": "g"},
    {"sample_id": "b", "prompt": "four", "group": "g"},
]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]
SAME = {
    "plain": "\n".join(LINES) + "\n",
    "no end": "\n".join(LINES),
    "blank lines": "\n".join(["", LINES[0], "", " \t", LINES[1], "", ""]),
    "carriage returns": "\r\n".join(LINES) + "\r\n",
    "white space around": "".join(f"  {line}\t \n" for line in LINES),
    "a mark before": "\ufeff" + "\n".join(LINES) + "\n",
}
WRONG = {
    "a key twice": (LINES[0] + '\n{"sample_id": "b", "prompt": "x", "prompt": "y", "group": "g"}', "line 2"),
    "two objects": (LINES[0] + "\n\n" + LINES[1] * 2, "line 3"),
    "a list": (LINES[0] + "\n[1]", "line 2"),
    "not UTF-8": (LINES[0].encode() + b"\n\xff\n", "UTF-8"),
    "an id twice": (
        LINES[0] + "\n\n" + LINES[0],
        r"line 3: sample_id: '\w+' was used (?:in line 1|before \(.*line 1\)); make it unique",
    ),
    **{
        f"an image at {image!r}": (
            LINES[0] + "\n" + json.dumps(ROWS[1] | {"image": image}),
            r"line 2: image: .*expected a",
        )
        for image in ("/etc/passwd", "../x", "images/../../x", "", "a\nb")
    },
}


def prepared(folder: Path) -> Path:
    """Read a folder by the other reader, which writes samples.jsonl anew."""
    entry = FolderDataset(path=str(folder), samples=2, on_missing="skip")
    target = folder / "made" / "samples.jsonl"
    prepare_dataset("own", entry.model_dump(), target, folder / "made" / "counts.csv")
    return target


@pytest.mark.parametrize("name", SAME)
def test_both_readers_find_the_same_samples(tmp_path, name):
    (tmp_path / "samples.jsonl").write_text(SAME[name], encoding="utf-8", newline="")
    for file in (tmp_path / "samples.jsonl", prepared(tmp_path)):
        found = load_samples(file)
        assert [(one.sample_id, one.prompt) for one in found] == [(r["sample_id"], r["prompt"]) for r in ROWS]


def test_both_readers_refuse_a_link_out_of_the_folder(tmp_path):
    (tmp_path / "elsewhere.png").write_text("")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").symlink_to("../elsewhere.png")
    file = tmp_path / "mine" / "samples.jsonl"
    file.write_text(json.dumps(ROWS[0] | {"image": "a.png"}) + "\n" + LINES[1])
    for read in (load_samples, lambda file: prepared(file.parent)):
        with pytest.raises(DataError, match=r"(?s)samples.jsonl.*image: .* is a link out of its folder"):
            read(file)


@pytest.mark.parametrize("name", WRONG)
def test_both_readers_refuse_the_same(tmp_path, name):
    content, place = WRONG[name]
    (tmp_path / "samples.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=place):
        load_samples(tmp_path / "samples.jsonl")
    with pytest.raises(DataError, match=place):
        prepared(tmp_path)
