"""Put the summary together and write it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pyarrow as pa

from vlmdiff.figures.values import of_models, read_some, with_asked
from vlmdiff.runtime.files import replacing
from vlmdiff.summary.causal import Headline, describe_ablation
from vlmdiff.summary.compared import describe_comparisons, describe_control_models
from vlmdiff.summary.confidence import describe_confidence
from vlmdiff.summary.findings import (
    say_ablation,
    say_claims,
    say_features,
    say_final,
    say_omitted,
    say_others,
)
from vlmdiff.summary.heads import describe_heads
from vlmdiff.summary.held_out import describe_held_out
from vlmdiff.summary.language import describe_language
from vlmdiff.summary.left_out import describe_left_out
from vlmdiff.summary.markdown import escape
from vlmdiff.summary.models import describe_models, say_models
from vlmdiff.summary.sections import (
    Section,
    describe_adapted,
    describe_concepts,
    describe_dictionaries,
    omitted_section,
)
from vlmdiff.tables.activations import LEFT_OUT
from vlmdiff.tables.causal import (
    ABLATION,
    HEAD_ABLATION,
    HEAD_AGREEMENT,
    HEAD_SCORES,
    SELECTION,
    STEERING,
)
from vlmdiff.tables.data import HELD_OUT
from vlmdiff.tables.features import COMPARISONS, CONTRAST_CHECK, FUNNEL, RECURRENCE, THRESHOLDS
from vlmdiff.tables.io import read_table
from vlmdiff.tables.labels import LABELS
from vlmdiff.tables.models import ACCURACY, DICTIONARY_METRICS, PERPLEXITY
from vlmdiff.tables.world import RULE_QUALITY

CONTEXT = "A language model was fine-tuned with images into a vision-language model."
# What is asked, by the stage that answers it; the first two always are.
QUESTIONS = MappingProxyType(
    {
        "diff": "which of its internal features changed",
        "concepts": "which of the changed ones encode a concept seen in the image",
        "ablation": "does the model's behaviour depend on them",
        "heads": "which attention heads write them",
    }
)


@dataclass(frozen=True)
class Names:
    """What the configuration calls things.

    Attributes:
        headline: the one result that is claimed, and all that is ablated; None if nothing is.
        ablation_data, heads_data, steering_data: test data, target and control; none of a stage left out.
        checkpoints: the built-in world's checkpoints behind models of the config, by the model's name.
        contrasts: by what each concept is contrasted, its unit and fdr, and whether the lexical filter runs.
        selection: sizes by which selection rules are compared, and the rules of each comparison.
        omitted: keys of the stages that the configuration leaves out.
        explorer: whether there is a page of all features.
        perplexity_limit: how much perplexity may grow with tuning; None if it is not measured.
    """

    experiment: str
    model: str
    adapted: str
    rule: str
    headline: Headline | None
    ablation_data: Sequence[str]
    heads_data: Sequence[str]
    steering_data: Sequence[str] = ()
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    contrasts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    selection: Mapping[str, Any] = field(default_factory=dict)
    omitted: Sequence[str] = ()
    explorer: bool = False
    perplexity_limit: float | None = None

    def test_data(self) -> list[str]:
        """Return all data on which the model is asked, each once."""
        return list(dict.fromkeys([*self.ablation_data, *self.heads_data]))

    def unfiltered(self) -> list[str]:
        """Return the concepts that do without the lexical filter."""
        return [name for name, one in self.contrasts.items() if not one["lexical"]]

    def question(self) -> str:
        """Return what the experiment asks."""
        *others, last = [text for stage, text in QUESTIONS.items() if stage not in self.omitted]
        asked = f"{', '.join(others)}, and {last}?"
        return f"{CONTEXT} {asked[0].upper()}{asked[1:]}"


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


def untestable(sections: Sequence[Section]) -> list[str]:
    """List what was not or cannot be tested, under a title of its own; nothing if all was."""
    found = [f"- {text}" for section in sections for text in section.untestable]
    return ["## Not tested", "", *found, ""] if found else []


def weak_results(sections: Sequence[Section]) -> list[str]:
    """List every claim that failed its criterion."""
    failed = [f"- {text}" for section in sections for text in section.failed]
    if any(section.untestable for section in sections):
        nothing = "None of the claims that were tested. What was not tested stands below."
    else:
        nothing = "None: every claim above met its criterion."
    return failed or [nothing]


def compose(names: Names, findings: Sequence[str], chapters: Sequence[tuple[Section, Sequence[str]]]) -> str:
    """Write the whole summary as Markdown.

    Args:
        names: what the configuration calls things.
        findings: sentences for the head.
        chapters: sections in order, each with the tables that its numbers come from.
    """
    lines = [f"# Summary of experiment {escape(names.experiment)}", "", "## What was found", ""]
    sections = [section for section, _ in chapters]
    counts = [(one.claims, len(one.failed), len(one.untestable)) for one in sections]
    said = [sentence for sentence in (*findings, say_claims(counts)) if sentence]
    lines += [*(f"- {sentence}" for sentence in said), ""]
    if names.explorer:
        lines += ["Every feature can be looked at in the [explorer](explorer/index.html).", ""]
    lines += ["## What was asked", "", names.question(), ""]
    for section, sources in chapters:
        lines += [f"## {section.title}", "", *section.lines, "", *sources_line(sources), ""]
    lines += ["## Weak or negative results", "", *weak_results(sections), "", *untestable(sections)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def sources_line(sources: Sequence[str]) -> list[str]:
    """Say where a section's numbers come from; nothing if there is no table."""
    return [f"Tables: {', '.join(f'`{source}`' for source in sources)}."] if sources else []


