"""Scenes of the built-in world: two coloured shapes on a grid of cells."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

from vlmdiff.world.seeds import random_stream

GRID = 3
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")
OBJECTS = 2
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, order=True)
class SceneObject:
    """One shape in one cell; row 0 is at the top, column 0 at the left."""

    row: int
    column: int
    colour: str
    shape: str
    size: str


@dataclass(frozen=True)
class Scene:
    """The objects of one image in reading order; colours and shapes do not repeat."""

    objects: tuple[SceneObject, ...]

    def at(self, row: int, column: int) -> SceneObject | None:
        """The object in a cell, or None where the cell is empty."""
        for thing in self.objects:
            if (thing.row, thing.column) == (row, column):
                return thing
        return None


def draw_scene(rng: random.Random) -> Scene:
    """Draw one scene, uniformly over cells, colours, shapes and sizes."""
    cells = rng.sample(range(GRID * GRID), OBJECTS)
    colours = rng.sample(COLOURS, OBJECTS)
    shapes = rng.sample(SHAPES, OBJECTS)
    return Scene(
        tuple(
            sorted(
                SceneObject(*divmod(cell, GRID), colour, shape, rng.choice(SIZES))
                for cell, colour, shape in zip(cells, colours, shapes, strict=True)
            )
        )
    )


def distinct_scenes(rng: random.Random) -> Iterator[Scene]:
    """Endless scenes, none of which comes twice (there are 51,840 of them)."""
    seen: set[Scene] = set()
    while True:
        scene = draw_scene(rng)
        if scene not in seen:
            seen.add(scene)
            yield scene


def scene_splits(counts: dict[Split, int], seed: int) -> dict[Split, list[Scene]]:
    """Draw the scene splits; no scene is in two of them.

    Args:
        counts: number of scenes wanted for each split.
        seed: the configuration's seed.
    """
    stream = distinct_scenes(random_stream(seed, "scenes"))
    return {split: list(islice(stream, counts[split])) for split in SPLITS}
