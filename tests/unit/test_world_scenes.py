"""The built-in world's scenes and drawings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdiff.world.draw import BACKGROUND, IMAGE_PIXELS, PATCH_PIXELS, RGB, draw_image
from vlmdiff.world.scenes import COLOURS, GRID, SHAPES, SIZES, Scene, SceneObject, draw_scene, scene_splits
from vlmdiff.world.seeds import random_stream

COUNTS = {"train": 300, "validation": 100, "test": 100}


@given(st.integers(0, 10_000))
def test_scenes_hold_two_objects_that_sentences_can_tell_apart(seed: int):
    first, second = draw_scene(random_stream(seed)).objects
    assert first < second
    assert (first.row, first.column) != (second.row, second.column)
    assert first.colour != second.colour
    assert first.shape != second.shape


def test_splits_never_overlap_and_never_repeat_a_scene():
    splits = scene_splits(COUNTS, seed=0)
    everything = [scene for split in splits.values() for scene in split]
    assert [len(split) for split in splits.values()] == list(COUNTS.values())
    assert len(set(everything)) == len(everything)


def test_splits_follow_the_seed_alone():
    assert scene_splits(COUNTS, seed=3) == scene_splits(COUNTS, seed=3)
    assert scene_splits(COUNTS, seed=3) != scene_splits(COUNTS, seed=4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_each_object_is_drawn_in_its_own_cell_only(seed: int):
    scene = draw_scene(random_stream(seed))
    pixels = np.asarray(draw_image(scene))
    assert pixels.shape == (IMAGE_PIXELS, IMAGE_PIXELS, 3)
    for row in range(GRID):
        for column in range(GRID):
            patch = pixels[
                row * PATCH_PIXELS : (row + 1) * PATCH_PIXELS,
                column * PATCH_PIXELS : (column + 1) * PATCH_PIXELS,
            ]
            thing = scene.at(row, column)
            centre = tuple(patch[PATCH_PIXELS // 2, PATCH_PIXELS // 2])
            assert centre == (RGB[thing.colour] if thing else BACKGROUND)
            assert thing is not None or (patch == BACKGROUND).all()


def test_all_attributes_can_be_told_apart_from_pixels():
    images = {
        draw_image(Scene((SceneObject(1, 1, colour, shape, size),))).tobytes()
        for colour in COLOURS
        for shape in SHAPES
        for size in SIZES
    }
    assert len(images) == len(COLOURS) * len(SHAPES) * len(SIZES)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="'star'"):
        draw_image(Scene((SceneObject(0, 0, "red", "star", "small"),)))
