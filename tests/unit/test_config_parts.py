"""Splitting by image: no image in two parts, shares to the nearest image in every group, in any order."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from damage import tries
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vlmdiff.config.parts import PARTS, Parts, split, units

DEFAULT = {"train": 0.5, "null": 0.1, "validation": 0.2, "test": 0.2}


def counts(parts: list[str]) -> dict[str, int]:
    return {part: Counter(parts)[part] for part in PARTS}


def test_shares_are_exact_in_all_and_in_each_group():
    groups = [name for name, size in (("kitchen", 10), ("street", 20), ("beach", 30)) for _ in range(size)]
    found = split([[f"{i}.png"] for i in range(60)], groups, Parts())
    assert counts(found) == {"train": 30, "null": 6, "validation": 12, "test": 12}
    kitchen = [part for part, group in zip(found, groups, strict=True) if group == "kitchen"]
    assert counts(kitchen) == {"train": 5, "null": 1, "validation": 2, "test": 2}


def test_small_groups_are_there_where_things_are_measured():
    """Of three images no share is whole; the large group makes good what the small ones took."""
    groups = [*["a"] * 3, *["b"] * 3, *["c"] * 54]
    found = split([[f"{i}"] for i in range(60)], groups, Parts())
    for group in "ab":
        assert {"validation", "test"} < {p for p, g in zip(found, groups, strict=True) if g == group}
    assert counts(found) == {"train": 30, "null": 6, "validation": 12, "test": 12}


@tries(150)
@given(
    sizes=st.lists(st.integers(1, 25), min_size=1, max_size=12),
    weights=st.tuples(*[st.integers(0, 9)] * 4).filter(any),
    seed=st.integers(0, 3),
)
def test_every_group_and_all_groups_keep_their_shares(sizes, weights, seed):
    shares = dict(zip(PARTS, (weight / sum(weights) for weight in weights), strict=True))
    groups = [f"group {i}" for i, size in enumerate(sizes) for _ in range(size)]
    found = split([[f"{i}.png"] for i in range(len(groups))], groups, Parts(**shares, seed=seed))
    for chosen in [None, *set(groups)]:
        own = [part for part, group in zip(found, groups, strict=True) if chosen in (None, group)]
        for part, share in shares.items():
            off = own.count(part) - share * len(own)
            # Small groups are in every measured part where they can be, which all groups together may feel.
            assert abs(off) < (2 if chosen is None else 1 + 1e-9)
            assert share or not own.count(part)


def test_samples_that_share_a_key_go_to_one_part():
    """Questions about one file, one public picture under two names, two files of the same bytes."""
    rng = random.Random(5)
    keys = [[f"image {i}"] for i in range(40) for _ in range(3)]
    keys[0].append("id coco:1"), keys[100].append("id coco:1")
    keys[50].append("bytes x"), keys[101].append("bytes x"), keys[119].append("bytes x")
    groups = [rng.choice("abc") for _ in keys]
    found = split(keys, groups, Parts())
    by_image = [set(found[i : i + 3]) for i in range(0, 120, 3)]
    assert all(len(parts) == 1 for parts in by_image)
    # Image 33 is linked with image 0 by its id and with images 16 and 39 by bytes.
    assert by_image[0] == by_image[33] == by_image[16] == by_image[39]
    assert len({part for parts in by_image for part in parts}) == 4


def test_units_join_over_several_samples():
    assert units([["a"], ["b"], ["c", "a"], ["d"], ["b", "c"], ["d", "e"]]) == [0, 0, 0, 3, 0, 3]


def test_the_order_of_samples_does_not_matter_and_the_seed_does():
    groups = [f"{i % 7}" for i in range(90)]
    keys = [[f"{i // 2}.png"] for i in range(90)]
    order = random.Random(1).sample(range(90), 90)
    straight = split(keys, groups, Parts())
    mixed = split([keys[i] for i in order], [groups[i] for i in order], Parts())
    assert mixed == [straight[i] for i in order]
    other = split(keys, groups, Parts(seed=1))
    assert other != straight and counts(other[::2]) == pytest.approx(counts(straight[::2]), abs=4)


def test_shares_that_are_not_named_are_none():
    assert Parts().shares() == Parts(seed=3).shares() == DEFAULT
    assert Parts(train=0.7, test=0.3).shares() == {"train": 0.7, "null": 0, "validation": 0, "test": 0.3}
    assert Parts.model_validate({"train": 0.75, None: 0.25}).null == 0.25


@pytest.mark.parametrize(
    "shares", [{"train": 0.6}, {"train": 0.9, "test": 0.2}, {"train": 1.2}, {"dev": 1.0}]
)
def test_other_shares_are_refused(shares):
    with pytest.raises(ValidationError):
        Parts(**shares)