# Tables without a column `seed`: it stands in their path.
SEED_IN_PATH = {
    "ablation": ABLATION,
    "scores": HEAD_SCORES,
    "agreement": HEAD_AGREEMENT,
    "head_ablation": HEAD_ABLATION,
}
PLAIN = {
    "accuracy": ACCURACY,
    "perplexity": PERPLEXITY,
    "held_out": HELD_OUT,
    "asked": ACCURACY,
    "left_out": LEFT_OUT,
    "metrics": DICTIONARY_METRICS,
    "thresholds": THRESHOLDS,
    "funnel": FUNNEL,
    "untuned": FUNNEL,
    "check": CONTRAST_CHECK,
    "recurrence": RECURRENCE,
    "quality": RULE_QUALITY,
    "selection": SELECTION,
    "steering": STEERING,
    "labels": LABELS,
}


def read_all(files: Mapping[str, Sequence[str | Path]], names: Names) -> dict[str, pd.DataFrame]:
    """Read every kind of table, of accuracies those of the config's models; one without files is empty."""
    found = {name: read_some(files.get(name, []), schema) for name, schema in PLAIN.items()}
    for name, schema in SEED_IN_PATH.items():
        paths = files.get(name, [])
        found[name] = read_seeds(paths, schema) if paths else schema.empty_table().to_pandas().assign(seed=0)
    found["accuracy"] = with_asked(of_models(found["accuracy"], names.checkpoints), found["asked"])
    return found


def dictionaries_chapter(tables: Mapping[str, pd.DataFrame], names: Names) -> Section:
    """Write the section on dictionaries, or that they were not scored."""
    if "evaluation" in names.omitted:
        return omitted_section("Dictionaries", "evaluation")
    return describe_dictionaries(tables["metrics"], names.adapted)


def ablation_chapter(tables: Mapping[str, pd.DataFrame], names: Names) -> Section:
    """Write the section on interventions, or that there were none."""
    if names.headline is None:
        return omitted_section("Causal effect of the features", "ablation")
    return describe_ablation(tables["ablation"], names.headline, names.ablation_data)


def heads_chapter(tables: Mapping[str, pd.DataFrame], names: Names) -> Section:
    """Write the section on heads, or that none was looked for."""
    if "heads" in names.omitted:
        return omitted_section("Heads", "heads")
    return describe_heads(tables["scores"], tables["agreement"], tables["head_ablation"], names.heads_data)


def chapters_of(
    tables: dict[str, pd.DataFrame], files: Mapping[str, Sequence[str | Path]], names: Names
) -> list[tuple[Section, list[str]]]:
    """Write all sections, each with its tables."""
    answers = ("asked", "accuracy") if names.test_data() else ()
    heads = ("scores", "agreement", "head_ablation")
    sure = ("recurrence", "thresholds", "untuned", "check", "quality", "steering", "labels", "selection")
    chapters = [
        (describe_models(tables["accuracy"], names.model, names.test_data()), answers),
        (describe_language(tables["perplexity"], names.model, names.perplexity_limit), ("perplexity",)),
        (describe_held_out(tables["held_out"]), ("held_out",)),
        (describe_left_out(tables["left_out"]), ("left_out",)),
        (dictionaries_chapter(tables, names), ("metrics",)),
        (describe_adapted(tables["thresholds"], names.rule), ("thresholds",)),
        (describe_concepts(tables["funnel"], names.unfiltered()), ("funnel",)),
        (ablation_chapter(tables, names), ("ablation",)),
        (heads_chapter(tables, names), heads),
        (describe_confidence(tables, names), sure),
    ]
    return [
        (section, [pattern(files[kind]) for kind in kinds if files.get(kind)])
        for section, kinds in chapters
        if kinds not in (("perplexity",), ("held_out",), ("left_out",)) or section.lines
    ]


def write_summary(output: str | Path, names: Names, **files: Sequence[str | Path]) -> None:
    """Read the tables of all seeds and concepts and write summary.md.

    Args:
        output: where the summary goes.
        names: what the configuration calls things.
        files: paths of the tables by kind, the keys of `PLAIN` and `SEED_IN_PATH`; any may be missing.
    """
    tables = read_all(files, names)
    headline = names.headline
    findings = [
        *(
            say(tables["ablation"], headline, names.ablation_data) if headline else ""
            for say in (say_ablation, say_others)
        ),
        say_models(tables["accuracy"], names.model, names.test_data()),
        say_features(tables["thresholds"], names.rule),
        say_final(tables["funnel"], tables["untuned"], tables["quality"]),
        say_omitted(names.omitted),
    ]
    with replacing(output) as temporary:
        temporary.write_text(compose(names, findings, chapters_of(tables, files, names)), encoding="utf-8")


def write_comparisons(
    paths: Sequence[str | Path],
    accuracy: Sequence[str | Path],
    checkpoints: Mapping[str, str],
    target: str,
    experiment: str,
    output: str | Path,
    ablated: bool = True,
) -> None:
    """Write the page of a target: its comparisons as a table, and what they say.

    Args:
        paths: COMPARISONS of each concept.
        accuracy: ACCURACY of the control models; may be no file.
        checkpoints: see `Names`.
        target: controls, stages or sensitivity.
        experiment: name of the experiment.
        output: where the page goes.
        ablated: whether features were ablated.
    """
    section = describe_comparisons([read_table(path, COMPARISONS) for path in paths], target, ablated)
    describe_control_models(section, of_models(read_some(accuracy, ACCURACY), checkpoints))
    lines = [f"# {section.title} of experiment {escape(experiment)}", "", *section.lines, ""]
    if section.claims:
        lines += ["## Weak or negative results", "", *weak_results([section]), ""]
    lines += sources_line([pattern(paths), *map(str, accuracy)])
    with replacing(output) as temporary:
        temporary.write_text(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n", encoding="utf-8")
