"""Subsets of data sets: what they come from, which samples they hold, and how many these are."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from vlmdiff.config.absent import not_there
from vlmdiff.config.datasets import FolderDataset, SubsetDataset, is_prepared
from vlmdiff.config.parts import Parts, split
from vlmdiff.config.samples_file import find_samples, is_file, read_records
from vlmdiff.runtime.reading import DataError

Record = Mapping[str, Any]


def line_of(name: str, datasets: Mapping[str, Any]) -> list[str]:
    """Return a data set, what it is a subset of, and so on up to one that is no subset."""
    line = [name]
    while isinstance(entry := datasets[line[-1]], SubsetDataset):
        line.append(entry.of)
    return line


def sources(datasets: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, key, name) for the data sets that subsets are part of; see `schema.references`."""
    for name, entry in datasets.items():
        if isinstance(entry, SubsetDataset):
            yield "dataset", f"datasets.{name}.of", entry.of


def check_subsets(datasets: Mapping[str, Any]) -> None:
    """Refuse subsets that lead back to themselves, and parts of subsets.

    Raises:
        ValueError: naming the data set and the way.
    """
    for name, entry in datasets.items():
        source = datasets[entry.of] if isinstance(entry, SubsetDataset) else None
        if isinstance(source, SubsetDataset) and entry.part != "all":
            raise ValueError(
                f"datasets.{name}.part: found '{entry.part}' of '{entry.of}', which is a subset itself, "
                f"expected a part of what that comes from; write `of: {source.of}`, with the groups of both"
            )
        seen = [name]
        while isinstance(entry, SubsetDataset):
            if entry.of in seen:
                raise ValueError(f"datasets.{name}.of: leads back ({' -> '.join([*seen, entry.of])})")
            seen.append(entry.of)
            entry = datasets[entry.of]


