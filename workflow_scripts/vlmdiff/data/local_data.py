"""What samples at hand tell against a configuration, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from vlmdiff.config.cases import question_sets
from vlmdiff.config.comparisons import MAIN
from vlmdiff.config.concepts import COUNTS
from vlmdiff.config.datasets import GqaDataset, TextDataset, VqaDataset
from vlmdiff.config.families import LANGUAGE_MODEL
from vlmdiff.config.first_tokens import Asked, token_problems
from vlmdiff.config.local_checkpoints import has_template
from vlmdiff.config.local_files import used
from vlmdiff.config.schema import Config
from vlmdiff.config.storage import readers
from vlmdiff.config.subsets import line_of
from vlmdiff.data.at_hand import Knowledge, Known, Record, listed, side_groups, side_problems
from vlmdiff.data.enough import few_problems, images_used, pictures
from vlmdiff.data.local_templates import template_problem

Finder = Callable[[Config, Mapping[str, Known]], Iterator[str]]


def data_problems(config: Config, *more: Finder) -> list[str]:
    """Return a line for whatever the samples at hand tell against the configuration: key, found, allowed.

    What is not there is left to `missing_files`, what is on the hub or prepared later to the jobs.

    Args:
        config: the configuration.
        more: what else looks at the samples, of rooms after this one.
    """
    knowledge = Knowledge(config)
    known = {name: found for name in sorted(used(config, "dataset")) if (found := knowledge.of(name))}
    finders = (
        group_problems,
        question_problems,
        image_problems,
        choice_problems,
        chat_problems,
        few_problems,
        *more,
    )
    lines = [*knowledge.lines, *(line for find in finders for line in find(config, known))]
    return [config.as_written(line) for line in lines]


def group_problems(config: Config, known: Mapping[str, Known]) -> Iterator[str]:
    """Yield which groups of concepts are not there, and which concepts have an empty or a shared side."""
    for name, concept in config.concepts.items():
        problems = [
            line
            for side, samples in concept.sides.items()
            if (found := known.get(samples.dataset)) is not None and found.groups is not None
            for line in side_problems(f"concepts.{name}.{side}", samples, samples.dataset, found)
        ]
        yield from problems
        if concept.contrast != COUNTS:
            continue
        one, other = concept.sides.values()
        found = known.get(one.dataset)
        if problems or one.dataset != other.dataset or found is None or found.groups is None:
            continue
        if shared := sorted(side_groups(one, found) & side_groups(other, found)):
            yield (
                f"concepts.{name}: target and baseline share groups {listed(shared)} of data set "
                f"'{one.dataset}', expected none; name them in `without` of the baseline"
            )


def is_open(record: Record) -> bool:
    """Tell whether a sample has no answer that could be scored against other choices."""
    return record.get("choices") is None or record.get("answer") is None


def question_problems(config: Config, known: Mapping[str, Known]) -> Iterator[str]:
    """Yield which questions cannot be scored."""
    told = set()
    for key, name, limit in question_sets(config):
        if name in told:
            continue
        found = known.get(name)
        wrong = [] if found is None else [record for record in found.records[:limit] if is_open(record)]
        if open_source := without_choices(config, name):
            told.add(name)
            yield f"{key}: found data set '{name}', {open_source}"
        elif wrong:
            told.add(name)
            yield (
                f"{key}: found data set '{name}' ({found.place}), of which {found.told(wrong)} "
                "lack `choices` or the `answer`, and here the answer is scored against the other choices; "
                "add both to the samples, or name a data set of questions with choices"
            )


def choice_problems(config: Config, known: Mapping[str, Known]) -> Iterator[str]:
    """Yield which choices the models that are asked cannot tell apart by their first tokens."""
    used, asked = images_used(config, known), []
    for key, name, limit in question_sets(config):
        found = known.get(name)
        # What lacks choices is told by `question_problems`.
        if found is None or not found.counted or any(map(is_open, found.records[:limit])):
            continue
        records = found.records
        if ".report_on." in key:
            own = pictures(config, name, records)
            records = [one for one, keys in zip(records, own, strict=True) if not used.intersection(keys)]
        asked.append(Asked(key, name, found.place, records[:limit]))
    yield from token_problems(config, asked)


def without_choices(config: Config, name: str) -> str | None:
    """Say that a data set comes from a source of a kind that has no choices; None if it does not."""
    datasets = config.all_datasets()
    root = line_of(name, datasets)[-1]
    entry = datasets[root]
    scored = "and here the answer is scored against the other choices"
    if isinstance(entry, TextDataset):
        return f"a text corpus, which asks nothing, {scored}; name a data set of questions with choices"
    if isinstance(entry, VqaDataset | GqaDataset) and entry.answers == "any":
        closed = "choices" if isinstance(entry, GqaDataset) else "yes_no"
        return (
            f"whose questions have no choices (datasets.{root}.answers is any), {scored}; set "
            f"datasets.{root}.answers to {closed}, or name a data set of questions with choices"
        )
    return None


def image_problems(config: Config, known: Mapping[str, Known]) -> Iterator[str]:
    """Yield which data sets show no image where one is needed, or an image where none may be."""
    needs = {"heads.dataset": config.heads.dataset} if config.heads is not None else {}
    for label, diff in config.all_comparisons().items():
        section = "diff" if label == MAIN else f"comparisons.{label}"
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
    """Yield which models are shown chats without a chat template, or with one that writes no question."""
    asked = {name for name, found in known.items() if any(record["chat"] for record in found.records)}
    for model, entry in sorted(config.models.items()):
        shown = sorted(asked & datasets_of(config, model))
        there = has_template(entry) if shown and entry.chat else None
        if there is False:
            yield (
                f"models.{model}.chat: found no chat template in {entry.path}, but the model is shown "
                f"data set '{shown[0]}', whose samples have `chat: true`; copy "
                "chat_template.jinja into the folder, or set `chat: false` if the model was trained on raw "
                "text alone"
            )
        elif there and (problem := template_problem(model, entry)):
            yield (
                f"models.{model}.chat: the model is shown data set '{shown[0]}', whose samples have "
                f"`chat: true`, but {problem}"
            )
