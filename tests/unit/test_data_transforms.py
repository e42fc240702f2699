"""Data sets whose images are changed in one way: what changes, what stays, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from vlmdiff.config.datasets import SubsetDataset
from vlmdiff.config.subsets import Counting
from vlmdiff.config.transforms import Transform
from vlmdiff.data.prepare import prepare_dataset
from vlmdiff.data.samples import load_samples
from vlmdiff.data.subset import Source
from vlmdiff.data.transforms import transformed

RED, GREEN, GREY = (200, 0, 0), (0, 200, 0), (90, 90, 90)


def picture() -> Image.Image:
    """Return four by two pixels: red on the left, grey on the right, a green one at the top left."""
    image = Image.new("RGB", (4, 2), GREY)
    image.paste(RED, (0, 0, 2, 2))
    image.putpixel((0, 0), GREEN)
    return image


def changed(**change) -> np.ndarray:
    return np.asarray(transformed(picture(), Transform(**change)))


@pytest.mark.parametrize(("sides", "axis"), [("left_right", 1), ("top_bottom", 0)])
def test_a_mirror_exchanges_two_sides(sides, axis):
    assert np.array_equal(changed(mirror=sides), np.flip(np.asarray(picture()), axis))


def test_colours_turn_and_greys_stay():
    third = changed(hue=1 / 3)
    assert np.abs(third[1, 0].astype(int) - GREEN).max() < 8
    assert tuple(third[0, 3]) == GREY


def test_brightness_multiplies_values():
    assert tuple(changed(brightness=0.5)[1, 0]) == (100, 0, 0)
    assert np.array_equal(changed(brightness=1.0), np.asarray(picture()))


def test_a_box_is_filled_with_the_mean_colour():
    found, before = changed(mask=[0.0, 0.0, 0.5, 1.0]), np.asarray(picture())
    mean = before.reshape(-1, 3).mean(0).round()
    assert (found[:, :2] == mean).all() and np.array_equal(found[:, 2:], before[:, 2:])


CHANGES = {
    "none": ({}, "found none, expected one of mirror, hue, brightness, mask"),
    "two": ({"mirror": "left_right", "hue": 0.5}, "found mirror, hue, expected one of"),
    "an empty box": ({"mask": [0.5, 0.0, 0.5, 1.0]}, r"mask: found \[0.5, 0.0, 0.5, 1.0\], expected left"),
    "a box outside": ({"mask": [0.0, 0.0, 1.5, 1.0]}, "less than or equal to 1"),
    "another side": ({"mirror": "front_back"}, "'left_right' or 'top_bottom'"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_no_single_change_is_refused(name):
    values, said = CHANGES[name]
    with pytest.raises(ValueError, match=said):
        Transform(**values)


@pytest.mark.parametrize(("key", "value"), [("images", False), ("scored", True)])
def test_transformed_samples_are_images_without_answers(key, value):
    with pytest.raises(ValueError, match=f"{key}: found {value} with `transform`"):
        SubsetDataset(kind="subset", of="photos", transform={"mirror": "left_right"}, **{key: value})


@pytest.fixture
def photos(tmp_path):
    """A prepared data set of three questions about two photos."""
    folder = tmp_path / "photos"
    (folder / "images" / "in").mkdir(parents=True)
    picture().save(folder / "images" / "a.png")
    picture().rotate(180).save(folder / "images" / "in" / "b.png")
    lines = [
        {"sample_id": f"s{i}", "image": f"images/{name}", "prompt": "left?", "group": "left"}
        | {"answer": "yes", "choices": ["yes", "no"], "image_id": f"own:{i}", "relation": "left"}
        for i, name in enumerate(("a.png", "in/b.png", "a.png"))
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "samples.jsonl"


def test_a_subset_can_show_other_images(photos, tmp_path):
    entry = {"kind": "subset", "of": "photos", "transform": {"mirror": "left_right"}, "samples": 3}
    file = tmp_path / "mirrored" / "samples.jsonl"
    prepare_dataset("mirrored", entry, file, tmp_path / "counts.csv", Source(photos, 3))
    before, after = load_samples(photos), load_samples(file)
    assert [one.sample_id for one in after] == ["s0", "s1", "s2"]
    assert all((one.answer, one.choices) == (None, None) for one in after)
    # The same pictures for whatever must not mix them.
    assert [one.image_id for one in after] == [one.image_id for one in before]
    assert [(one.prompt, one.relation) for one in after] == [("left?", "left")] * 3
    for one, other in zip(before, after, strict=True):
        mirrored = np.flip(np.asarray(one.open_image()), 1)
        assert np.array_equal(np.asarray(other.open_image()), mirrored)
    assert not (file.parent / "images").is_symlink()
    assert np.array_equal(np.asarray(before[0].open_image()), np.asarray(picture()))


def test_before_anything_runs_transformed_samples_have_no_answers(photos):
    datasets = {
        "photos": {"path": str(photos.parent)},
        "turned": {"kind": "subset", "of": "photos", "transform": {"hue": 0.5}},
    }
    from pydantic import TypeAdapter

    from vlmdiff.config.datasets import Dataset

    counting = Counting(TypeAdapter(dict[str, Dataset]).validate_python(datasets))
    assert [(one["answer"], one["choices"]) for one in counting.records("turned")] == [(None, None)] * 3
    assert counting.records("photos")[0]["answer"] == "yes"
