"""Data sets at hand: what their samples tell against the configuration, before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from vlmdiff.config.analysis import SampleSet
from vlmdiff.config.datasets import FolderDataset, TextDataset, VqaDataset, VsrDataset, WhatsUpDataset
from vlmdiff.config.families import LANGUAGE_MODEL
from vlmdiff.config.local_checkpoints import has_template
from vlmdiff.config.local_files import is_there, used
from vlmdiff.config.samples_file import find_samples, read_records
from vlmdiff.config.schema import Config
from vlmdiff.config.sources import is_hub
from vlmdiff.config.storage import readers
from vlmdiff.config.world import CLOSED, WorldDataset, groups_of
from vlmdiff.data.tabular import READERS, split_files
from vlmdiff.data.vqa import official_files
from vlmdiff.data.vsr import offer_vsr
from vlmdiff.data.whats_up import offer_whats_up
from vlmdiff.runtime.reading import DataError, within

Record = Mapping[str, Any]
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


def of_folder(entry: FolderDataset) -> Known:
    """Read the user's own samples, as many as are used.

    Raises:
        DataError: the file is wrong, has too few samples, or images are missing.
    """
    file = find_samples(entry.path)
    records = read_records(entry.path)
    check_count(entry.samples, len(records), str(file))
    check_images(file.parent, records, entry.on_missing)
    return Known.of(str(file), records[: entry.samples])


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


def check_images(folder: Path, records: Sequence[Record], on_missing: str) -> None:
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
    if not missing or (on_missing == "skip" and len(missing) < len(records)):
        return
    first = ", ".join(f"'{one['image']}' of sample '{one['sample_id']}'" for one in missing[:SHOWN])
    first += ", …" if len(missing) > SHOWN else ""
    skip = "" if on_missing == "skip" else ", set `on_missing: skip` to go on without them"
    raise DataError(
        f"{len(missing)} of {len(shown)} images are not in {folder}: {first}; bring "
        f"them, correct `image`{skip}, or write null where nothing is asked about an image"
    )


def files_in(folder: Path) -> dict[str, bool]:
    """Return the files of a folder, and whether each may lead elsewhere; none if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name: entry.is_symlink() for entry in entries if entry.is_symlink() or entry.is_file()
            }
    except OSError:
        return {}


def check_tables(entry: TextDataset | VqaDataset) -> None:
    """Refuse a source of tables that has no files of the split.

    Raises:
        DataError: saying what is there.
    """
    path = Path(entry.source)
    if isinstance(entry, VqaDataset) and path.is_dir() and any(path.glob("*_questions.json")):
        official_files(entry)
        return
    files = [path] if path.is_file() else split_files(path, entry.split)
    kinds = {READERS.get(file.suffix) for file in files}
    if len(kinds) != 1 or None in kinds:
        found = sorted(file.name for file in (files or path.iterdir()))
        raise DataError(
            f"split: found '{entry.split}', but {path} has {', '.join(found[:SHOWN]) or 'no files'}; "
            f"expected files of one kind of {', '.join(sorted(READERS))} named {entry.split}*, also in data/"
        )


def known_samples(entry: Any) -> Known | None:
    """Return what is known of a data set's samples; None if they are not at hand, or too long to read.

    Raises:
        DataError: they are wrong.
    """
    if isinstance(entry, WorldDataset):
        return of_world(entry)
    if isinstance(entry, FolderDataset):
        return of_folder(entry) if is_there(find_samples(entry.path)) else None
    if is_hub(entry.source) or not is_there(entry.source):
        return None
    if isinstance(entry, VsrDataset | WhatsUpDataset):
        return of_annotations(entry)
    check_tables(entry)
    return None


def data_problems(config: Config) -> list[str]:
    """Return a line for whatever the samples at hand tell against the configuration: key, found, allowed.

    What is not there is left to `missing_files`, what is on the hub or prepared later to the jobs.
    """
    known, lines = {}, []
    for name in sorted(used(config, "dataset")):
        try:
            if (found := known_samples(config.dataset(name))) is not None:
                known[name] = found
        except DataError as error:
            lines.append(f"datasets.{name}: {error}")
    for find in (group_problems, question_problems, image_problems, chat_problems):
        lines += find(config, known)
    return lines


def group_problems(config: Config, known: Mapping[str, Known]) -> Iterator[str]:
    """Yield which groups of concepts are not there, and which concepts have an empty or a shared side."""
    for name, concept in config.concepts.items():
        sides = {"target": concept.target, "baseline": concept.baseline}
        problems = [
            line
            for side, samples in sides.items()
            if (found := known.get(samples.dataset)) is not None and found.groups is not None
            for line in side_problems(f"concepts.{name}.{side}", samples, found)
        ]
        yield from problems
        one, other = sides.values()
        found = known.get(one.dataset)
        if problems or one.dataset != other.dataset or found is None or found.groups is None:
            continue
        if shared := sorted(chosen(one, found) & chosen(other, found)):
            yield (
                f"concepts.{name}: target and baseline share groups {listed(shared)} of data set "
                f"'{one.dataset}', expected none; name them in `without` of the baseline"
            )


def chosen(samples: SampleSet, known: Known) -> set[str]:
    """Return the groups of a side of a concept."""
    return set(known.groups if samples.groups is None else samples.groups) - set(samples.without)


