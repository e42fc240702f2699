"""Data sets at hand: what their samples tell before anything runs."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from vlmdiff.config.absent import is_there
from vlmdiff.config.concepts import SampleSet
from vlmdiff.config.corpora import check_different, documents_in
from vlmdiff.config.datasets import (
    CvBenchDataset,
    FolderDataset,
    GqaDataset,
    PreparedDataset,
    SubsetDataset,
    TextDataset,
    VqaDataset,
    VsrDataset,
    WhatsUpDataset,
    skipping,
)
from vlmdiff.config.documents import LINES
from vlmdiff.config.samples_file import find_samples, read_records
from vlmdiff.config.schema import Config
from vlmdiff.config.sources import is_hub
from vlmdiff.config.subsets import Counting
from vlmdiff.config.world import CLOSED, WorldDataset, groups_of
from vlmdiff.data.gqa import check_files
from vlmdiff.data.tabular import READERS, files_of
from vlmdiff.data.vqa import is_official, listed_pairs, official_files
from vlmdiff.data.vsr import offer_vsr
from vlmdiff.data.whats_up import offer_whats_up
from vlmdiff.runtime.reading import DataError, within

Record = Mapping[str, Any]
# What people name as an image and nothing here reads, by its ending: what it is, and what to do.
VIDEO = ("a video", "save one frame of it, and ask about that")
PAPER = ("a document", "save the page as a picture")
OTHER = ("of a kind that is not read", "save it as .jpg or .png")
ENDINGS = {
    VIDEO: "mp4 mov avi mkv webm m4v mpg mpeg wmv flv",
    PAPER: "pdf doc docx ppt pptx",
    OTHER: "heic heif avif jxl svg eps psd cr2 nef arw dng",
}
NO_PICTURES = {f".{ending}": kind for kind, endings in ENDINGS.items() for ending in endings.split()}
SHOWN = 3
MOST_GROUPS = 12


@dataclass(frozen=True)
class Known:
    """What is known of a data set before anything runs.

    Attributes:
        place: where it comes from, for messages.
        records: its samples; of the built-in world one for each group.
        groups: its groups; None if they are not known.
        counted: whether `records` are its samples.
    """

    place: str
    records: Sequence[Record]
    groups: frozenset[str] | None
    counted: bool = True

    @classmethod
    def of(cls, place: str, records: Sequence[Record]) -> Known:
        """Return what samples tell."""
        return cls(place, records, frozenset(record["group"] for record in records))

    def told(self, wrong: Sequence[Record]) -> str:
        """Write how many samples something is true of, and which comes first."""
        if not self.counted:
            return "samples"
        return f"{len(wrong)} of {len(self.records)} samples, first '{wrong[0]['sample_id']}',"


def of_world(entry: WorldDataset) -> Known:
    """Return what the settings of the built-in world tell of a data set."""
    groups = groups_of(entry)
    record = {"image": None if entry.kind == "text" else "drawn", "chat": entry.kind != "text", "answer": "a"}
    record["choices"] = ["a", "b"] if entry.kind in CLOSED else None
    place = f"kind '{entry.kind}' of the built-in world"
    return Known(place, [record], None if groups is None else frozenset(groups), counted=False)


def of_folder(name: str, entry: FolderDataset, used: Sequence[Record]) -> Known:
    """Return what the user's own samples tell.

    Args:
        name: of the data set.
        entry: its entry.
        used: its samples, as many as are used.

    Raises:
        DataError: images are missing, or are no pictures.
    """
    file, records = find_samples(entry.path), read_records(entry.path)
    check_images(name, file.parent, records, entry.on_missing)
    check_kinds(name, file.parent, records, entry.on_missing)
    return Known.of(str(file), used)


def of_subset(entry: SubsetDataset, used: Sequence[Record] | None, source: Known | None) -> Known | None:
    """Return what is known of a part of another data set; None if nothing.

    Args:
        entry: the subset.
        used: its samples, if they can be told.
        source: what is known of what it is part of.
    """
    if used is not None:
        return Known.of(f"a subset of '{entry.of}'", used)
    if source is None or source.groups is None:
        return None
    groups = frozenset(side_groups(entry, source))
    changes = {} if entry.images else {"image": None}
    records = [{**one, **changes} for one in source.records if one.get("group", None) in {None, *groups}]
    return Known(f"a subset of '{entry.of}'", records, groups, counted=False)


def of_annotations(entry: VsrDataset | WhatsUpDataset) -> Known:
    """Read the statements of a public data set whose annotations lie in a folder, as many as are used.

    Raises:
        DataError: the file is not there, is wrong, or has too few statements.
    """
    offer = offer_vsr(entry) if isinstance(entry, VsrDataset) else offer_whats_up(entry)
    taken = offer.take(entry.samples, entry.offset)
    place = f"split '{entry.split}' of {entry.source}"
    check_count(entry.samples, len(taken), place + (f" after offset {entry.offset}" if entry.offset else ""))
    return Known.of(place, [{"image": "named", "chat": True, **one.values} for one in taken])


def check_count(wanted: int, found: int, place: str) -> None:
    """Refuse to ask for more samples than there are.

    Raises:
        DataError: naming both numbers.
    """
    if found < wanted:
        raise DataError(
            f"samples: found {wanted}, but {place} has {found}; lower `samples` to at most {found}"
        )


def check_images(name: str, folder: Path, records: Sequence[Record], on_missing: str) -> None:
    """Refuse samples whose images are not in the folder; with `skip`, only if all are missing.

    Raises:
        DataError: naming the first ones.
    """
    shown = [record for record in records if record["image"] is not None]
    there, real = cache(lambda parent: files_in(folder / parent)), cache(os.path.realpath)

    def is_missing(name: str) -> bool:
        parent, _, file = os.path.normpath(name).rpartition("/")
        is_link = there(parent).get(file)
        # A file that is no link lies in the folder where it is listed.
        return is_link is None or (is_link and not within(folder, name, real).is_file())

    missing = [record for record in shown if is_missing(record["image"])]
    images: dict[str, list[str]] = {}
    for record in missing:
        images.setdefault(os.path.normpath(record["image"]), []).append(record["sample_id"])
    if not missing or (on_missing == "skip" and len(missing) < len(records)):
        return
    first = ", ".join(
        f"'{image}' of sample '{samples[0]}'" + (f" and {len(samples) - 1} more" if samples[1:] else "")
        for image, samples in list(images.items())[:SHOWN]
    )
    first += ", …" if len(images) > SHOWN else ""
    # Where all are missing, nothing would be left.
    skip = f", {skipping(name)}" if len(missing) < len(records) else ""
    verb = "image is" if len(images) == 1 else "images are"
    raise DataError(
        f"{len(images)} {verb} not in {folder}, of {len(missing)} of {len(shown)} samples: {first}; bring "
        f"them, correct `image`{skip}, or write null where nothing is asked about an image"
    )


def check_kinds(name: str, folder: Path, records: Sequence[Record], on_missing: str) -> None:
    """Refuse images that are called something else and are no pictures; with `skip`, only if all are such.

    Raises:
        DataError: naming the first one.
    """
    is_other = cache(lambda image: kind_of(image) is not None and not begins_as_picture(folder / image))
    shown = [record for record in records if record["image"] is not None]
    wrong = [record for record in shown if is_other(record["image"])]
    if not wrong or (on_missing == "skip" and len(wrong) < len(records)):
        return
    image = wrong[0]["image"]
    kind, remedy = kind_of(image)
    skip = f", or {skipping(name)}" if len(wrong) < len(records) else ""
    raise DataError(
        f"image: found '{image}' ({kind}) of sample '{wrong[0]['sample_id']}', the first of {len(wrong)} of "
        f"{len(shown)}, expected a picture, such as .jpg or .png; {remedy}{skip}"
    )


def kind_of(image: str) -> tuple[str, str] | None:
    """Return what a file is called that is no picture, and what to do; None of other names."""
    return NO_PICTURES.get(Path(image).suffix.lower())


def begins_as_picture(file: Path) -> bool:
    """Tell whether a file begins as a picture does, whatever it is called."""
    from vlmdiff.data.pictures import opened

    try:
        with opened(file):
            return True
    # Without Pillow, as in an environment with Snakemake alone, the name counts.
    except (DataError, OSError, ImportError):
        return False


def files_in(folder: Path) -> dict[str, bool]:
    """Return the files of a folder, and whether each may lead elsewhere; none if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name: entry.is_symlink() for entry in entries if entry.is_symlink() or entry.is_file()
            }
    except OSError:
        return {}


