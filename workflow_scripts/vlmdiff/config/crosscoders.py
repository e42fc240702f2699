"""Crosscoders: dictionaries that read two models side by side, and comparisons by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmdiff.config.comparable import check_widths, same_model
from vlmdiff.config.comparisons import CROSSCODER, MAIN
from vlmdiff.config.nulls import saw_images

if TYPE_CHECKING:
    from vlmdiff.config.analysis import DiffConfig
    from vlmdiff.config.dictionaries import DictionaryStage
    from vlmdiff.config.schema import Config


def is_crosscoder(config: Config, dictionary: str) -> bool:
    """Tell whether a dictionary reads two models."""
    return config.dictionaries[dictionary].base_model is not None


def models_read(config: Config, dictionary: str, model: str) -> list[str]:
    """Return the models whose residual streams a dictionary reads, in order, when it looks at a model."""
    base_model = config.dictionaries[dictionary].base_model
    return [model] if base_model is None else [base_model, model]


def check_crosscoders(config: Config) -> None:
    """Check the dictionaries that read two models, and who may name them.

    Raises:
        ValueError: naming the key, what was found and what to do.
    """
    for name in config.dictionaries:
        if is_crosscoder(config, name):
            check_pair(config, name)
    for name, stage in config.trained().items():
        check_start(config, name, stage)
    for label, diff in config.all_comparisons().items():
        if diff.method == CROSSCODER:
            check_comparison(config, label, diff)
            continue
        section = "diff" if label == MAIN else f"comparisons.{label}"
        for key in ("base", "adapted", "null", "null_check"):
            name = getattr(diff, key)
            if name is not None and is_crosscoder(config, name):
                raise ValueError(
                    f"{section}.{key}: found '{name}', which reads two models, expected a dictionary of one; "
                    "name another one, or a further comparison with `method: crosscoder`"
                )
    for key, names in (
        *((f"stages.grid.{key}", [name]) for key, name in grid_corners(config)),
        *((f"evaluation.{i}.dictionaries", one.dictionaries) for i, one in enumerate(config.evaluation)),
    ):
        if found := next((name for name in names if is_crosscoder(config, name)), None):
            raise ValueError(
                f"{key}: found '{found}', which reads two models, expected dictionaries of one; name another "
                "one (its training.csv tells how well a crosscoder reconstructs)"
            )


def grid_corners(config: Config) -> list[tuple[str, str]]:
    """Return the corners of the stage grid, if there is one."""
    return list(config.stages.grid.corners().items()) if config.stages.grid else []


def check_pair(config: Config, name: str) -> None:
    """Check that the two models of a crosscoder can be read side by side.

    Raises:
        ValueError: see `check_crosscoders`.
    """
    key, stage = f"dictionaries.{name}", config.dictionaries[name]
    if name in config.published():
        return
    if stage.tokens != ["text"]:
        raise ValueError(
            f"{key}.tokens: found {stage.tokens}, expected [text]: a language model has no state of images "
            "that could be paired"
        )
    if same_model(config, stage.base_model, stage.model):
        raise ValueError(
            f"{key}.base_model: found '{stage.base_model}', which is `model` too, expected the model before "
            "tuning; name it, or leave base_model out"
        )
    check_widths(config, key, (stage.base_model, stage.model))


def check_start(config: Config, name: str, stage: DictionaryStage) -> None:
    """Refuse a warm start across the number of models.

    Raises:
        ValueError: see `check_crosscoders`.
    """
    if stage.initial == "random" or is_crosscoder(config, stage.initial) == (stage.base_model is not None):
        return
    found, expected = ("two", "one") if stage.base_model is None else ("one", "two")
    raise ValueError(
        f"dictionaries.{name}.initial: found '{stage.initial}', which reads {found} of the models, expected "
        f"one that reads {expected}; start at random, or from such a dictionary"
    )


def check_comparison(config: Config, label: str, diff: DiffConfig) -> None:
    """Check the crosscoder of a comparison and its null.

    Raises:
        ValueError: see `check_crosscoders`.
    """
    section = f"comparisons.{label}"
    entry = config.comparisons[label]
    if entry.target != "scoreboard":
        raise ValueError(
            f"{section}.target: found '{entry.target}' with `method: crosscoder`, expected 'scoreboard': "
            "other targets compare dictionaries of one model, and a crosscoder reads two"
        )
    for key in ("base", "base_model"):
        if (found := getattr(entry, key)) is not None:
            raise ValueError(
                f"{section}.{key}: found '{found}' with `method: crosscoder`, whose features are compared "
                "between the two models that its dictionary names; leave it out"
            )
    for key in ("adapted", "null"):
        name = getattr(entry, key)
        if name is None or not is_crosscoder(config, name):
            found = "missing" if name is None else f"found '{name}', which reads one model"
            raise ValueError(
                f"{section}.{key}: {found}, expected a dictionary with `base_model` "
                "(docs/understand/diff_features.md#crosscoder)"
            )
    adapted, null = (config.dictionaries[getattr(entry, key)] for key in ("adapted", "null"))
    if entry.null == entry.adapted:
        raise ValueError(f"{section}.null: found '{entry.null}', which is `adapted` too; name another one")
    if saw_images(config, adapted.base_model, diff.model):
        raise ValueError(
            f"dictionaries.{entry.adapted}.base_model: found '{adapted.base_model}', a model that was tuned "
            f"with images, expected the language model before that ({section}.adapted)"
        )
    if same_model(config, adapted.base_model, diff.model):
        raise ValueError(
            f"{section}.model: found '{diff.model}', which is the `base_model` of '{entry.adapted}' too, "
            "expected the model after tuning; name that"
        )
    if diff.rule != "energy" and "frozen" in {getattr(one, "decoder", None) for one in (adapted, null)}:
        raise ValueError(
            f"{section}.rule: found '{diff.rule}' with a decoder that is frozen as it starts, the same for "
            "both models: nothing differs in it; write `rule: energy`"
        )
    if not same_model(config, null.base_model, adapted.base_model):
        raise ValueError(
            f"dictionaries.{entry.null}.base_model: found '{null.base_model}', expected "
            f"'{adapted.base_model}' as in '{entry.adapted}', for which it is the null ({section}.null)"
        )
    if entry.null in config.published():
        return
    if saw_images(config, null.model, diff.model):
        raise ValueError(
            f"dictionaries.{entry.null}.model: found '{null.model}', a model that was tuned with images, "
            "expected one that was tuned on text alone: a null says how far features differ when nothing "
            f"multimodal happens ({section}.null)"
        )
