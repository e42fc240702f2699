"""Names from data sets, archives of others and configurations stay in their folders."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from damage import picture, refused, tries
from hypothesis import given
from hypothesis import strategies as st

from vlmdiff.config.datasets import VqaDataset
from vlmdiff.data.images import LinkedImage, LocalImage, StoredImage, cached_name
from vlmdiff.data.prepare import prepare_dataset
from vlmdiff.data.samples import load_samples
from vlmdiff.data.vqa import image_in
from vlmdiff.runtime.reading import DataError, within

ESCAPES = (
    "../secret.png", "../../secret.png", "a/../../secret.png", "/etc/hostname", "images/../../secret.png",
    "a\x00.png", "x" * 300, "a/" * 600 + "b", ".", "..", "", "images/..", "~/secret.png/..",
)  # fmt: skip
PARTS = st.lists(st.sampled_from(["..", "a", ".", "", "images", "\\"])).map("/".join)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A data set's folder beside a picture that is none of its business."""
    (tmp_path / "secret.png").write_bytes(picture())
    made = tmp_path / "data"
    (made / "images").mkdir(parents=True)
    (made / "a.png").write_bytes(picture())
    return made


def lines(folder: Path, image: str) -> Path:
    line = {"sample_id": "a", "image": image, "prompt": "what ?", "group": "g"}
    (folder / "samples.jsonl").write_text(json.dumps(line) + "\n")
    return folder / "samples.jsonl"


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_of_an_image_leaves_its_folder(folder, name):
    refused(lambda: load_samples(lines(folder, name)), "samples.jsonl")
    refused(lambda: LocalImage(folder, [name]).place(folder / "images"), "image", str(folder))
    lines(folder, name)
    target = folder.parent / "prepared"
    for policy in ("error", "skip"):
        entry = {"kind": "folder", "path": str(folder), "samples": 1, "on_missing": policy}
        refused(
            lambda entry=entry: prepare_dataset("d", entry, target / "samples.jsonl", target / "c.csv"),
            "line 1: image: ",
        )
    assert not (target / "samples.jsonl").exists()


@pytest.mark.parametrize("place", ["link.png", "images/link.png", "inner/link.png", "folder/secret.png"])
def test_no_link_leaves_its_folder(folder, place):
    (folder / "inner").mkdir()
    if place.startswith("folder"):
        (folder / "folder").symlink_to(folder.parent)
    else:
        (folder / place).symlink_to(folder.parent / "secret.png")
    assert "link" in refused(lambda: load_samples(lines(folder, place)), place)
    assert "link" in refused(lambda: LocalImage(folder, [place]).place(folder), place)


def test_the_folder_of_images_itself_may_be_a_link(folder):
    """The workflow links it to where the user's images lie; below it nothing may lead out."""
    (folder / "images").rmdir()
    elsewhere = folder.parent / "coco"
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(picture())
    (elsewhere / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "images").symlink_to(elsewhere)
    assert load_samples(lines(folder, "images/a.png"))[0].open_image().size == (9, 7)
    refused(lambda: load_samples(lines(folder, "images/link.png")), "link.png")


def test_a_link_inside_of_the_folder_is_followed(folder):
    (folder / "images" / "b.png").symlink_to(folder / "a.png")
    (folder / "c.png").symlink_to(folder / "a.png")
    refused(lambda: load_samples(lines(folder, "../data/a.png")), "samples.jsonl")
    assert load_samples(lines(folder, "c.png"))[0].open_image().size == (9, 7)
    assert load_samples(lines(folder, "images/b.png"))[0].open_image().size == (9, 7)


@tries(150)
@given(
    name=st.text(max_size=40) | st.lists(st.sampled_from(["..", "a", ".", "", "images", "\\"])).map("/".join)
)
def test_a_path_within_a_folder_is_within_it_or_refused(tmp_path, name):
    try:
        path = within(tmp_path, name)
    except ValueError as error:
        assert "expected" in str(error)
    else:
        assert path.resolve().is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize(
    "identity", ["../../x", "/tmp/x", "..", "a/b", "\x00", "x" * 500, "\u202e", ".hidden"]
)
def test_a_stored_picture_is_written_into_its_folder(tmp_path, identity):
    images = tmp_path / "results" / "images"
    images.mkdir(parents=True)
    row = {"question_id": 1, "image_id": identity, "image": {"bytes": picture("JPEG"), "path": "../../y"}}
    name = image_in(row, "source").place(images)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [images / name]
    assert StoredImage("../../../escape.png", picture()).place(images) in {
        path.name for path in images.iterdir()
    }
    assert not (tmp_path.parent / "escape.png").exists()


def test_a_picture_of_the_same_name_is_not_taken_for_another(tmp_path):
    one, other = picture(), picture(size=(4, 4))
    StoredImage("a.png", one).place(tmp_path)
    StoredImage("a.png", other).place(tmp_path)
    assert (tmp_path / "a.png").read_bytes() == other


@tries(100)
@given(url=st.text(max_size=60).map("http://h/".__add__)
       | st.sampled_from(["http://h/../../x.jpg", "http://h/..", "http://../..", "http:///", "http://h/a%2f..%2fb",
                          "http://h/" + "x" * 900, "http://h/a?b/../../c", "http://h/.bashrc"]))  # fmt: skip
def test_an_address_is_kept_within_the_cache(url):
    parts = Path(cached_name(url)).parts
    assert len(parts) == 2 and ".." not in parts
    assert all(part and not part.startswith(".") and len(part) < 200 and part.isascii() for part in parts)


def test_usual_addresses_keep_their_names():
    found = cached_name("http://images.cocodataset.org/train2017/000000391895.jpg")
    assert found.startswith("train2017/000000391895-") and found.endswith(".jpg")


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://h/a.jpg", "http://user:secret@h/a.jpg", "javascript:1", "", "http://",
            "http://[::1", "//h/a.jpg", "http://h\x00/a.jpg"],
)  # fmt: skip
def test_only_plain_web_addresses_are_fetched(tmp_path, url):
    message = refused(lambda: LinkedImage(url, tmp_path).place(tmp_path), "image link")
    assert "secret" not in message
    assert list(tmp_path.rglob("*.jpg")) == []


@pytest.mark.parametrize("name", ["../../a", "/b", "c"])
def test_names_in_a_table_of_the_hub_are_numbers(tmp_path, name):
    """Files are named after image ids, which VQAv2 counts; nothing else is written anywhere."""
    row = {
        "question_id": 1,
        "image_id": name,
        "question": "Where is it?",
        "image": {"bytes": picture("JPEG")},
    }
    row |= {"question_type": "where", "answer_type": "other", "multiple_choice_answer": "here"}
    (tmp_path / "source").mkdir()
    pd.DataFrame([row]).to_parquet(tmp_path / "source" / "train.parquet")
    entry = VqaDataset(kind="vqav2", source=str(tmp_path / "source"), samples=1).model_dump()
    target = tmp_path / "results" / "d"
    with pytest.raises(DataError, match=f"image_id of question 1: found '{name}', expected a whole number"):
        prepare_dataset("d", entry, target / "samples.jsonl", target / "counts.csv")
    assert list(tmp_path.rglob("*.jpg")) == []