def check_tables(entry: TextDataset | VqaDataset | CvBenchDataset) -> None:
    """Refuse a source of tables that has no files of the split.

    Raises:
        DataError: saying what is there.
    """
    path = Path(entry.source)
    if isinstance(entry, VqaDataset) and is_official(entry):
        official_files(entry)
        return
    names = entry.files if isinstance(entry, CvBenchDataset) else entry.split
    files = files_of(path, names)
    kinds = {READERS.get(file.suffix) for file in files}
    if len(kinds) != 1 or None in kinds:
        found = sorted(file.name for file in (files or path.iterdir()))
        raise DataError(
            f"split: found '{entry.split}', but {path} has {', '.join(found[:SHOWN]) or 'no files'}; "
            f"expected files of one kind of {', '.join(sorted(READERS))} named {names}*, also in data/"
        )


def check_corpus(entry: TextDataset, used: Collection[str]) -> None:
    """Refuse a corpus of lines with too few different documents.

    Args:
        entry: the corpus.
        used: its parts that something uses.

    Raises:
        DataError: a line is wrong, or see `check_different`.
    """
    files = files_of(Path(entry.source), entry.split)
    if {file.suffix.lower() for file in files} <= set(LINES):
        documents = (one for file in files for one in documents_in(file, entry.column, entry.words))
        check_different(documents, entry.source, entry.parts.shares(), used)


