"""The mean image of the corrupt run: by position among pictures of one grid, one token among several."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

import vlmdiff.heads.corruption as corruption
from vlmdiff.heads.corruption import CorruptionError, corrupted, mean_image
from vlmdiff.models.batch import Seen

D = 3


def seen(*grids: tuple[int, int], first: float = 0.0, levels: int = 0) -> Seen:
    """Return pictures whose values count on from `first`, the same at each level but for its sign."""
    counts = [rows * columns for rows, columns in grids]
    values = first + torch.arange(sum(counts) * D, dtype=torch.float32).view(-1, D)
    deepstack = torch.stack([-(level + 1) * values for level in range(levels)]) if levels else None
    return Seen(values, torch.tensor(grids), deepstack)


@dataclass
class OnlySeen:
    """What the mean image reads of a batch."""

    seen: Seen | None


@pytest.fixture
def mean_of(monkeypatch):
    """Take the mean image of batches."""

    def taken(*batches: Seen | None):
        found = [([], OnlySeen(one)) for one in batches]
        monkeypatch.setattr(corruption, "prepare_batches", lambda *_: iter(found))
        return mean_image(None, [], 1)

    return taken


def test_pictures_of_one_grid_are_averaged_position_by_position(mean_of):
    one, other = seen((2, 2), (2, 2)), seen((2, 2), first=100.0)
    mean = mean_of(one, other)
    three = [one.features[:4], one.features[4:], other.features]
    expected = sum(three) / 3
    shown = corrupted(seen((2, 2), (2, 2)), mean)
    assert torch.allclose(shown.features, torch.cat([expected, expected]))


def test_grids_of_equally_many_tokens_are_not_averaged_by_position(mean_of):
    flat, square = seen((2, 8)), seen((4, 4), first=1000.0)
    expected = torch.cat([flat.features, square.features]).mean(0)
    shown = corrupted(seen((4, 4), (2, 8)), mean_of(flat, square))
    assert torch.allclose(shown.features, expected.expand(32, D))


def test_equal_grids_in_other_tiles_are_not_averaged_by_position(mean_of):
    """Their tokens follow each other through the picture in another order."""
    one, other = seen((4, 4)), replace(seen((4, 4), first=1000.0), tiles=torch.tensor([[2, 2]]))
    token = torch.cat([one.features, other.features]).mean(0)
    assert torch.allclose(corrupted(other, mean_of(one, other)).features, token.expand(16, D))
    assert torch.allclose(corrupted(other, mean_of(one)).features, one.features.mean(0).expand(16, D))
    again = corrupted(other, mean_of(other, other))
    assert torch.allclose(again.features, other.features) and torch.equal(again.tiles, other.tiles)


def test_a_second_view_is_averaged_by_position_as_well(mean_of):
    """Four tiles of one token, and two tokens without a place."""
    tiled = {"tiles": torch.tensor([[2, 2]]), "unplaced": torch.tensor([2])}
    one, other = (
        Seen(first + torch.arange(18.0).view(6, D), torch.tensor([[2, 2]]), **tiled) for first in (0, 9)
    )
    assert one.counts == [6]
    assert torch.allclose(corrupted(one, mean_of(one, other)).features, (one.features + other.features) / 2)


@pytest.mark.parametrize("grid", [(2, 8), (4, 5), (1, 1)])
def test_a_grid_that_the_mean_has_not_seen_gets_the_mean_token(mean_of, grid):
    square = seen((4, 4), (4, 4))
    shown = corrupted(seen(grid, (4, 4)), mean_of(square))
    count = grid[0] * grid[1]
    assert torch.allclose(shown.features[:count], square.features.mean(0).expand(count, D))
    assert torch.allclose(shown.features[count:], (square.features[:16] + square.features[16:]) / 2)
    assert torch.equal(shown.grids, torch.tensor([grid, (4, 4)]))


def test_tokens_weigh_alike_whatever_their_picture_has(mean_of):
    small, large = seen((1, 2)), seen((3, 4), first=50.0)
    mean = mean_of(small, None, large)
    assert torch.allclose(mean.token[0, 0], torch.cat([small.features, large.features]).mean(0))


def test_deeper_levels_are_averaged_as_the_first_one(mean_of):
    one, other = seen((2, 2), levels=2), seen((2, 2), first=8.0, levels=2)
    shown = corrupted(seen((2, 2), levels=2), mean_of(one, other))
    for level in range(2):
        assert torch.allclose(shown.deepstack[level], (one.deepstack[level] + other.deepstack[level]) / 2)
    shown = corrupted(seen((1, 3), levels=2), mean_of(one, seen((1, 2), first=9.0, levels=2)))
    every = torch.cat([one.features, seen((1, 2), first=9.0).features]).mean(0)
    assert torch.allclose(shown.deepstack, torch.stack([-every, -2 * every])[:, None].expand(2, 3, D))


def test_samples_without_images_have_no_mean_image(mean_of):
    with pytest.raises(CorruptionError, match="no image"):
        mean_of(None)