def side_problems(key: str, samples: SampleSet, known: Known) -> Iterator[str]:
    """Yield which groups of a side are not there; or that none is left."""
    absent = False
    for part, groups in (("groups", samples.groups or []), ("without", samples.without)):
        for group in groups:
            if group not in known.groups:
                absent, near = True, get_close_matches(group, known.groups, n=1)
                meant = f"did you mean '{near[0]}'?" if near else "name one of them"
                yield (
                    f"{key}.{part}: found '{group}', but data set '{samples.dataset}' ({known.place}) has "
                    f"the groups {listed(sorted(known.groups))}; {meant}"
                )
    if not absent and not chosen(samples, known):
        yield f"{key}.without: leaves no group of data set '{samples.dataset}' ({known.place}); leave one in"


def listed(groups: Sequence[str]) -> str:
    """Write groups, the first ones only if there are many."""
    more = f" and {len(groups) - MOST_GROUPS} more" if len(groups) > MOST_GROUPS else ""
    return ", ".join(f"'{group}'" for group in groups[:MOST_GROUPS]) + more


def question_sets(config: Config) -> Iterator[tuple[str, str, int]]:
    """Yield (key, data set, most samples) of questions whose answers are scored against other choices."""
    sections = {"ablation": config.ablation, "heads": config.heads, "steering": config.steering}
    for name, section in sections.items():
        for use in ("rank_on", "report_on"):
            if (data := getattr(section, use, None)) is not None:
                yield f"{name}.{use}.target", data.target, data.samples
                yield f"{name}.{use}.control", data.control, data.samples


def is_open(record: Record) -> bool:
    """Tell whether a sample has no answer that could be scored against other choices."""
    return record.get("choices") is None or record.get("answer") is None


def question_problems(config: Config, known: Mapping[str, Known]) -> Iterator[str]:
    """Yield which questions cannot be scored."""
    told = set()
    for key, name, limit in question_sets(config):
        found = known.get(name)
        wrong = [] if found is None else [record for record in found.records[:limit] if is_open(record)]
        if wrong and name not in told:
            told.add(name)
            yield (
                f"{key}: found data set '{name}' ({found.place}), of which {found.told(wrong)} "
                "lack `choices` or the `answer`, and here the answer is scored against the other choices; "
                "add both to the samples, or name a data set of questions with choices"
            )


def image_problems(config: Config, known: Mapping[str, Known]) -> Iterator[str]:
    """Yield which data sets show no image where one is needed, or an image where none may be."""
    needs = {"heads.dataset": config.heads.dataset} if config.heads is not None else {}
    for label, diff in config.all_comparisons().items():
        section = "diff" if label == "main" else f"comparisons.{label}"
        yield from visual_problems(f"{section}.visual_datasets", diff.visual_datasets, known)
        yield from text_problems(f"{section}.text_datasets", diff.text_datasets, known)
    for name, stage in config.trained().items():
        model = config.models[stage.model]
        if stage.tokens != ["image"]:
            continue
        if model.family == LANGUAGE_MODEL or model.text_only:
            yield (
                f"dictionaries.{name}.tokens: found [image], but model '{stage.model}' is shown no images; "
                "add text"
            )
        else:
            needs[f"dictionaries.{name}.dataset"] = stage.dataset
    for key, name in needs.items():
        yield from visual_problems(key, [name], known)


def visual_problems(key: str, names: Sequence[str], known: Mapping[str, Known]) -> Iterator[str]:
    """Yield which data sets have no images."""
    for name in names:
        if name in known and all(record["image"] is None for record in known[name].records):
            yield (
                f"{key}: found data set '{name}' ({known[name].place}), whose samples show no image; name "
                "one with images"
            )


def text_problems(key: str, names: Sequence[str], known: Mapping[str, Known]) -> Iterator[str]:
    """Yield which data sets have images."""
    for name in names:
        found = known.get(name)
        wrong = [] if found is None else [one for one in found.records if one["image"] is not None]
        if wrong:
            yield (
                f"{key}: found data set '{name}' ({found.place}), of which {found.told(wrong)} show an "
                "image, but visual energy is held against text without images; name a data set of texts"
            )


def datasets_of(config: Config, model: str) -> set[str]:
    """Return the data sets that a model is shown."""
    shown = {dataset for _, reader, dataset, _ in readers(config) if reader == model}
    if model == config.diff.model:
        shown |= {name for key, name, _ in question_sets(config) if not key.startswith("steering.")}
    if config.steering is not None and model == config.steering.model:
        shown |= {name for key, name, _ in question_sets(config) if key.startswith("steering.")}
    return shown


def chat_problems(config: Config, known: Mapping[str, Known]) -> Iterator[str]:
    """Yield which models are shown chats without a chat template."""
    asked = {name for name, found in known.items() if any(record["chat"] for record in found.records)}
    for model, entry in sorted(config.models.items()):
        shown = sorted(asked & datasets_of(config, model))
        if shown and entry.chat and has_template(entry) is False:
            yield (
                f"models.{model}.chat: found no chat template in {entry.path}, but the model is shown "
                f"data set '{shown[0]}', whose samples have `chat: true`; copy "
                "chat_template.jinja into the folder, or set `chat: false` if the model was trained on raw "
                "text alone"
            )
