"""A picture is known by its public id and by the bytes of its file, whatever it is called."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from unittest.mock import patch

import pytest
from damage import picture

import vlmdiff.data.identity as identity
from vlmdiff.data.identity import Pictures, coco_id_of_file, image_identity, shared_samples
from vlmdiff.data.samples import DataError, Sample, load_samples

RED, WIDE, OTHER = picture(size=(5, 5)), picture(size=(9, 4)), picture(size=(5, 5))[:-12] + b"x" * 12


def write(folder: Path, *rows: dict) -> list[Sample]:
    """Write a data set; `content` of a row becomes its image, under a name of its own."""
    folder.mkdir()
    lines = []
    for number, row in enumerate(rows):
        values = {"sample_id": f"{folder.name} {number}", "prompt": "what ?", "group": "g"} | row
        if (content := values.pop("content", None)) is not None:
            values["image"] = f"{folder.name}_{number}.png"
            (folder / values["image"]).write_bytes(content)
        lines.append(json.dumps(values) + "\n")
    (folder / "samples.jsonl").write_text("".join(lines))
    return load_samples(folder / "samples.jsonl")


def test_an_image_is_known_by_its_public_id_else_by_its_bytes(tmp_path):
    assert len(RED) == len(OTHER) and RED != OTHER
    found = write(
        tmp_path / "a",
        {"content": RED, "image_id": "coco:139"},
        {"content": WIDE},
        {"content": RED, "image_id": None},
        {"image": None},
        {"image": None, "image_id": "coco:5"},
    )
    sha = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in (WIDE, RED)]
    assert [image_identity(one) for one in found] == ["coco:139", *sha, None, None]


@pytest.mark.parametrize(
    "value", [139, "139", "coco 139", "coco:", "COCO:139", "coco:1 39", True, ["coco:139"]]
)
def test_an_id_of_another_form_is_refused(value, tmp_path):
    with pytest.raises(DataError, match=r"a/samples\.jsonl is not .*\n  line 1: image_id: found .*SOURCE:ID"):
        write(tmp_path / "a", {"content": RED, "image_id": value})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("000000296471.jpg", "coco:296471"),
        ("train2017/000000296471.jpg", "coco:296471"),
        ("COCO_val2014_000000000042.jpg", "coco:42"),
        ("COCO_train2014_000000581929.jpg", "coco:581929"),
        ("000000296471.png", None),
        ("296471.jpg", None),
        ("my_000000296471.jpg", None),
        ("", None),
    ],
)
def test_coco_ids_are_read_from_names_of_all_releases(name, expected):
    assert coco_id_of_file(name) == expected


def test_pictures_are_one_if_ids_or_bytes_agree(tmp_path):
    known = write(
        tmp_path / "known",
        {"content": RED, "image_id": "coco:1"},
        {"content": WIDE},
        {"content": OTHER, "image_id": "coco:2"},
        {"content": OTHER, "image_id": "mine:7"},
        {"image": None},
    )
    asked = write(
        tmp_path / "asked",
        {"content": WIDE, "image_id": "coco:1"},  # encoded anew, and the bytes of another one
        {"content": RED},  # without an id: by its bytes alone
        {"content": WIDE},
        {"content": OTHER, "image_id": "coco:3"},  # another id, the same bytes
        {"content": RED[:-12] + b"y" * 12},  # as long as the others, and none of them
        {"content": RED + b"z"},
        {"image": None},
    )
    pictures = Pictures(known)
    found = [sorted(int(one.sample_id.split()[1]) for one in pictures.like(other)) for other in asked]
    assert found == [[0, 1], [0], [1], [2, 3], [], [], [4]]


def test_only_files_of_one_size_are_read(tmp_path):
    known = write(
        tmp_path / "known", {"content": RED}, {"content": WIDE}, {"content": OTHER, "image_id": "coco:2"}
    )
    asked = write(
        tmp_path / "asked",
        {"content": WIDE + b"." * 500},
        {"content": WIDE + b"." * 600, "image_id": "coco:2"},
        {"content": WIDE},
        {"content": WIDE},
    )
    read = []

    def noted(path: Path) -> str:
        read.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    with patch.object(identity, "file_sha256", noted):
        pictures = Pictures(known)
        assert [len(pictures.like(one)) for one in asked] == [0, 1, 1, 1]
    assert sorted(read) == ["asked_2.png", "asked_3.png", "known_1.png"]


def test_shared_samples_have_the_same_text_and_the_same_picture(tmp_path):
    ones = write(
        tmp_path / "one",
        {"content": RED, "image_id": "coco:1"},
        {"content": RED, "image_id": "coco:1", "prompt": "where ?"},
        {"content": WIDE},
        {"image": None, "prompt": "words", "chat": False},
    )
    others = write(
        tmp_path / "other",
        {"content": WIDE[:-1], "image_id": "coco:1"},
        {"content": WIDE},
        {"content": WIDE, "prompt": "who ?"},
        {"image": None, "prompt": "words"},
        {"image": None, "prompt": "words", "chat": False},
    )
    found = [(one.sample_id, other.sample_id) for one, other in shared_samples(ones, others)]
    assert found == [("one 0", "other 0"), ("one 2", "other 1"), ("one 3", "other 4")]
