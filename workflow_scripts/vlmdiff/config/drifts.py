"""Comparisons without a training: what the base dictionary does in one model and in the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmdiff.config.comparable import check_widths, same_model
from vlmdiff.config.comparisons import DRIFT
from vlmdiff.config.nulls import saw_images

if TYPE_CHECKING:
    from vlmdiff.config.analysis import DiffConfig
    from vlmdiff.config.schema import Config


def dictionaries_of(diff: DiffConfig) -> dict[str, str]:
    """Return the dictionaries that a comparison reads, by key."""
    keys = ("base",) if diff.method == DRIFT else ("base", "adapted", "null")
    return {key: getattr(diff, key) for key in keys}


def further_models(diff: DiffConfig) -> dict[str, str]:
    """Return the models that a comparison names beside its own, by key."""
    keys = ("base_model", "null_model")
    return {key: name for key in keys if (name := getattr(diff, key)) is not None}


def base_model(config: Config, diff: DiffConfig) -> str | None:
    """Return the model that a drift starts from; None if nothing tells it."""
    trained = config.trained().get(diff.base)
    return diff.base_model or (trained and trained.model)


def check_drifts(config: Config) -> None:
    """Check that a drift has all that it reads, and that nothing else names what it alone reads.

    Raises:
        ValueError: naming the key, what was found and what to do.
    """
    if (name := config.diff.null_model) is not None:
        raise ValueError(
            f"diff.null_model: found '{name}', but only a comparison with `method: drift` reads it; write it "
            "there"
        )
    for name, entry in config.comparisons.items():
        key, diff = f"comparisons.{name}", config.comparison(name)
        if diff.method == DRIFT:
            if entry.adapted is not None or entry.null is not None:
                said = "adapted" if entry.adapted is not None else "null"
                raise ValueError(
                    f"{key}.{said}: found '{getattr(entry, said)}' with `method: drift`, which reads all "
                    "models by the base dictionary and trains none; leave it out"
                )
            check_drift_models(config, key, diff)
        elif entry.null_model is not None:
            raise ValueError(
                f"{key}.null_model: found '{entry.null_model}' with `method: {diff.method}`, expected "
                "`method: drift`, which alone reads it; leave it out, or name that method"
            )


def check_drift_models(config: Config, key: str, diff: DiffConfig) -> None:
    """Check the models of a drift: before and after differ, and the null differs from both and saw no images.

    Raises:
        ValueError: see `check_drifts`.
    """
    base, null = base_model(config, diff), diff.null_model
    if base is None:
        raise ValueError(
            f"{key}.base_model: missing, and dictionary '{diff.base}' is published; name the model it reads"
        )
    if null is None:
        raise ValueError(
            f"{key}.null_model: missing; expected a model that was tuned on text alone: how far features "
            "drift in it is the null"
        )
    trained = config.trained().get(diff.base)
    if trained is not None and not same_model(config, base, trained.model):
        raise ValueError(
            f"{key}.base_model: found '{base}', but dictionary '{diff.base}' is trained on "
            f"'{trained.model}', and how it fires in another model is a drift already; leave it out"
        )
    if saw_images(config, base, diff.model):
        said = f"base: found '{diff.base}'" if trained else f"base_model: found '{base}'"
        raise ValueError(
            f"{key}.{said} of a model that was tuned with images ('{base}'), expected the language model "
            "before that"
        )
    check_widths(config, key, (base, diff.model, null))
    for said, name, other in (("model", diff.model, base), ("null_model", null, base)):
        if same_model(config, name, other):
            raise ValueError(
                f"{key}.{said}: found '{name}', which is the model before tuning ('{base}'): nothing drifts "
                "in it; name another one"
            )
    if same_model(config, null, diff.model):
        raise ValueError(
            f"{key}.null_model: found '{null}', which is the model that is compared ('{diff.model}'); "
            "expected one that was tuned on text alone"
        )
    if saw_images(config, null, diff.model):
        raise ValueError(
            f"{key}.null_model: found '{null}', a model that was tuned with images, expected one that was "
            "not: a null says how far features drift when nothing multimodal happens"
        )
