from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_models import write_samples

from vlmdiff.data.samples import DataError, Sample, dataset_fingerprint, load_samples

GOOD = {"sample_id": "a", "image": None, "prompt": "what ?", "answer": None, "choices": None, "group": "kind"}


def load(folder: Path, *lines: dict | str):
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "samples.jsonl").write_text(text, encoding="utf-8")
    return load_samples(folder / "samples.jsonl")


def test_samples_are_read_in_order_with_further_keys(tiny_dataset):
    samples = load_samples(tiny_dataset / "samples.jsonl")
    assert [sample.sample_id for sample in samples] == [f"sample_{i:04d}" for i in range(40)]
    assert samples[0].relation == samples[0].group == "left of"
    assert samples[0].chat
    image = samples[0].open_image()
    assert (image.size, image.mode) == ((36, 36), "RGB")


def test_text_is_not_chat_and_has_no_image(tiny_text_dataset):
    samples = load_samples(tiny_text_dataset / "samples.jsonl")
    assert not any(sample.chat for sample in samples)
    assert samples[0].open_image() is None


def test_limit_takes_the_first(tiny_dataset):
    file = tiny_dataset / "samples.jsonl"
    assert [s.sample_id for s in load_samples(file, limit=3)] == [s.sample_id for s in load_samples(file)[:3]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_id": ""}, "sample_id"),
        ({"prompt": 5}, "prompt.*found: 5"),
        ({"group": None}, "group"),
        ({"answer": "yes", "choices": ["true", "false"]}, "answer: found 'yes', expected one of the choices"),
        ({"choices": ["true"]}, "at least two different answers"),
        ({"choices": ["true", "true"]}, "at least two different answers"),
        ({"image": "missing.png"}, r"image: no file .*missing\.png"),
        ({"image": "/etc/hostname"}, "within the data set's folder"),
        ({"image": "../picture.png"}, "within the data set's folder"),
        ({"chat": "maybe"}, "chat"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, change, message):
    with pytest.raises(DataError, match=f"(?s)samples.jsonl.*line 2: .*{message}"):
        load(tmp_path, GOOD, GOOD | {"sample_id": "b"} | change)


def test_missing_keys_broken_json_and_doubles_are_named(tmp_path):
    with pytest.raises(DataError) as caught:
        load(tmp_path, {"sample_id": "a"}, "{", "[1]", GOOD, GOOD)
    message = str(caught.value)
    assert "line 1: prompt: missing; group: missing" in message
    assert "line 2: not JSON" in message
    assert "line 3: expected a JSON object, found list; write one object a line" in message
    assert "line 5: sample_id: 'a' was used in line 4" in message


def test_every_line_is_checked_whatever_the_limit(tmp_path):
    with pytest.raises(DataError):
        load(tmp_path, GOOD, {})
    with pytest.raises(DataError, match="line 2"):
        load_samples(tmp_path / "samples.jsonl", limit=1)


def test_many_problems_are_counted_not_listed(tmp_path):
    with pytest.raises(DataError, match="and 15 more lines"):
        load(tmp_path, *[{}] * 20)


def test_an_absent_or_empty_file_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_samples(tmp_path / "samples.jsonl")
    with pytest.raises(DataError, match="found no samples"):
        load(tmp_path)


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "picture.png").write_text("not a picture")
    sample = load(tmp_path, GOOD | {"image": "picture.png"})[0]
    with pytest.raises(DataError, match="picture.png: image of sample 'a'"):
        sample.open_image()


def test_fingerprint_follows_content_not_place(tiny_dataset, tmp_path):
    copy = shutil.copytree(tiny_dataset, tmp_path / "copy")
    here, there = (load_samples(folder / "samples.jsonl") for folder in (tiny_dataset, copy))
    assert dataset_fingerprint(here) == dataset_fingerprint(there)
    assert dataset_fingerprint(here[:5]) != dataset_fingerprint(here)
    assert dataset_fingerprint(here[::-1]) != dataset_fingerprint(here)
    rows = [sample.model_dump(mode="json") for sample in here]
    rows[3]["prompt"] += " now"
    write_samples(copy, rows)
    assert dataset_fingerprint(load_samples(copy / "samples.jsonl")) != dataset_fingerprint(here)


@pytest.mark.parametrize(
    "change",
    [{"sample_id": "z"}, {"prompt": "q"}, {"answer": "no"}, {"choices": ["no", "yes"]}, {"group": "h"},
     {"chat": False}, {"object": "cat"}],
)  # fmt: skip
def test_fingerprint_sees_every_key(change):
    values = {"sample_id": "a", "prompt": "p", "answer": "yes", "choices": ["yes", "no"], "group": "g"}
    one, other = Sample(**values), Sample(**(values | change))
    assert dataset_fingerprint([one]) != dataset_fingerprint([other])


def test_fingerprint_sees_another_image(tiny_dataset, tmp_path):
    copy = shutil.copytree(tiny_dataset, tmp_path / "copy")
    before = dataset_fingerprint(load_samples(copy / "samples.jsonl"))
    image = copy / "images/image_0000.png"
    image.write_bytes(image.read_bytes() + b"more")
    assert dataset_fingerprint(load_samples(copy / "samples.jsonl")) != before
