"""Whether there is enough to test anything: different images on both sides, different texts to read."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vlmdiff.config.cases import question_sets
from vlmdiff.config.comparisons import MAIN
from vlmdiff.config.concepts import COUNTS, SampleSet
from vlmdiff.config.datasets import FolderDataset
from vlmdiff.config.families import LANGUAGE_MODEL
from vlmdiff.config.held_out import used_before
from vlmdiff.config.own_data import PHOTOS
from vlmdiff.config.parts import units
from vlmdiff.config.samples_file import data_folder, read_records
from vlmdiff.config.schema import Config, references
from vlmdiff.config.subsets import line_of
from vlmdiff.data.at_hand import Known, Record, listed, side_groups
from vlmdiff.runtime.reading import shortened

# Samples of one image depend on one another, and one image shows no spread.
FEWEST = 2
ROUNDING = 1e-9
# Longer numbers are written in short.
MOST_DIGITS = 12


@dataclass(frozen=True)
class Found:
    """How many different images, or texts without one, some samples have.

    Attributes:
        number: how many.
        what: what was counted.
        where: what of.
    """

    number: int
    what: str
    where: str

    @property
    def amount(self) -> str:
        """The number in words."""
        return f"{self.number} {self.what}{'' if self.number == 1 else 's'}"


@dataclass(frozen=True)
class Few:
    """Where there are too few images.

    Attributes:
        line: what is said of it.
        expected: how many images at least.
        sides: how many there are, each with the data set and, of a side of a concept, its groups; nothing if
            more images would not help.
    """

    line: str
    expected: int
    sides: Sequence[tuple[Found, str, SampleSet | None]]


def pictures(config: Config, name: str, records: Sequence[Record]) -> list[list[str]]:
    """Return by what the picture of each sample is known, or its text if it has none; nothing if unknown."""
    datasets = config.all_datasets()
    root = datasets[line_of(name, datasets)[-1]]
    folder = os.path.realpath(data_folder(root.path)) if isinstance(root, FolderDataset) else None
    found = []
    for record in records:
        if record["image"] is None:
            found.append([f"text {record['prompt']}"])
            continue
        keys = [] if folder is None else [os.path.normpath(f"{folder}/{record['image']}")]
        found.append([*keys, *filter(None, [record.get("image_id")])])
    return found


def count(
    config: Config,
    known: Mapping[str, Known],
    name: str,
    fits: Callable[[Record], bool] = lambda record: True,
    limit: int | None = None,
    used: frozenset[str] = frozenset(),
) -> Found | None:
    """Count the different images of samples, at most as many as there are samples; None if nobody knows.

    Args:
        config: the configuration.
        known: what is known of its data sets.
        name: of the data set.
        fits: which samples count.
        limit: how many of them, from the first on.
        used: images by which samples are left out; see `pictures`.
    """
    found = known.get(name)
    if found is None or not found.counted:
        most = [number for number in (config.dataset(name).samples, limit) if number is not None]
        return Found(min(most), "sample", f"data set '{name}'") if most else None
    records = [record for record in found.records if fits(record)]
    keys = [own for own in pictures(config, name, records) if not used.intersection(own)][:limit]
    where = f"data set '{name}' ({found.place})"
    if not all(keys):
        return Found(len(keys), "sample", where)
    what = "image" if any(record["image"] is not None for record in records) else "different text"
    return Found(len(set(units(keys))), what, where)


def few_problems(config: Config, known: Mapping[str, Known]) -> Iterator[str]:
    """Yield where there is too little to test anything."""
    found = [*concept_problems(config, known), *mean_problems(config, known)]
    own = [one for one in found if one.sides and all(is_photos(config, name) for _, name, _ in one.sides)]
    if own:
        yield too_few_photos(config, own)
    yield from (one.line for one in found if one not in own)
    yield from text_problems(config, known)


def is_photos(config: Config, name: str) -> bool:
    """Tell whether a data set is a part of the photos in `data`."""
    return config.data is not None and line_of(name, config.all_datasets())[-1] == PHOTOS


def too_few_photos(config: Config, found: Sequence[Few]) -> str:
    """Say in one line what is short of photos, all of which the user named with one key.

    Args:
        config: a configuration with `data`.
        found: where there are too few of them.
    """
    entry = config.datasets[PHOTOS]
    records = [one for one in read_records(entry.path)[: entry.samples] if one["image"] is not None]
    photos = len(set(units(pictures(config, PHOTOS, records))))
    parts: dict[str, dict[str, int]] = {}
    for side, name, samples in (side for one in found for side in one.sides):
        part, groups = part_and_groups(config, name, samples)
        parts.setdefault(part, {}).setdefault(groups, side.number)
    shares, expected = entry.parts.shares(), max(one.expected for one in found)
    told = "; ".join(
        f"part '{part}' ({shares.get(part, 1):.0%} of them) has "
        + ", ".join(f"{number} {groups}".strip() for groups, number in counts.items())
        for part, counts in parts.items()
    )
    needed = max(math.ceil(expected / shares[part] - ROUNDING) if shares.get(part) else 0 for part in parts)
    remedy = f"add photos ({needed} in all, or more)" if needed > photos else "add such photos"
    return (
        f"data.photos: found {photos} photos, of which {told}; expected at least {expected} of each: nothing "
        f"can be tested with fewer; {remedy}, or change the groups of the concepts"
    )


def part_and_groups(config: Config, name: str, samples: SampleSet | None) -> tuple[str, str]:
    """Return the part of the photos that a data set belongs to, and in words the groups that it takes.

    Args:
        config: the configuration.
        name: of the data set.
        samples: the side of a concept that takes groups of it.
    """
    datasets = config.all_datasets()
    subsets = [datasets[one] for one in line_of(name, datasets)[:-1]]
    taken = subsets if samples is None else [samples, *subsets]
    groups = [f"with {listed(one.groups)}" for one in taken if one.groups is not None]
    groups += [f"without {listed(one.without)}" for one in taken if one.without]
    # Where all questions have answers, this is no reason.
    if any(one.scored for one in subsets) and config.data.open_answers()[0]:
        groups.append("with `choices` and `answer`")
    return next((one.part for one in subsets if one.part != "all"), "all"), ", ".join(groups)


def concept_problems(config: Config, known: Mapping[str, Known]) -> Iterator[Few]:
    """Yield which concepts have too few images for any feature to be told apart.

    Which samples are the target's is what chance decides in the contrast's test over samples: with n and m of
    them no p is below one in (n + m over n) ways. Samples of one image depend on one another, so that images
    are counted where each is shown on one side alone. Where both sides show the same images, chance decides
    which texts about one are the target's, and samples are counted, as in the test.
    """
    for name, concept in config.concepts.items():
        sides = concept.sides
        counts = {side: count_side(config, known, samples) for side, samples in sides.items()}
        few = {side: found for side, found in counts.items() if found is not None and found.number < FEWEST}
        for side, found in few.items():
            # That a group is not there is told of the group.
            if found.number:
                line = (
                    f"concepts.{name}.{side}: found {found.amount} in {found.where}, expected images of at "
                    f"least {FEWEST}: samples of one image depend on one another, and nothing can be tested "
                    "by one; add images, or take more groups"
                )
                yield Few(line, FEWEST, [(found, sides[side].dataset, sides[side])])
        if concept.contrast == COUNTS and not few and None not in counts.values() and concept.fdr > 0:
            keys = [keys_of_side(config, known, samples) for samples in sides.values()]
            if keys[0] & keys[1]:
                counts = {side: count_samples(known, samples) for side, samples in sides.items()}
            shown = [(counts[side], samples.dataset, samples) for side, samples in sides.items()]
            yield from assignment_problems(name, shown, concept.fdr)


def assignment_problems(
    concept: str, sides: Sequence[tuple[Found, str, SampleSet]], fdr: float
) -> Iterator[Few]:
    """Yield that no p of a concept can be as small as asked for; see `concept_problems`.

    Args:
        concept: its name.
        sides: target and baseline; see `Few`.
        fdr: of the concept.
    """
    target, baseline = (found for found, *_ in sides)
    if is_reached(target.number, baseline.number, fdr):
        return
    of_images = target.what == "image"
    independent = " (samples of one image depend on one another)" if of_images else ""
    each = next(n for n in itertools.count(FEWEST) if is_reached(n, n, fdr))
    line = (
        f"concepts.{concept}: found {target.amount} in `target` and {baseline.amount} in `baseline`"
        f"{independent}, and chance makes just this choice of the {target.what}s in the target one time in "
        f"{ways_to_assign(target.number, baseline.number)}, but `fdr` allows {fdr}; expected at least as "
        f"many choices as of {each} and {each}; add images, or take more groups"
    )
    yield Few(line, each, sides if of_images else [])


def is_reached(one: int, other: int, fdr: float) -> bool:
    """Tell whether things can be assigned to two sides in so many ways that a p can be small enough."""
    return log_ways(one, other) >= -math.log(fdr) - ROUNDING


def ways_to_assign(one: int, other: int) -> str:
    """Write the number of ways to assign things to two sides, in short if there are many."""
    digits = log_ways(one, other) / math.log(10)
    return f"{math.comb(one + other, one)}" if digits < MOST_DIGITS else f"10^{math.floor(digits)}"


def log_ways(one: int, other: int) -> float:
    """Return the logarithm of the number of ways to assign things to two sides of given sizes."""
    return math.lgamma(one + other + 1) - math.lgamma(one + 1) - math.lgamma(other + 1)


def is_of_side(known: Mapping[str, Known], samples: SampleSet) -> Callable[[Record], bool]:
    """Return what tells whether a sample is of a side of a concept."""
    found = known.get(samples.dataset)
    groups = None if found is None or found.groups is None else side_groups(samples, found)
    return lambda record: groups is None or record["group"] in groups


def count_side(config: Config, known: Mapping[str, Known], samples: SampleSet) -> Found | None:
    """Count the images of a side of a concept; see `count`."""
    return count(config, known, samples.dataset, is_of_side(known, samples))


def records_of_side(known: Mapping[str, Known], samples: SampleSet) -> list[Record]:
    """Return the samples of a side of a concept; nothing if they are not known."""
    found = known.get(samples.dataset)
    fits = is_of_side(known, samples)
    return [] if found is None or not found.counted else [one for one in found.records if fits(one)]


def keys_of_side(config: Config, known: Mapping[str, Known], samples: SampleSet) -> set[str]:
    """Return by what the pictures of a side of a concept are known; see `pictures`."""
    own = pictures(config, samples.dataset, records_of_side(known, samples))
    return {key for keys in own for key in keys}


def count_samples(known: Mapping[str, Known], samples: SampleSet) -> Found:
    """Count the samples of a side of a concept, which are known."""
    found = known[samples.dataset]
    where = f"data set '{samples.dataset}' ({found.place})"
    return Found(len(records_of_side(known, samples)), "sample", where)


def averaged(config: Config) -> Iterator[tuple[str, str, int]]:
    """Yield (key, data set, most samples) of what means and intervals are taken over."""
    yield from question_sets(config)
    if (heads := config.heads) is not None:
        yield "heads.dataset", heads.dataset, max(heads.samples, heads.image_samples)
        yield "heads.head_means.dataset", heads.head_means.dataset, heads.head_means.samples


def mean_problems(config: Config, known: Mapping[str, Known]) -> Iterator[Few]:
    """Yield which questions show one image alone: a mean over them is that image's, an interval is none."""
    used, told = images_used(config, known), set()
    for key, name, limit in averaged(config):
        before = used if ".report_on." in key else frozenset()
        found = count(config, known, name, limit=limit, used=before)
        if found is None or found.number >= FEWEST or name in told:
            continue
        told.add(name)
        left = " that no key uses before" if before else ""
        line = (
            f"{key}: found {found.amount} in {found.where}{left}, expected images of at least {FEWEST}: a "
            "mean over one image is that image's, and it has no interval; add images, or raise `samples`"
        )
        # Where there are others that a key leaves out, it is that key which has to change.
        whole = count(config, known, name)
        yield Few(line, FEWEST, [(whole, name, None)] if whole.number < FEWEST else [])


