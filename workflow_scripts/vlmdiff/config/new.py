"""Write a configuration of your own after a look at your files: `make new BASE=… VLM=… DATA=…`."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from vlmdiff.config.cases import question_sets
from vlmdiff.config.checkpoint_files import read_object
from vlmdiff.config.depth import depth_in
from vlmdiff.config.derive import experiment_name
from vlmdiff.config.derived_budgets import width_told
from vlmdiff.config.editor import SCHEMA
from vlmdiff.config.families import LANGUAGE_MODEL, all_kinds, family_of, unread
from vlmdiff.config.first_tokens import Asked, token_problems
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.local_checkpoints import brings_template, checkpoint_problems
from vlmdiff.config.local_files import missing_files
from vlmdiff.config.samples_file import read_records
from vlmdiff.config.schema import Config
from vlmdiff.config.sources import is_fetched
from vlmdiff.config.subsets import Counting, is_scored
from vlmdiff.runtime.reading import DataError

SHOWN_GROUPS = 12


class NewConfigError(ValueError):
    """A configuration cannot be written; the message says which file is wrong, and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint's config.json tells.

    Attributes:
        folder: where it lies.
        family: which family of models reads it.
        blocks: number of decoder blocks; None if it is not told.
        width: of the residual stream; None if it is not told.
    """

    folder: str
    family: str
    blocks: int | None
    width: int | None

    def __str__(self) -> str:
        """Return it in words."""
        blocks = "?" if self.blocks is None else self.blocks
        return f"{self.family}, {blocks} blocks of width {self.width or '?'}"


def look_at_checkpoint(folder: str, sees: bool) -> Checkpoint:
    """Read what a checkpoint is.

    Args:
        folder: the checkpoint.
        sees: whether it must be a vision-language model; else a language model.

    Raises:
        NewConfigError: it is no checkpoint, or one of the other kind.
    """
    file = Path(folder, "config.json")
    if is_fetched(folder):
        raise NewConfigError(
            f"{folder}: found a source whose files are not here yet; write the config by hand, "
            "with `family` and `planned` for each model (docs/configure/real_models.md)"
        )
    if not file.is_file():
        raise NewConfigError(
            f"{folder}: found no config.json, expected the folder of a checkpoint; correct the path"
        )
    try:
        description = read_object(file)
    except ValueError as error:
        raise NewConfigError(str(error)) from None
    if problem := unread(description):
        raise NewConfigError(f"{folder}: found {problem}")
    family = family_of(description)
    wanted = "a vision-language model (--vlm)" if sees else "a language model (--base)"
    if family is None or (family != LANGUAGE_MODEL) != sees:
        raise NewConfigError(
            f"{folder}: found a checkpoint of {f'family {family}' if family else 'no known family'}, "
            f"expected {wanted}; families and what they read: {all_kinds()}"
        )
    depth = depth_in(folder)
    return Checkpoint(folder, family, None if depth is None else depth.blocks, width_told(folder))


def look_at_data(path: str) -> Counter[str]:
    """Return how many samples each group of a samples file has, the largest first.

    Raises:
        NewConfigError: the file is wrong, or has one group alone.
    """
    try:
        records = read_records(path)
    except DataError as error:
        raise NewConfigError(str(error)) from None
    groups = Counter(record["group"] for record in records)
    if len(groups) < 2:
        raise NewConfigError(
            f"{path}: found one group, '{next(iter(groups))}', expected two or more: a concept is held "
            "against samples of other groups; name what each sample is about in `group`"
        )
    return groups


def chosen_groups(said: str | None, groups: Counter[str]) -> list[str]:
    """Return the groups that show the concept: those that are named, else the largest one.

    Args:
        said: names with commas between them, or one name that holds commas.
        groups: number of samples of each group.
    """
    if not said:
        return [groups.most_common(1)[0][0]]
    return [said] if said in groups else [one.strip() for one in said.split(",") if one.strip()]


def name_of(groups: Sequence[str]) -> str:
    """Return a concept's name made of its groups."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", "_".join(groups)).strip("_").lower()[:40].strip("_")
    return name if name[:1].isalpha() else f"concept_{name}".rstrip("_")


