"""Nulls: they are trained on what they stand for (docs/understand/controls.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vlmdiff.config.comparable import same_model
from vlmdiff.config.comparisons import MAIN, ROTATION
from vlmdiff.config.families import LANGUAGE_MODEL
from vlmdiff.config.held_out import what_is_shared
from vlmdiff.config.subsets import line_of
from vlmdiff.config.world import WorldDataset

if TYPE_CHECKING:
    from vlmdiff.config.analysis import DiffConfig
    from vlmdiff.config.schema import Config


def check_nulls(config: Config) -> None:
    """Refuse nulls that saw what they are to do without.

    A null says how far features turn when nothing multimodal happens: from the base on it is trained on more
    text of the language model.

    Raises:
        ValueError: naming each key, what was found, what was expected and what to do.
    """
    found: dict[str, str] = {}
    trained = {name: diff for name, diff in config.all_comparisons().items() if diff.method == ROTATION}
    for label, diff in trained.items():
        for key, line in null_problems(config, label, diff):
            found.setdefault(key, line)
    lines = [*found.values(), *second_null_problems(config)]
    if lines:
        raise ValueError("\n  ".join(lines))


def null_problems(config: Config, label: str, diff: DiffConfig) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong there) of the nulls of a comparison.

    Args:
        config: the configuration.
        label: of the comparison.
        diff: the comparison, with all that it has from `diff`.
    """
    for role in ("null", "null_check"):
        name, key = getattr(diff, role), key_of(config, label, role)
        if name == diff.adapted:
            adapted = key_of(config, label, "adapted")
            of = "" if adapted.partition(".")[0] == key.partition(".")[0] else f" ({adapted})"
            yield (
                key,
                f"{key}: found '{name}', which is `adapted` too{of}, expected a dictionary that saw no "
                "images; name another one",
            )
            return
        # With its base it stands for what was before the main comparison's model, whatever else is studied.
        inherited = key == f"diff.{role}" and diff.base == config.diff.base
        for stage in () if name is None else trainings_since(config, name, diff.base):
            for wrong, told in stage_problems(config, stage, config.diff if inherited else diff):
                yield wrong, f"{wrong}: {told} ({key})"


def key_of(config: Config, label: str, role: str) -> str:
    """Return the key at which a dictionary of a comparison is written: in `diff`, unless it names its own."""
    own = label != MAIN and getattr(config.comparisons[label], role, None) is not None
    return f"comparisons.{label}.{role}" if own else f"diff.{role}"


def trainings_since(config: Config, name: str, base: str) -> list[str]:
    """Return a dictionary and those that it starts from, up to the base; only what is trained here."""
    line = [name, *config.ancestors(name)]
    return [one for one in line[: line.index(base)] if one in config.trained()] if base in line else []


def stage_problems(config: Config, name: str, diff: DiffConfig) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong there) of one training of a null."""
    stage, base = config.trained()[name], config.trained().get(diff.base)
    of_base = base is not None and same_model(config, stage.model, base.model)
    if not of_base and saw_images(config, stage.model, diff.model):
        meant = "" if base is None else f", such as '{base.model}', on which '{diff.base}' is trained"
        yield (
            f"dictionaries.{name}.model",
            f"found '{stage.model}', a model that was tuned with images, expected one that was not{meant}: a "
            "null says how far features turn when nothing multimodal happens; name the language model",
        )
    elif of_base and (common := same_texts(stage.dataset, base.dataset, config.all_datasets())):
        yield (
            f"dictionaries.{name}.dataset",
            f"found '{stage.dataset}', but '{diff.base}' is trained on '{base.dataset}', and {common}; "
            "expected more text, for what was learned before turns features less; name other text",
        )


def saw_images(config: Config, name: str, studied: str) -> bool:
    """Tell whether a model was tuned with images, as far as the configuration tells.

    Args:
        config: the configuration.
        name: of the model.
        studied: the model of the comparison.
    """
    model = config.models[name]
    if model.text_only:
        return model.path == config.models[studied].path
    return model.family != LANGUAGE_MODEL and model.untuned is None


def same_texts(one: str, other: str, datasets: Mapping[str, Any]) -> str | None:
    """Say what two data sets have in common that are trained on; None if that cannot be told.

    The built-in world describes its scenes anew with another seed, so there a common split is no common text.
    """
    lines = [line_of(name, datasets) for name in (one, other)]
    roots = [datasets[line[-1]] for line in lines]
    if lines[0][-1] == lines[1][-1] or not all(isinstance(root, WorldDataset) for root in roots):
        return what_is_shared(one, other, datasets)
    first, second = (root.model_dump(exclude={"samples", "group_by"}) for root in roots)
    same = first == second and max(map(len, lines)) == 1
    return f"both are drawn with seed {roots[0].seed} from split '{roots[0].scenes}'" if same else None


def second_null_problems(config: Config) -> Iterator[str]:
    """Yield what is wrong with the second null: it is trained on other text than the first one."""
    diff = config.diff
    if diff.null_check is None:
        return
    if diff.null_check == diff.null:
        yield (
            f"diff.null_check: found '{diff.null}', which is `null` too and sets the threshold, expected a "
            "second one on other text; name another dictionary, or leave it out"
        )
        return
    first, second = (config.trained().get(name) for name in (diff.null, diff.null_check))
    if first is None or second is None:
        return
    if common := same_texts(second.dataset, first.dataset, config.all_datasets()):
        yield (
            f"dictionaries.{diff.null_check}.dataset: found '{second.dataset}', but '{diff.null}' is trained "
            f"on '{first.dataset}', and {common}; expected other text, on which the second null "
            "(diff.null_check) tests the first one's threshold; name some"
        )