def images_used(config: Config, known: Mapping[str, Known]) -> frozenset[str]:
    """Return the images at hand that are used before anything is reported, if reporting leaves these out."""
    if config.held_out.shared_images == "keep":
        return frozenset()
    names = [name for name in used_before(references(config)) if name in known and known[name].counted]
    shown = {name: [one for one in known[name].records if one["image"] is not None] for name in names}
    return frozenset(
        key for name, records in shown.items() for own in pictures(config, name, records) for key in own
    )


def text_problems(config: Config, known: Mapping[str, Known]) -> Iterator[str]:
    """Yield which data sets have one text alone where no images are shown with it."""
    told = set()
    for key, name in read_as_text(config):
        found = known.get(name)
        if found is None or not found.counted or name in told:
            continue
        texts = {record["prompt"] for record in found.records}
        if len(texts) < FEWEST:
            told.add(name)
            yield (
                f"{key}: found data set '{name}' ({found.place}), whose samples have one text, "
                f"{shortened(min(texts))}, expected different ones: here the model reads texts alone; name "
                "other data, or add texts"
            )


def read_as_text(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (key, data set) of what is read without images."""
    blind = {name for name, one in config.models.items() if one.family == LANGUAGE_MODEL or one.text_only}
    for name, stage in config.trained().items():
        if stage.model in blind:
            yield f"dictionaries.{name}.dataset", stage.dataset
    for i, entry in enumerate(config.evaluation):
        if entry.model in blind:
            yield f"evaluation.{i}.dataset", entry.dataset
    for label, diff in config.all_comparisons().items():
        section = "diff" if label == MAIN else f"comparisons.{label}"
        yield from ((f"{section}.text_datasets", name) for name in diff.text_datasets)
