"""Orders of a shuffled stream: other ones for other seeds, epochs and buffers, the same ones for the same."""

from __future__ import annotations

import numpy as np

from vlmdiff.activations.shuffling import ALONE, ShuffledStream


def stream(sizes: list[int], seed: int = 0, buffers: int = 1) -> ShuffledStream:
    return ShuffledStream(np.array(sizes), lambda members: members, seed, buffers)


def plans(seed: int, epoch: int) -> list[list[int]]:
    return [members.tolist() for members in stream([1] * 60, seed, buffers=4).plan(epoch)]


def orders(seed: int, count: int = 4) -> list[list[int]]:
    """Orders of the rows of the first buffers; two buffers, each of one item of 50 rows, make an epoch."""
    turns = stream([50, 50], seed, buffers=2).turns(0, ALONE)
    return [next(turns)[1].tolist() for _ in range(count)]


def test_items_are_dealt_anew_each_epoch_and_for_each_seed():
    assert plans(0, 0) == plans(0, 0)
    found = [plans(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for number, a in enumerate(found) for b in found[:number])
    assert all(sorted(sum(one, [])) == list(range(60)) for one in found)


def test_rows_have_an_order_of_their_own_in_each_buffer_epoch_and_seed():
    assert orders(0) == orders(0)
    found = orders(0) + orders(1)
    assert all(a != b for number, a in enumerate(found) for b in found[:number])
    assert all(sorted(one) == list(range(50)) for one in found)
