"""The scoreboard: which ways of finding features it holds side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from vlmdiff.config.base import Count, Distinct, Name, Section
from vlmdiff.config.causal import ground_truth_datasets
from vlmdiff.config.comparable import same_model
from vlmdiff.config.comparisons import MAIN
from vlmdiff.config.sources import LocalPath

if TYPE_CHECKING:
    from vlmdiff.config.schema import Config


class MethodConfig(Section):
    """A method of diffing: a comparison, and the same of models that cannot know the concept."""

    comparison: Name = Field(MAIN, description="The comparison; `main` is that of the section `diff`.")
    controls: Annotated[list[Name], Distinct] = Field(
        [], description="Comparisons in which the same method should find nothing."
    )


class SubmissionConfig(Section):
    """What another method found, from a file (docs/understand/score_your_method.md)."""

    file: LocalPath = Field(
        description="CSV: `layer`, `feature` of the adapted dictionary or `direction`, `score`, and if there "
        "are `selected` (0 or 1) and `seed`."
    )
    controls: dict[Name, LocalPath] = Field(
        {}, description="What the same method found in control models: a CSV each."
    )
    seconds: float | None = Field(
        None, gt=0, strict=True, description="CPU time that it took, for the table."
    )


class ScoreboardConfig(Section):
    """The target `scoreboard`: methods and submissions, for some concepts."""

    methods: dict[Name, MethodConfig] = Field(
        {"main": MethodConfig()}, min_length=1, description="Methods of diffing, by name."
    )
    concepts: Annotated[list[Name], Distinct] = Field(
        [], description="Concepts whose contrasts are scored; left out: those that are studied in all seeds."
    )
    seeds: Count | None = Field(None, description="How many seeds are scored; left out: all.")
    submissions: dict[Name, SubmissionConfig] = Field({}, description="Scores of other methods, by name.")


def board_of(config: Config) -> ScoreboardConfig | None:
    """Return the scoreboard; None if there is none, or nothing that it can be held against."""
    return config.scoreboard if ground_truth_datasets(config) else None


def board_concepts(config: Config) -> list[str]:
    """Return the concepts of the scoreboard."""
    return config.scoreboard.concepts or config.studied_concepts()


def board_seeds(config: Config) -> range:
    """Return the seeds of the scoreboard."""
    return range(config.scoreboard.seeds or config.seeds)


def scoreboard_references(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, key, name) for what the scoreboard refers to."""
    if config.scoreboard is not None:
        yield from (("concept", "scoreboard.concepts", name) for name in config.scoreboard.concepts)


def check_scoreboard(config: Config) -> None:
    """Check that methods and their controls are comparisons that fit.

    Raises:
        ValueError: naming the key, what was found and what to do.
    """
    board = config.scoreboard
    if board is None:
        return
    if board.seeds is not None and board.seeds > config.seeds:
        raise ValueError(
            f"scoreboard.seeds: found {board.seeds}, expected at most {config.seeds}, as many as `seeds`"
        )
    if taken := sorted(board.methods.keys() & board.submissions.keys()):
        raise ValueError(f"scoreboard.submissions: {taken} are names of methods too; rename them")
    known = [MAIN, *config.comparisons]
    for name, method in board.methods.items():
        key = f"scoreboard.methods.{name}"
        for said, one in (("comparison", method.comparison), *(("controls", one) for one in method.controls)):
            if one not in known:
                raise ValueError(f"{key}.{said}: unknown comparison '{one}'; declared are {known}")
        model = config.comparison(method.comparison).model
        if model != config.diff.model:
            raise ValueError(
                f"{key}.comparison: found '{method.comparison}' of model '{model}', expected a comparison of "
                f"'{config.diff.model}', whose activations the scene graphs are held against"
            )
        for one in method.controls:
            check_control(config, f"{key}.controls", one, method.comparison)
            if same_model(config, config.comparison(one).model, config.diff.model):
                raise ValueError(
                    f"{key}.controls: found '{one}' of model '{config.diff.model}', which is the one that is "
                    "studied; expected comparisons of models that cannot know the concept"
                )


def check_control(config: Config, key: str, control: str, comparison: str) -> None:
    """Check that a control is compared by the same method, and sets no threshold of it.

    Raises:
        ValueError: see `check_scoreboard`.
    """
    found, method = config.comparison(control), config.comparison(comparison)
    if found.method != method.method:
        raise ValueError(
            f"{key}: found '{control}', whose method is {found.method}, expected {method.method} as that of "
            f"'{comparison}'; name comparisons of the same method"
        )
    if method.null_model is not None and same_model(config, found.model, method.null_model):
        raise ValueError(
            f"{key}: found '{control}' of model '{found.model}', which is the null of '{comparison}' and "
            "sets its threshold; expected another control model"
        )


def explain_unscored(config: Config) -> str | None:
    """Say in one line why there is no scoreboard; None if there is one."""
    if board_of(config) is not None:
        return None
    if config.scoreboard is None:
        return "scoreboard: this configuration has no `scoreboard`; ask for it with config/config.yaml"
    return (
        "scoreboard: needs the scene graphs of the built-in world, expected data sets of `world.datasets` in "
        "`ablation.report_on`"
    )
