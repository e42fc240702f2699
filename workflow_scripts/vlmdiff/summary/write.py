"""Put the summary together and write it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pandas as pd
import pyarrow as pa

from vlmdiff.figures.values import read_some
from vlmdiff.runtime.files import replacing
from vlmdiff.summary.causal import describe_ablation, describe_heads
from vlmdiff.summary.findings import say_ablation, say_claims, say_features, say_heads, say_models
from vlmdiff.summary.sections import (
    Section,
    describe_adapted,
    describe_concepts,
    describe_dictionaries,
    describe_models,
)
from vlmdiff.summary.text import escape
from vlmdiff.tables.causal import ABLATION, HEAD_ABLATION, HEAD_AGREEMENT, HEAD_SCORES
from vlmdiff.tables.features import FUNNEL, THRESHOLDS
from vlmdiff.tables.io import read_table
from vlmdiff.tables.models import ACCURACY, DICTIONARY_METRICS

QUESTION = (
    "A language model was fine-tuned with images into a vision-language model. Which of its internal "
    "features changed, which of the changed ones encode a concept seen in the image, does the model's "
    "behaviour depend on them, and which attention heads write them?"
)


@dataclass(frozen=True)
class Names:
    """What the configuration calls things."""

    experiment: str
    model: str
    adapted: str
    rule: str
    concepts: tuple[str, ...]
    ablation_data: tuple[str, str]
    heads_data: tuple[str, str]


def pattern(paths: Sequence[str | Path]) -> str:
    """Name a list of files by what they share, e.g. `results/world/features/*/funnel.csv`."""
    parts = [Path(path).parts for path in paths]
    if not parts:
        return "no file"
    if len({len(item) for item in parts}) > 1:
        return ", ".join(Path(path).as_posix() for path in paths)
    return "/".join(item[0] if len(set(item)) == 1 else "*" for item in zip(*parts))


def seed_of(path: str | Path) -> int:
    """Read the seed from the `seed_<n>` part of a path.

    Raises:
        ValueError: the path has no such part.
    """
    for part in Path(path).parts:
        if part.startswith("seed_") and part[5:].isdigit():
            return int(part[5:])
    raise ValueError(f"{path}: expected a folder seed_<number> in the path of a table of one seed")


def read_seeds(paths: Sequence[str | Path], schema: pa.Schema) -> pd.DataFrame:
    """Read tables of several seeds one below the other, with a column `seed`."""
    frames = [read_table(path, schema).assign(seed=seed_of(path)) for path in paths]
    return pd.concat(frames, ignore_index=True)


def weak_results(sections: Sequence[Section]) -> list[str]:
    """List every claim that failed its criterion."""
    failed = [f"- {text}" for section in sections for text in section.failed]
    return failed or ["None: every claim above met its criterion."]


def compose(
    names: Names, findings: Sequence[str], sections: Sequence[Section], sources: Sequence[tuple[str, str]]
) -> str:
    """Write the whole summary as Markdown.

    Args:
        names: what the configuration calls things.
        findings: sentences for the head.
        sections: the chapters in order.
        sources: contents and file of each table.
    """
    lines = [f"# Summary of experiment {escape(names.experiment)}", "", QUESTION, ""]
    counts = [(section.title, section.claims, len(section.failed)) for section in sections]
    said = [sentence for sentence in (*findings, say_claims(counts)) if sentence]
    lines += ["## What was found", "", *(f"- {sentence}" for sentence in said), ""]
    for section in sections:
        lines += [f"## {section.title}", "", *section.lines, ""]
    lines += ["## Weak or negative results", "", *weak_results(sections), ""]
    lines += [
        "## Where the numbers are",
        "",
        *(f"- {what}: `{file}`" for what, file in sources),
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def write_summary(
    accuracy: Sequence[str | Path],
    metrics: Sequence[str | Path],
    thresholds: Sequence[str | Path],
    funnel: Sequence[str | Path],
    ablation: Sequence[str | Path],
    scores: Sequence[str | Path],
    agreement: Sequence[str | Path],
    head_ablation: Sequence[str | Path],
    output: str | Path,
    names: Names,
) -> None:
    """Read the tables of all seeds and concepts and write summary.md.

    Args:
        accuracy: ACCURACY; may be no file.
        metrics, thresholds, funnel, ablation: DICTIONARY_METRICS, THRESHOLDS, FUNNEL, ABLATION.
        scores, agreement, head_ablation: HEAD_SCORES, HEAD_AGREEMENT, HEAD_ABLATION.
        output: where the summary goes.
        names: what the configuration calls things.
    """
    heads = (scores, agreement, head_ablation)
    data = list(dict.fromkeys([*names.ablation_data, *names.heads_data]))
    accuracies, taus = read_some(accuracy, ACCURACY), read_some(thresholds, THRESHOLDS)
    counts, effects = read_some(funnel, FUNNEL), read_seeds(ablation, ABLATION)
    traced = (
        read_seeds(scores, HEAD_SCORES),
        read_seeds(agreement, HEAD_AGREEMENT),
        read_seeds(head_ablation, HEAD_ABLATION),
    )
    sections = [
        describe_models(accuracies, names.model, data),
        describe_dictionaries(read_some(metrics, DICTIONARY_METRICS), names.adapted),
        describe_adapted(taus, names.rule),
        describe_concepts(counts),
        describe_ablation(effects, names.concepts, names.ablation_data),
        describe_heads(*traced, names.heads_data),
    ]
    findings = [
        say_models(accuracies, names.model, data),
        say_features(taus, counts, names.rule),
        say_ablation(effects, names.ablation_data),
        say_heads(*traced, names.heads_data),
    ]
    sources = [
        ("accuracies of the models", pattern(accuracy)),
        ("quality of the dictionaries", pattern(metrics)),
        ("adapted features under both rules", pattern(thresholds)),
        ("features left by each filter", pattern(funnel)),
        ("ablation of features", pattern(ablation)),
        ("heads: scores, attribution against exact patching, ablation", pattern([*chain(*heads)])),
    ]
    with replacing(output) as temporary:
        temporary.write_text(compose(names, findings, sections, sources), encoding="utf-8")
