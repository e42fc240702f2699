"""Which samples are compared with which where texts are alike: strata, labels, and what is tested apart."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlmdiff.features.within_strata import Strata, least_log_p
from vlmdiff.runtime.reading import shortened

Array = np.ndarray
SHOWN = 5
# How a value is written where there is none.
NOTHING = ("", "nan")
ONE_TEXT = (
    ", expected samples of one text over different images; take more samples, or name in `strata` a key in "
    "which such samples agree: words that differ within it can then pass"
)


class MatchedError(ValueError):
    """Samples cannot be compared within strata: what was found, what was expected, what to do."""


@dataclass(frozen=True)
class Keys:
    """What tells samples apart, each the name of a key of the samples, with dots into what a key holds.

    Attributes:
        label: its values are held against each other; of several keys those of each.
        strata: samples that agree in it are compared with each other only; None: all with all.
        within: its values are tested apart, each with its own strata; None for one test of all.
    """

    label: str | Sequence[str]
    strata: str | None = None
    within: str | None = None

    def each(self) -> list[Keys]:
        """Return the same with one label, for each of them."""
        labels = [self.label] if isinstance(self.label, str) else self.label
        return [replace(self, label=label) for label in labels]


@dataclass(frozen=True, eq=False)
class MatchedTest:
    """One comparison: a value of the label against the others, where `within` has one value.

    Attributes:
        level: value of `within`; empty without one.
        value: value of the label; of several labels with its name.
        other: the other value if there is one other, else `not VALUE`.
        rows: numbers of the samples that are compared.
        strata: these samples.
    """

    level: str
    value: str
    other: str
    rows: Array
    strata: Strata

    @property
    def least_log_p(self) -> float:
        """The least logarithm of a p that its samples allow."""
        return least_log_p(pieces(self.strata))


def log_limit(fdr: float) -> float:
    """Return the logarithm of a false discovery rate, of 0 that of the least number."""
    return float(np.log(max(fdr, np.finfo(float).tiny)))


def held(holder: Any, part: str) -> Any:
    """Return what a mapping holds under a key, or a list at a place, counted from 0; None if nothing."""
    if isinstance(holder, list):
        return next((found for place, found in enumerate(holder) if str(place) == part), None)
    return holder.get(part) if isinstance(holder, Mapping) else None


def look_up(record: Mapping[str, Any], key: str) -> str | None:
    """Return what a sample says under a key, as text; None if it says nothing there.

    Args:
        record: keys and values of the sample.
        key: `answer`; `annotation.relation` for a key of what `annotation` holds; `objects.0.row` for one of
            what comes first in a list.

    Raises:
        MatchedError: the key holds a list or a mapping.
    """
    # A key may have dots in its own name.
    found: Any = record
    for part in [key] if key in record else key.split("."):
        found = held(found, part)
    if isinstance(found, list | Mapping):
        raise MatchedError(
            f"found '{key}', which is {shown(found)} in sample '{record.get('sample_id')}', expected a text "
            "or a number; name a key of the samples that holds one"
        )
    return found if found is None else str(found)


def plain(value: str) -> str | None:
    """Return a value of a label as people read it: without blanks around it; None if it says nothing."""
    text = unicodedata.normalize("NFC", value.encode(errors="backslashreplace").decode()).strip()
    return None if text.lower() in NOTHING else text


def shown(found: Any) -> str:
    """Name a value of the wrong kind, with the keys of a mapping."""
    if isinstance(found, Mapping):
        return f"a mapping with the keys {', '.join(map(str, list(found)[:SHOWN]))}"
    if isinstance(found, list):
        places = {0: "without any place", 1: "whose only place is 0"}
        return f"a list {places.get(len(found), f'with the places 0 to {len(found) - 1}')}"
    return shortened(str(found))


def broken_off(record: Mapping[str, Any], key: str) -> str | None:
    """Say where a sample stops to have what a key with dots leads to; None if at its first part."""
    parts, found = key.split("."), record
    for number, part in enumerate(parts):
        deeper = held(found, part)
        if deeper is None:
            so_far, sample = ".".join(parts[:number]), record.get("sample_id")
            return f"'{so_far}' is {shown(found)} in sample '{sample}'" if number else None
        found = deeper
    return None


def column(records: Sequence[Mapping[str, Any]], key: str, option: str) -> list[str | None]:
    """Return what every sample says under a key.

    Args:
        records: the samples.
        key: the key.
        option: of the configuration, that names it.

    Raises:
        MatchedError: no sample has the key, or one holds neither a text nor a number.
    """
    try:
        found = [look_up(record, key) for record in records]
    except MatchedError as error:
        raise MatchedError(f"{option}: {error}") from None
    if option != "strata":
        found = [None if one is None else plain(one) for one in found]
    if all(one is None for one in found):
        if any(key in record for record in records):
            raise MatchedError(
                f"{option}: found '{key}', which is empty in all of {len(records)} samples; fill it, or name "
                "another key"
            )
        known = sorted({name for record in records for name in record})
        where = next((f" ({told})" for told in (broken_off(one, key) for one in records) if told), "")
        raise MatchedError(
            f"{option}: found '{key}', which none of {len(records)} samples has{where}, expected a key of "
            f"the samples; they have {', '.join(known)}"
        )
    return found


def numbered(values: Sequence[Hashable]) -> Array:
    """Number the different values from 0."""
    place: dict[Hashable, int] = {}
    return np.array([place.setdefault(value, len(place)) for value in values], np.int64)


def levels(values: Sequence[str | None] | None, count: int) -> Iterator[tuple[str, Array]]:
    """Yield each value of `within` and the samples that have it; all samples under no name without one."""
    if values is None:
        yield "", np.arange(count)
        return
    column = np.array(values, dtype=object)
    for level in sorted({value for value in values if value is not None}):
        yield level, np.flatnonzero(column == level)


def matched_tests(
    records: Sequence[Mapping[str, Any]], images: Sequence[Hashable], keys: Keys, fdr: float
) -> list[MatchedTest]:
    """Return the comparisons that samples allow, those of each label.

    A value of a label is compared with all others in the same stratum. Of two values one is tested, for
    the other is its mirror. Values of which too few images lie in strata with others are left out: a feature
    that told them without fault would not reach the false discovery rate. All tests together raise its p.

    Args:
        records: the samples, as mappings.
        images: what each shows; those of one image depend on one another.
        keys: what tells samples apart.
        fdr: largest adjusted p.

    Raises:
        MatchedError: a key is not there, or of a label no stratum holds different values in enough images.
    """
    tests: list[MatchedTest] = []
    every = keys.each()
    for one in every:
        named = f"{one.label} " if len(every) > 1 else ""
        tests += tests_of_label(records, images, one, fdr, named)
    return enough(tests, fdr)


def enough(tests: Sequence[MatchedTest], fdr: float) -> list[MatchedTest]:
    """Return the tests by which a feature can reach a false discovery rate, as many as they are.

    Raises:
        MatchedError: there are none.
    """
    least = {test: test.least_log_p for test in tests}
    kept = sorted(tests, key=least.get)
    while kept and least[kept[-1]] + np.log(len(kept)) > log_limit(fdr):
        kept.pop()
    if not kept:
        raise MatchedError(
            f"label: found {len(tests)} tests, by the largest of which no p can be less than "
            f"{np.exp(min(least.values())):.2g}; times their number that is more than `fdr`, {fdr:g}. Take "
            "more samples, or name fewer labels"
        )
    return [test for test in tests if test in set(kept)]


def tests_of_label(
    records: Sequence[Mapping[str, Any]], images: Sequence[Hashable], keys: Keys, fdr: float, named: str
) -> list[MatchedTest]:
    """Return the comparisons of one label; `named` stands before its values (see `matched_tests`)."""
    labels = column(records, keys.label, "label")
    texts = [""] * len(records) if keys.strata is None else column(records, keys.strata, "strata")
    within = None if keys.within is None else column(records, keys.within, "within")
    known = np.array([label is not None and text is not None for label, text in zip(labels, texts)])
    possible = []
    for level, rows in levels(within, len(records)):
        rows = rows[known[rows]]
        values = [f"{named}{labels[row]}" for row in rows]
        possible += tests_of_level(level, rows, values, texts, images)
    if tests := [test for test in possible if test.least_log_p <= log_limit(fdr)]:
        return tests
    rows = np.flatnonzero(known)
    told = what_there_is(labels, texts, keys)
    if possible:
        told += too_few(min(possible, key=lambda test: test.least_log_p), images, keys, fdr)
    elif keys.within and tests_of_level("", rows, [labels[row] for row in rows], texts, images):
        told += (
            f", but none where '{keys.within}' has one value; leave `within` out, or name another key there"
        )
    elif keys.strata is not None:
        told += ONE_TEXT
    raise MatchedError(told + (f"; or leave '{keys.label}' out of `label`" if named else ""))


def tests_of_level(
    level: str,
    rows: Array,
    labels: Sequence[str],
    texts: Sequence[str | None],
    images: Sequence[Hashable],
) -> list[MatchedTest]:
    """Return the comparisons where `within` has one value, however few images they have."""
    stratum, image = (numbered([values[row] for row in rows]) for values in (texts, images))
    values = sorted(set(labels))
    tests = []
    for value in values[:1] if len(values) == 2 else values:
        strata = Strata(stratum, np.array([label == value for label in labels], bool), image)
        kept = strata.informative
        if kept.any():
            other = values[1] if len(values) == 2 else f"not {value}"
            tests.append(MatchedTest(level, value, other, rows[kept], strata.take(kept)))
    return tests


def pieces(strata: Strata) -> float:
    """Return how many independent pieces of knowledge samples hold: images, and no more than deviate.

    Images count by what a feature would tell of them that told the value without fault. Where one stands
    against many, it is nearly all there is.
    """
    told = strata.shows @ strata.centred**2
    effective = float(told.sum() ** 2 / (told**2).sum())
    return min(effective, len(strata.kind) - len(np.unique(strata.stratum)))


def what_there_is(labels: Sequence[str | None], texts: Sequence[str | None], keys: Keys) -> str:
    """Say what there is to compare."""
    values = Counter(label for label in labels if label is not None)
    pairs = {(text, label) for text, label in zip(texts, labels) if text is not None and label is not None}
    several = sum(count > 1 for count in Counter(text for text, _ in pairs).values())
    told = ", ".join(shortened(value) for value, _ in values.most_common(SHOWN))
    more = ", …" if len(values) > SHOWN else ""
    if keys.strata is None:
        alone = ", expected several; name another key" if len(values) < 2 else ""
        return f"label: found the values {told}{more} of '{keys.label}'{alone}"
    return (
        f"strata: found {several} of {len(set(texts) - {None})} values of '{keys.strata}' with different "
        f"values of '{keys.label}' ({told}{more})"
    )


def too_few(best: MatchedTest, images: Sequence[Hashable], keys: Keys, fdr: float) -> str:
    """Say that the comparison with most to tell has too few images, and what to do; see `matched_tests`."""
    count = len({images[row] for row in best.rows})
    where = f"{count} image{'s' * (count > 1)}{' where `within` has one value' if keys.within else ''}"
    return (
        f", over {where}, which allow no p below {np.exp(best.least_log_p):.2g}, expected one within `fdr`, "
        f"{fdr:g}; take more images{'' if fdr else ', or raise `fdr`'}"
    )