def of_source(entry: PreparedDataset, used: Collection[str]) -> Known | None:
    """Return what a public source tells; None if it is not at hand, or too long to read.

    Args:
        entry: the source.
        used: its parts that something uses.

    Raises:
        DataError: it is wrong.
    """
    if not (is_hub(entry.source) or is_there(entry.source)):
        return None
    if isinstance(entry, VqaDataset):
        listed_pairs(entry)
    if is_hub(entry.source):
        return None
    if isinstance(entry, VsrDataset | WhatsUpDataset):
        return of_annotations(entry)
    if isinstance(entry, GqaDataset):
        check_files(entry)
        return None
    check_tables(entry)
    if isinstance(entry, TextDataset):
        check_corpus(entry, used)
    return None


class Knowledge:
    """What is known of the data sets of a configuration; each source is read once.

    Attributes:
        lines: what is wrong with samples, a line each.
    """

    def __init__(self, config: Config) -> None:
        """Look at nothing yet."""
        self.datasets = config.all_datasets()
        self.counting = Counting(self.datasets)
        self.found: dict[str, Known | None] = {}
        self.lines: list[str] = []

    def of(self, name: str) -> Known | None:
        """Return what is known of a data set; None if nothing, or if its samples are wrong."""
        if name not in self.found:
            self.found[name] = None
            try:
                self.found[name] = self.read(name, self.datasets[name])
            except DataError as error:
                self.lines.append(f"datasets.{name}: {error}")
        return self.found[name]

    def read(self, name: str, entry: Any) -> Known | None:
        """Look at a data set; see `of`."""
        if isinstance(entry, WorldDataset):
            return of_world(entry)
        if isinstance(entry, PreparedDataset):
            parts = {one.part for one in self.datasets.values() if getattr(one, "of", None) == name}
            return of_source(entry, parts - {"all"})
        records = self.counting.records(name)
        if isinstance(entry, FolderDataset):
            return None if records is None else of_folder(name, entry, records)
        source = self.of(entry.of)
        told = records is None and source is not None and source.groups is not None
        if told and (problems := list(side_problems(f"datasets.{name}", entry, entry.of, source))):
            self.lines += problems
            return None
        return of_subset(entry, records, source)


def side_groups(samples: SampleSet | SubsetDataset, known: Known) -> set[str]:
    """Return the groups of a side of a concept, or of a subset."""
    return set(known.groups if samples.groups is None else samples.groups) - set(samples.without)


def side_problems(key: str, samples: SampleSet | SubsetDataset, dataset: str, known: Known) -> Iterator[str]:
    """Yield which groups of a side of a concept or of a subset are not there; or that none is left.

    Args:
        key: of the side.
        samples: which groups it takes.
        dataset: of which data set.
        known: what is known of that.
    """
    absent = False
    for part, groups in (("groups", samples.groups or []), ("without", samples.without)):
        for group in groups:
            if group not in known.groups:
                absent, near = True, get_close_matches(group, known.groups, n=1)
                meant = f"did you mean '{near[0]}'?" if near else "name one of them"
                yield (
                    f"{key}.{part}: found '{group}', but data set '{dataset}' ({known.place}) has "
                    f"the groups {listed(sorted(known.groups))}; {meant}"
                )
    if not absent and not side_groups(samples, known):
        yield f"{key}.without: leaves no group of data set '{dataset}' ({known.place}); leave one in"


def listed(groups: Sequence[str]) -> str:
    """Write groups, the first ones only if there are many."""
    more = f" and {len(groups) - MOST_GROUPS} more" if len(groups) > MOST_GROUPS else ""
    return ", ".join(f"'{group}'" for group in groups[:MOST_GROUPS]) + more
