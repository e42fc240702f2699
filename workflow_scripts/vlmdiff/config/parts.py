"""Parts of a data set: which samples are for training, which for validation and test, split by image."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from vlmdiff.config.base import Probability, Section

PARTS = ("train", "null", "validation", "test")
# Small groups are needed where something is measured.
MEASURED = ("validation", "test")
EXACT = 1e-9


class Parts(Section):
    """How a data set is split by image, each group alike; once a share is named, the others are 0."""

    train: Probability = Field(0.5, description="Share for training.")
    null: Probability = Field(0.1, description="Share for the null, which must not share data with `train`.")
    validation: Probability = Field(0.2, description="Share for all that is chosen.")
    test: Probability = Field(0.2, description="Share for all that is reported.")
    seed: int = Field(0, ge=0, description="Which images go where.")

    @model_validator(mode="before")
    @classmethod
    def named_shares_are_all(cls, values: Any) -> Any:
        """YAML reads `null` as nothing; where a share is named, those that are not are 0."""
        if not isinstance(values, dict):
            return values
        values = {"null" if key is None else key: value for key, value in values.items()}
        return dict.fromkeys(PARTS, 0.0) | values if set(PARTS) & values.keys() else values

    @model_validator(mode="after")
    def shares_are_whole(self) -> Parts:
        """All samples belong to some part."""
        if abs((total := sum(self.shares().values())) - 1) > EXACT:
            raise ValueError(f"found shares that add up to {total:g}, expected 1; shares not named are 0")
        return self

    def shares(self) -> dict[str, float]:
        """Return the share of each part."""
        return {part: getattr(self, part) for part in PARTS}


def units(keys: Sequence[Sequence[Hashable]]) -> list[int]:
    """Tell which samples belong together: those that share a key, directly or over others.

    Args:
        keys: of each sample, at least one.

    Returns:
        Of each sample the index of the first one of its unit.
    """
    parent = list(range(len(keys)))

    def first(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    seen: dict[Hashable, int] = {}
    for index, names in enumerate(keys):
        for name in names:
            one, other = first(seen.setdefault(name, index)), first(index)
            parent[max(one, other)] = min(one, other)
    return [first(index) for index in range(len(keys))]


def split(keys: Sequence[Sequence[str]], groups: Sequence[str], parts: Parts) -> list[str]:
    """Return the part of each sample.

    Samples that share a key go to one part. Each group keeps its shares in every part, to the nearest unit;
    a unit of several groups counts with the rarest one. The order of the samples does not matter.

    Args:
        keys: of each sample what it is known by; the first one decides, with the seed, where it goes.
        groups: of each sample.
        parts: shares and seed.
    """
    firsts = units(keys)
    names: dict[int, str] = {}
    members: dict[int, set[str]] = {}
    for unit, own, group in zip(firsts, keys, groups, strict=True):
        names[unit] = min(names.get(unit, own[0]), own[0])
        members.setdefault(unit, set()).add(group)
    sizes = Counter(group for found in members.values() for group in found)
    strata: dict[str, list[int]] = {}
    for unit, found in members.items():
        strata.setdefault(min(found, key=lambda group: (sizes[group], group)), []).append(unit)
    # Small groups come first, so that their rounding is made good by large ones.
    order = sorted(strata, key=lambda group: (len(strata[group]), group))
    counts = allot({group: len(strata[group]) for group in order}, parts.shares())
    part_of: dict[int, str] = {}
    for group in order:
        shuffled = sorted(strata[group], key=lambda unit: shuffle_key(names[unit], parts.seed))
        filled = (part for part in PARTS for _ in range(counts[group][part]))
        part_of |= dict(zip(shuffled, filled, strict=True))
    return [part_of[unit] for unit in firsts]


def shuffle_key(name: str, seed: int) -> bytes:
    """Return by what units are shuffled: it depends on a unit's name and the seed alone."""
    return hashlib.sha256(f"{seed} {name}".encode(errors="surrogatepass")).digest()


def allot(sizes: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, dict[str, int]]:
    """Return how many units of each group each part gets.

    Every part gets its share of every group, rounded down; what is left over goes first to parts where
    something is measured and that have none of the group, as long as they are owed it, then to the parts
    that are owed most over all groups so far. So all groups together keep their shares, too.

    Args:
        sizes: units of each group, in order.
        shares: of each part; they add up to 1.
    """
    owed, counts = dict.fromkeys(shares, 0.0), {}
    for group, size in sizes.items():
        given = {part: int(size * share + EXACT) for part, share in shares.items()}
        owed = {part: owed[part] + size * shares[part] - given[part] for part in shares}
        lacking = [part for part in MEASURED if not given[part] and owed[part] > EXACT]
        others = [part for part, share in shares.items() if share and part not in lacking]
        others.sort(key=lambda part: -round(owed[part], 9))
        for part in [*lacking, *others][: size - sum(given.values())]:
            given[part] += 1
            owed[part] -= 1
        counts[group] = given
    return counts
