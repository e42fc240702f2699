"""Which dictionaries are held against one another: they must have been trained alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from vlmdiff.config.budgets import differences
from vlmdiff.config.comparisons import CROSSCODER, DRIFT, MAIN, ROTATION

if TYPE_CHECKING:
    from vlmdiff.config.schema import Config


def check_budgets(config: Config) -> None:
    """Check that dictionaries which are compared had equal budgets.

    How far a feature turns grows with steps and rates. A null of a shorter training than the adapted
    dictionary would call everything adapted, one of a longer training nothing.

    Raises:
        ValueError: two differ, or a published one does not tell.
    """
    for key, name, reference, base in compared_pairs(config):
        found = [trainings(config, one, base) for one in (name, reference)]
        if told := ", ".join(differences(*found)):
            raise ValueError(
                f"{key}: dictionary '{name}' is not trained as '{reference}' is, and their cosines cannot be "
                f"compared: {told}; make them equal (docs/understand/train_dictionary.md#equal-budgets)"
            )


def check_numbering(config: Config) -> None:
    """Check that features which are held against one another have the same indices.

    Raises:
        ValueError: some have not.
    """
    check_index(config)
    check_explored(config)
    check_grid(config)


def check_index(config: Config) -> None:
    """Check that dictionaries started from `base`, for only then a feature keeps its index.

    Raises:
        ValueError: one starts elsewhere.
    """
    for label, diff in config.all_comparisons().items():
        section = "diff" if label == MAIN else f"comparisons.{label}"
        for key in ("adapted", "null", "null_check") if diff.method == ROTATION else ():
            name = getattr(diff, key)
            aligned = name is None or diff.base in config.ancestors(name)
            if not aligned and not (key == "adapted" and diff.rule == "energy"):
                raise ValueError(
                    f"{section}.{key}: dictionary '{name}' starts from "
                    f"'{config.dictionaries[name].initial}', but must come from '{diff.base}' so that "
                    "features keep their index"
                )


def has_same_features(config: Config, name: str) -> bool:
    """Tell whether features of a comparison have the indices of the main one's."""
    main, other = config.diff, config.comparisons[name].diff(config.diff)
    methods = {main.method, other.method}
    return methods == {ROTATION} and other.base == main.base and main.base in config.ancestors(other.adapted)


def check_explored(config: Config) -> None:
    """Check that the explorer's comparisons have the features of the main one.

    Raises:
        ValueError: one is not there, or numbers its features otherwise.
    """
    named = config.explorer.comparisons if config.explorer else None
    fitting = [name for name in config.comparisons if has_same_features(config, name)]
    for name in named or ():
        if name not in fitting:
            raise ValueError(
                f"explorer.comparisons: found '{name}', expected comparisons that start from "
                f"'{config.diff.base}' and follow its rotation, as the main one does: "
                f"{', '.join(fitting) or 'there are none'}; name these alone"
            )


def check_grid(config: Config) -> None:
    """Check that corners of the stage grid start where their edges do.

    Raises:
        ValueError: one starts elsewhere.
    """
    grid = config.stages.grid
    if grid is None:
        return
    starts = {"data": config.diff.base, "model": config.diff.base}
    starts |= {"data_then_model": grid.data, "model_then_data": grid.model}
    for key, start in starts.items():
        found = config.dictionaries[getattr(grid, key)].initial
        if found != start:
            raise ValueError(
                f"stages.grid.{key}: dictionary '{getattr(grid, key)}' starts from '{found}', but must start "
                f"from '{start}'"
            )


def same_model(config: Config, one: str, other: str) -> bool:
    """Tell whether two names of models mean one model: their weights come from the same places."""
    sources = {"path", "untuned", "projector", "text_only"}
    first, second = (config.models[name].model_dump(include=sources) for name in (one, other))
    return first == second


def check_widths(config: Config, key: str, models: Iterable[str]) -> None:
    """Refuse models whose residual streams are planned with different widths, where one dictionary reads all.

    Raises:
        ValueError: naming the key and the widths.
    """
    sizes = {name: config.models[name].planned for name in models}
    widths = {name: size.d_model for name, size in sizes.items() if size is not None}
    if len(set(widths.values())) > 1:
        raise ValueError(
            f"{key}: models of different widths are planned, {widths}; one dictionary cannot read them all"
        )


def check_models(config: Config) -> None:
    """Check that what rotates is looked at in the model that turned it.

    The rules `percentile` and `calibrated` join how far a feature of the adapted dictionary turned with how
    strongly it fires in the comparison's model. `energy` asks nothing of the training.

    Raises:
        ValueError: the adapted dictionary was trained on another model.
    """
    for label, diff in config.all_comparisons().items():
        stage = config.trained().get(diff.adapted)
        if (
            stage is None
            or diff.method == DRIFT
            or diff.rule == "energy"
            or same_model(config, stage.model, diff.model)
        ):
            continue
        section = "diff" if label == MAIN else f"comparisons.{label}"
        raise ValueError(
            f"{section}.model: found '{diff.model}', but its adapted dictionary '{diff.adapted}' is trained "
            f"on '{stage.model}', and rule '{diff.rule}' needs both of one model; name '{stage.model}', a "
            "dictionary that is trained on the model, or `rule: energy`"
        )


def compared_pairs(config: Config) -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, dictionary, the one that it is held against, where both start from).

    Of crosscoders the last training counts.
    """
    for label, diff in config.all_comparisons().items():
        section = "diff" if label == MAIN else f"comparisons.{label}"
        # A dictionary that does not come from the base has no cosines that mean anything.
        if diff.base in config.ancestors(diff.adapted) or diff.method == CROSSCODER:
            base = "random" if diff.method == CROSSCODER else diff.base
            yield f"{section}.null", diff.null, diff.adapted, base
        if diff.null_check is not None:
            # A comparison names no second null: it has that of `diff`, which its own null must fit.
            pair = (diff.null_check, diff.null) if label == MAIN else (diff.null, diff.null_check)
            yield f"{section}.{'null_check' if label == MAIN else 'null'}", *pair, diff.base
    if config.diff.untuned is not None:
        untuned = config.comparison(config.diff.untuned)
        yield "diff.untuned", untuned.adapted, config.diff.adapted, config.diff.base
    if (grid := config.stages.grid) is not None:
        yield "stages.grid.model", grid.model, grid.data, config.diff.base
        yield "stages.grid.model_then_data", grid.model_then_data, grid.data_then_model, config.diff.base


def trainings(config: Config, dictionary: str, base: str) -> list[dict[str, Any]]:
    """Return the budgets of all trainings that lead from `base` to a dictionary, in order.

    Raises:
        ValueError: a published dictionary's budget is not declared.
    """
    names = [dictionary, *config.ancestors(dictionary)]
    found = []
    for name in reversed(names[: names.index(base)] if base in names else names[:1]):
        budget = config.budget(name)
        if budget is None:
            raise ValueError(
                f"dictionaries.{name}.budget: missing. '{name}' is published and is compared with other "
                "dictionaries, which must be trained alike: declare its steps, batch_tokens, learning_rate "
                "and so on, as its authors tell them (docs/configure/import_dictionary.md#budget)"
            )
        found.append(budget.compared(config.architecture, config.dictionaries[name].initial != "random"))
    return found