def flow(value: object) -> str:
    """Write a value in one line of YAML."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
        .strip()
        .removesuffix("\n...")
    )


def is_silent(checkpoint: Checkpoint) -> bool:
    """Tell whether a checkpoint is a base model that is asked in no chat format, as it brings none."""
    return checkpoint.family == LANGUAGE_MODEL and brings_template(Path(checkpoint.folder)) is False


def model_entry(checkpoint: Checkpoint) -> dict[str, object]:
    """Return the entry of a model."""
    return {"path": checkpoint.folder} | ({"chat": False} if is_silent(checkpoint) else {})


def told_of(checkpoint: Checkpoint) -> str:
    """Say what a checkpoint is, and why its entry has more than a path."""
    return f"{checkpoint}{'; no chat template: it reads raw text' if is_silent(checkpoint) else ''}"


def written_config(
    out: Path,
    models: Mapping[str, Checkpoint],
    data: Mapping[str, str],
    groups: Counter[str],
    concept: Sequence[str],
) -> str:
    """Return the text of the configuration.

    Args:
        out: where it will lie.
        models: by their names in the configuration.
        data: `photos`, and `text` if there is some.
        groups: number of samples of each group.
        concept: the groups that show the concept.
    """
    told = ", ".join(f"{name} ({count})" for name, count in groups.most_common(SHOWN_GROUPS))
    more = f" and {len(groups) - SHOWN_GROUPS} more" if len(groups) > SHOWN_GROUPS else ""
    schema = os.path.relpath(SCHEMA, out.parent.absolute())
    lines = [
        f"# yaml-language-server: $schema={schema}",
        f"experiment: {flow(experiment_name(out.stem) or 'mine')}",
        "models:",
    ]
    for name, checkpoint in models.items():
        lines.append(f"  {name}: {flow(model_entry(checkpoint))} # {told_of(checkpoint)}")
    lines.append(f"data: {flow(data['photos'] if set(data) == {'photos'} else dict(data))}")
    lines += [
        f"# Groups of the samples: {told}{more}.",
        "concepts:",
        f"  {name_of(concept)}:",
        f"    groups: {flow(list(concept))} # held against all other groups",
        "# Everything else is derived: results/<experiment>/config.yaml shows it. Some keys to begin with:",
        "# seeds: 3        # dictionaries of three seeds: does what is found recur?",
        "# layers: all     # instead of eight blocks, evenly spaced",
        "# heads: none     # leave a stage out",
    ]
    return "\n".join(lines) + "\n"


def problems_of(text: str) -> Config:
    """Return the configuration that a text means.

    Raises:
        NewConfigError: it would be refused; the message says why.
    """
    try:
        config = load_config(yaml.safe_load(text))
    except ConfigError as error:
        raise NewConfigError(str(error)) from None
    if lines := [*missing_files(config), *checkpoint_problems(config), *choice_problems(config)]:
        raise NewConfigError("\n  ".join(["The files do not fit together:", *lines]))
    return config


def choice_problems(config: Config) -> list[str]:
    """Return which choices of the samples the vision-language model cannot tell apart by first tokens."""
    counting, asked = Counting(config.all_datasets()), []
    for key, name, limit in question_sets(config):
        records = (counting.records(name) or [])[:limit]
        asked.append(Asked(key, name, config.data.photos, [one for one in records if is_scored(one)]))
    return [config.as_written(line) for line in token_problems(config, asked)]


def parts_told(config: Config) -> str:
    """Say how the samples are split."""
    parts = ("train", "validation", "test")
    return ", ".join(f"{config.datasets[part].samples} for {part}" for part in parts)


def arguments() -> argparse.ArgumentParser:
    """Return what the command line takes."""
    parser = argparse.ArgumentParser(prog="python -m vlmdiff.config.new", description=__doc__)
    parser.add_argument("--base", required=True, help="folder of the language model")
    parser.add_argument("--vlm", required=True, help="folder of the vision-language model tuned from it")
    parser.add_argument("--data", required=True, help="folder with samples.csv or samples.jsonl and photos")
    parser.add_argument("--text", help="text for the language model, a document a line (.txt, .jsonl)")
    parser.add_argument(
        "--groups", help="groups that show the concept, with commas; left out: the largest one"
    )
    parser.add_argument("--out", default="config/mine.yaml", help="the file to write (%(default)s)")
    return parser


def new_config(said: argparse.Namespace) -> str:
    """Write the configuration and return what to tell the user.

    Raises:
        NewConfigError: a file is wrong, or the configuration is there already.
    """
    for name in ("base", "vlm", "data"):
        if not getattr(said, name):
            raise NewConfigError(
                f"--{name}: found nothing, expected a folder; {arguments().format_usage().strip()}"
            )
    out = Path(said.out)
    if out.suffix not in (".yaml", ".yml"):
        raise NewConfigError(f"{out}: expected a name that ends with .yaml; correct OUT, or --out")
    if out.exists():
        raise NewConfigError(
            f"{out}: is there already; name another file (`make new … OUT=config/other.yaml`, or --out), or "
            "remove it"
        )
    models = {"base_lm": look_at_checkpoint(said.base, False), "vlm": look_at_checkpoint(said.vlm, True)}
    groups = look_at_data(said.data)
    concept = chosen_groups(said.groups, groups)
    if unknown := [one for one in concept if one not in groups]:
        raise NewConfigError(
            f"--groups: found {', '.join(unknown)}, expected some of {', '.join(sorted(groups))}"
        )
    if set(concept) >= set(groups):
        raise NewConfigError(
            "--groups: found all groups, expected some to hold the others against; leave some out"
        )
    data = {"photos": said.data} | ({"text": said.text} if said.text else {})
    text = written_config(out, models, data, groups, concept)
    config = problems_of(text)
    note = config.data.note()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    told = f"{note}\n" if note else ""
    return (
        f"Wrote {out}: {sum(groups.values())} samples ({parts_told(config)}), "
        f"layers {', '.join(map(str, config.layers))}, "
        f"dictionaries of {config.architecture.d_sae} features.\n"
        f"{told}"
        f"Look at it, then: .venv/bin/snakemake --cores all --configfile {shlex.quote(str(out))} "
        "(with -n for the plan alone)"
    )


if __name__ == "__main__":
    try:
        print(new_config(arguments().parse_args()))
    except NewConfigError as problem:
        sys.exit(f"{problem}")
