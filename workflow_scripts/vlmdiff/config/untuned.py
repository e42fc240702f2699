"""Models that were never tuned, and the comparison whose features are false finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmdiff.config.comparable import same_model

if TYPE_CHECKING:
    from vlmdiff.config.analysis import DiffConfig
    from vlmdiff.config.schema import Config


def check_untuned(config: Config) -> None:
    """Check models in whose frame a language model stands, and the comparison `diff.untuned`.

    Raises:
        ValueError: naming the key, what was found and what to do.
    """
    for name in config.models:
        check_model(config, name)
    if (untuned := config.models[config.diff.model].untuned) is not None:
        raise ValueError(
            f"diff.model: found '{config.diff.model}', whose language model is '{untuned}' and was never "
            "tuned, expected the model that was tuned; name that, and this one in a comparison "
            "(docs/understand/controls.md)"
        )
    for label, diff in config.all_comparisons().items():
        check_language_model(config, label, diff)
    if config.diff.untuned is not None:
        check_comparison(config, config.diff.untuned)


def check_model(config: Config, name: str) -> None:
    """Refuse to put a model that sees into another one, or a language model of another width.

    Raises:
        ValueError: see `check_untuned`.
    """
    model = config.models[name]
    if model.untuned is None:
        return
    text = config.models[model.untuned]
    if text.family != "causal_lm":
        raise ValueError(
            f"models.{name}.untuned: found '{model.untuned}' of family '{text.family}', expected a model of "
            "family causal_lm: the one that was tuned"
        )
    widths = [one.planned.d_model for one in (text, model) if one.planned is not None]
    if len(set(widths)) > 1:
        raise ValueError(
            f"models.{name}.untuned: '{model.untuned}' is planned with d_model {widths[0]}, '{name}' with "
            f"{widths[1]}, expected equal widths; correct `planned`, or name the model that was tuned"
        )


def check_language_model(config: Config, label: str, diff: DiffConfig) -> None:
    """Refuse a comparison of another language model than the one on which its base dictionary was trained.

    Raises:
        ValueError: see `check_untuned`.
    """
    untuned, base = config.models[diff.model].untuned, config.trained().get(diff.base)
    if untuned is None or base is None or same_model(config, untuned, base.model):
        return
    raise ValueError(
        f"models.{diff.model}.untuned: found '{untuned}', expected '{base.model}', on which dictionary "
        f"'{diff.base}' is trained: comparison '{label}' holds the model against it; name that model"
    )


def check_comparison(config: Config, name: str) -> None:
    """Refuse a comparison of a tuned model, of another base, or one that the default run does not make.

    Raises:
        ValueError: see `check_untuned`.
    """
    if name not in config.comparisons:
        raise ValueError(
            f"diff.untuned: unknown comparison '{name}'; declared are {sorted(config.comparisons)}"
        )
    found, target = config.comparison(name), config.comparisons[name].target
    if config.models[found.model].untuned is None:
        raise ValueError(
            f"diff.untuned: comparison '{name}' is of model '{found.model}', expected one that was never "
            f"tuned; name a language model in models.{found.model}.untuned, or another comparison"
        )
    if target != "all":
        raise ValueError(
            f"diff.untuned: comparison '{name}' has target '{target}', expected 'all', so that the default "
            "run makes it"
        )
    if found.base != config.diff.base:
        raise ValueError(
            f"diff.untuned: comparison '{name}' has base '{found.base}', expected '{config.diff.base}' as in "
            "diff, so that features keep their index"
        )