def split_source(name: str, datasets: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how the data set that another one is part of is read and split; None for other kinds."""
    entry = datasets[name]
    if not isinstance(entry, SubsetDataset):
        return None
    source = datasets[entry.of]
    parts = getattr(source, "parts", Parts()).params()
    # Where images are linked to, paths begin with the link, which is not part of a picture's name.
    return {"samples": source.samples, "parts": parts, "root": "images/" if is_prepared(source) else ""}


def may_have_fewer(name: str, datasets: Mapping[str, Any]) -> bool:
    """Tell whether a data set may have fewer samples than planned: images were left out, or it is a part."""
    entry = datasets[name]
    return isinstance(entry, SubsetDataset) or getattr(entry, "on_missing", "error") == "skip"


def shows_images(name: str, datasets: Mapping[str, Any]) -> bool:
    """Tell whether samples of a data set may show images."""
    line = [datasets[one] for one in line_of(name, datasets)]
    return line[-1].kind != "text" and all(entry.images for entry in line[:-1])


def keys_of(record: Record, root: str = "") -> list[str]:
    """Return what the picture of a sample is known by, or its text if it shows none.

    Args:
        record: the sample.
        root: what all image paths begin with and the split must not depend on.
    """
    if record["image"] is None:
        return [f"text {record.get('chat', True)} {record['prompt']}"]
    keys = [f"image {posixpath.normpath(record['image'].removeprefix(root))}"]
    return [*keys, f"id {record['image_id']}"] if isinstance(record.get("image_id"), str) else keys


def subset_indices(
    entry: SubsetDataset, records: Sequence[Record], parts: Parts, keys: Sequence[Sequence[str]]
) -> list[int]:
    """Return the indices of the samples that a subset holds, in order.

    Args:
        entry: the subset.
        records: samples of what it is part of.
        parts: how that is split.
        keys: of each sample what it is known by; see `split`.

    Raises:
        DataError: a group is not there, or no sample is left.
    """
    groups = [record["group"] for record in records]
    check_groups(entry, sorted(set(groups)))
    kept = [
        index
        for index, group in enumerate(groups)
        if (entry.groups is None or group in entry.groups) and group not in entry.without
    ]
    if entry.scored:
        kept = [index for index in kept if is_scored(records[index])]
    where = ""
    if entry.part != "all":
        where = f" in part '{entry.part}' (share {parts.shares()[entry.part]:g})"
        part_of = split(keys, groups, parts)
        kept, before = [index for index in kept if part_of[index] == entry.part], len(kept)
        where += f", expected some of the {before}"
    if not kept:
        raise DataError(
            f"found no sample of '{entry.of}'{where} that `groups` and `without` leave"
            f"{', with `choices` and `answer`' if entry.scored else ''}; add samples, or change them, `part` "
            f"or `datasets.{entry.of}.parts`"
        )
    return kept[: entry.samples]


def is_scored(record: Record) -> bool:
    """Tell whether a sample's answer can be scored: the right one among all that are possible."""
    return record.get("choices") is not None and record.get("answer") is not None


def check_groups(entry: SubsetDataset, known: Sequence[str]) -> None:
    """Refuse groups that no sample has.

    Raises:
        DataError: naming the key, the group and what there is.
    """
    for key, names in (("groups", entry.groups or []), ("without", entry.without)):
        for name in names:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise DataError(
                    f"{key}: found '{name}', expected groups of '{entry.of}': {', '.join(known)}{hint}"
                )


def as_text_alone(record: Record) -> dict[str, Any]:
    """Return a sample without its image."""
    return {key: value for key, value in record.items() if key != "image_id"} | {"image": None}


def as_taken(entry: SubsetDataset, record: Record) -> dict[str, Any]:
    """Return a sample as a subset takes it: whole, without its image, or with another one and no answer."""
    if not entry.images:
        return as_text_alone(record)
    return dict(record) if entry.transform is None else dict(record) | {"answer": None, "choices": None}


class Counting:
    """Samples of data sets that come from folders of the user's own, read before anything runs."""

    def __init__(self, datasets: Mapping[str, Any]) -> None:
        """Look at nothing yet."""
        self.datasets = datasets
        self.known: dict[str, list[Record] | None] = {}

    def records(self, name: str) -> list[Record] | None:
        """Return the samples of a data set; None if they cannot be known yet.

        Raises:
            DataError: the samples file is wrong, or holds fewer samples than the configuration uses.
        """
        if name not in self.known:
            entry = self.datasets[name]
            if isinstance(entry, SubsetDataset):
                self.known[name] = self.of_subset(entry)
            else:
                self.known[name] = of_folder(entry) if isinstance(entry, FolderDataset) else None
        return self.known[name]

    def of_subset(self, entry: SubsetDataset) -> list[Record] | None:
        """Return the samples of a subset; see `records`."""
        source = self.records(entry.of)
        if source is None:
            return None
        parts = getattr(self.datasets[entry.of], "parts", Parts())
        found = subset_indices(
            entry.model_copy(update={"samples": None}), source, parts, list(map(keys_of, source))
        )
        if entry.samples is not None and entry.samples > len(found):
            raise DataError(f"samples: found {entry.samples}, expected at most {len(found)}, which there are")
        return [as_taken(entry, source[index]) for index in found[: entry.samples]]

    def problem(self, name: str) -> str | None:
        """Say why the number of a data set's samples is not known; None if it is."""
        try:
            if self.records(name) is not None:
                return None
        except DataError as error:
            return f"datasets.{name}: {error}"
        if told := self.empty_part(name):
            return told
        if self.datasets[name].samples is not None:
            return None
        root = line_of(name, self.datasets)[-1]
        entry = self.datasets[root]
        if not isinstance(entry, FolderDataset):
            return (
                f"datasets.{name}.samples: needed, for the samples of '{root}' cannot be counted before "
                "it is made; write the most that may be used"
            )
        return (
            f"datasets.{root}.path: {not_there(entry.path, str(find_samples(entry.path)))}; if a rule makes "
            f"it, set datasets.{name}.samples"
        )

    def empty_part(self, name: str) -> str | None:
        """Say that a data set is a part that gets no samples; None if it is another one."""
        entry = self.datasets[name]
        if not isinstance(entry, SubsetDataset) or entry.part == "all":
            return None
        shares = getattr(self.datasets[entry.of], "parts", Parts()).shares()
        if shares[entry.part]:
            return None
        there = ", ".join(f"{part} {share:g}" for part, share in shares.items() if share)
        return (
            f"datasets.{name}.part: found '{entry.part}', but datasets.{entry.of}.parts gives it no share "
            f"({there}); give it one, or name another part"
        )


def of_folder(entry: FolderDataset) -> list[Record] | None:
    """Return the samples of a folder; None if its file is not there.

    Raises:
        DataError: see `Counting.records`.
    """
    if not is_file(find_samples(entry.path)):
        return None
    records = read_records(entry.path)
    if entry.samples is not None and entry.samples > len(records):
        raise DataError(
            f"samples: found {entry.samples}, but {find_samples(entry.path)} has {len(records)}; lower it, "
            "or leave it out to use all"
        )
    return records[: entry.samples]


def counted(datasets: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what the entries of data sets leave open: numbers of samples, and text tokens of subsets.

    Raises:
        ValueError: its arguments name each entry whose number of samples cannot be told, and why.
    """
    counting, found = Counting(datasets), {}
    if problems := list(filter(None, map(counting.problem, datasets))):
        raise ValueError(*told_once(problems))
    for name, entry in datasets.items():
        records, changes = counting.records(name), {}
        if records is not None and entry.samples is None:
            changes["samples"] = len(records)
        if isinstance(entry, SubsetDataset) and entry.text_tokens is None:
            changes["text_tokens"] = text_tokens(name, datasets)
        if {key for key, value in changes.items() if value is not None}:
            found[name] = changes
    return found


def text_tokens(name: str, datasets: Mapping[str, Any]) -> int | None:
    """Return how many text tokens a sample has, as the nearest entry says that says it."""
    said = (getattr(datasets[one], "text_tokens", None) for one in line_of(name, datasets))
    return next((one for one in said if one is not None), None)


def told_once(problems: Sequence[str]) -> Iterator[str]:
    """Yield problems; what a subset has from its source is told with the source alone."""
    seen: set[str] = set()
    for problem in problems:
        cause = problem.partition(": ")[2] or problem
        if cause not in seen:
            seen.add(cause)
            yield problem
