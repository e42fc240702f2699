"""Checkpoints at hand: what their files tell against the configuration, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmdiff.config.absent import is_there, not_there
from vlmdiff.config.checkpoint_files import (
    PROCESSORS,
    TOKENIZERS,
    absent,
    read_object,
    something_else,
    weight_names,
    weight_problems,
)
from vlmdiff.config.comparisons import MAIN
from vlmdiff.config.decoder import decoder_of, described, width_in
from vlmdiff.config.families import (
    LANGUAGE_MODEL,
    LLAVA_ORIGINAL,
    ORIGINAL_TOWERS,
    all_kinds,
    family_of,
    family_problem,
    unread,
)
from vlmdiff.config.local_files import used
from vlmdiff.config.schema import Config
from vlmdiff.config.sources import is_fetched, is_local, world_model
from vlmdiff.config.storage import planned_size
from vlmdiff.config.subjects import ModelConfig
from vlmdiff.config.world import WorldConfig, family_of_checkpoint

# Sizes of a decoder in which a language model and the frame that it is put into agree.
SHAPE = {
    "hidden_size": "residual width",
    "num_hidden_layers": "number of blocks",
    "num_attention_heads": "number of heads",
}
# Families whose prompts a chat template writes, and where one may lie.
CHATTING = ("causal_lm", "llava", "llava_next", "qwen_vl", "internvl", "idefics3", "gemma3", "pixtral")
TEMPLATES = ("chat_template.jinja", "chat_template.json")
DESCRIBING = ("processor_config.json", "tokenizer_config.json")


def with_family(values: Any) -> Any:
    """Return plain values of a configuration with the families that checkpoints at hand tell.

    A family that the configuration names stays. Where nothing tells one, it stays missing, and
    `missing_family` says why.

    Args:
        values: what the configuration files say, not yet checked.
    """
    models = values.get("models") if isinstance(values, dict) else None
    if not isinstance(models, dict):
        return values
    found = {name: told_family(entry, values.get("world")) for name, entry in models.items()}
    told = {name: models[name] | {"family": family} for name, family in found.items() if family}
    return {**values, "models": {**models, **told}}


def told_family(entry: Any, world: Any) -> str | None:
    """Return the family that a model's source tells; None if the entry names one, or nothing tells it.

    Args:
        entry: the model's entry, not yet checked.
        world: the section `world`, not yet checked.
    """
    path = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(path, str) or "family" in entry:
        return None
    if (checkpoint := world_model(path)) is not None:
        controls = world.get("controls") if isinstance(world, dict) else None
        return family_of_checkpoint(
            checkpoint, controls if isinstance(controls, dict) else WorldConfig().controls
        )
    description = described(path) if is_local(path) else None
    return None if description is None else family_of(description)


def missing_family(entry: Any) -> str:
    """Say why a model without `family` needs one, and which there are.

    Args:
        entry: the model's entry, not yet checked.
    """
    path = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(path, str):
        return f"missing; families and what they read: {all_kinds()}"
    if is_fetched(path):
        return (
            f"missing; it is read from config.json of a folder, and '{path}' is not here yet; "
            f"families and what they read: {all_kinds()}"
        )
    file = f"{path}/config.json"
    if not is_there(file):
        return f"missing, and so is the checkpoint that would tell it: {not_there(path, file)}"
    try:
        description = read_object(Path(file))
    except ValueError as error:
        return f"missing, and {error}"
    if problem := unread(description):
        return f"missing, and {path} has {problem}"
    kind = description.get("model_type")
    return (
        f"missing, and {path} has model_type '{kind}', which no family reads; families and what they read: "
        f"{all_kinds()}"
    )


def description_of(config: Config, name: str) -> Mapping[str, Any] | None:
    """Return the config.json of a model that lies in a folder; None if it does not, or cannot be read."""
    path = config.models[name].path
    return described(path) if is_local(path) else None


def checkpoint_problems(config: Config) -> list[str]:
    """Return a line for whatever the files of checkpoints tell against the configuration.

    Folders that are not there are left to `missing_files`.
    """
    lines = [line for name in sorted(used(config, "model")) for line in model_problems(config, name)]
    return [*lines, *untuned_problems(config), *width_problems(config)]


def model_problems(config: Config, name: str) -> Iterator[str]:
    """Yield what is wrong with the checkpoint of one model."""
    model = config.models[name]
    if (checkpoint := world_model(model.path)) is not None:
        family = family_of_checkpoint(checkpoint, config.world.controls)
        if model.family != family:
            yield (
                f"models.{name}.family: found '{model.family}', but {model.path} is of family '{family}'; "
                "leave it out"
            )
        return
    if is_local(model.path) and is_there(f"{model.path}/config.json"):
        try:
            description = read_object(Path(model.path, "config.json"))
        except ValueError as error:
            yield f"models.{name}.path: {error}"
            return
        if problem := family_problem(model.family, description, model.path):
            yield f"models.{name}.family: {problem}"
        yield from (f"models.{name}.path: {problem}" for problem in folder_problems(model))
    if is_local(model.vision_tower) and is_there(f"{model.vision_tower}/config.json"):
        yield from (f"models.{name}.vision_tower: {problem}" for problem in tower_problems(model))


def folder_problems(model: ModelConfig) -> Iterator[str]:
    """Yield what is missing in the folder of a checkpoint."""
    folder = Path(model.path)
    if gone := sorted(file.name for file in folder.iterdir() if file.is_symlink() and not is_there(file)):
        yield (
            f"{folder} links to {len(gone)} files that are gone, first {gone[0]}, as after the hub's cache "
            "was cleared; fetch the checkpoint again"
        )
        return
    yield from weight_problems(folder)
    if something_else(folder) is not None and not weight_names(folder):
        return
    parts = [(TOKENIZERS, "files of a tokenizer")]
    if model.family not in (LANGUAGE_MODEL, LLAVA_ORIGINAL):
        parts.append((PROCESSORS, "settings of an image processor"))
    yield from filter(None, (absent(folder, names, what) for names, what in parts))


def has_template(model: ModelConfig) -> bool | None:
    """Tell whether a checkpoint has a chat template; None if that is not known, or its family needs none."""
    if model.family not in CHATTING or not is_local(model.path) or not is_there(f"{model.path}/config.json"):
        return None
    return brings_template(Path(model.path))


def brings_template(folder: Path) -> bool | None:
    """Tell whether the folder of a checkpoint holds a chat template; None if its files cannot be read."""
    if any((folder / name).is_file() for name in TEMPLATES):
        return True
    try:
        described = [read_object(folder / name) for name in DESCRIBING if (folder / name).is_file()]
    except ValueError:
        return None
    return any(values.get("chat_template") for values in described)


def tower_problems(model: ModelConfig) -> Iterator[str]:
    """Yield what is wrong with the folder of a vision tower that lies apart."""
    folder = Path(model.vision_tower)
    try:
        found = read_object(folder / "config.json")
    except ValueError as error:
        yield str(error)
        return
    if found.get("model_type") not in ORIGINAL_TOWERS:
        kind = found.get("model_type")
        yield f"{folder} has model_type '{kind}', expected the vision tower of CLIP or SigLIP"
        return
    own = is_local(model.path) and any("vision_tower." in name for name in weight_names(Path(model.path)))
    if not own:
        yield from weight_problems(folder)
    if problem := absent(folder, PROCESSORS, "settings of an image processor"):
        yield problem


def untuned_problems(config: Config) -> Iterator[str]:
    """Yield which language models do not fit into the frames that they are put into."""
    for name, model in sorted(config.models.items()):
        if model.untuned is None:
            continue
        parts = [description_of(config, one) for one in (name, model.untuned)]
        if None in parts:
            continue
        frame, text = (decoder_of(part) for part in parts)
        wrong = [
            f"{what} {text[key]}, expected {frame[key]}"
            for key, what in SHAPE.items()
            if {key} <= frame.keys() & text.keys() and frame[key] != text[key]
        ]
        words = [part.get("vocab_size") for part in (frame, text)]
        if all(isinstance(count, int) for count in words) and words[1] > words[0]:
            wrong.append(f"{words[1]} tokens, expected at most {words[0]}")
        if wrong:
            yield (
                f"models.{name}.untuned: found '{model.untuned}', a language model of {'; '.join(wrong)} as "
                f"in '{name}'; name the language model that it was tuned from"
            )


def width_of(config: Config, name: str) -> int | None:
    """Return the residual width of a model: its checkpoint's, else the planned one; None if unknown."""
    description = description_of(config, name)
    if description is not None and (width := width_in(description)) is not None:
        return width
    size = planned_size(config, name)
    return None if size is None else size.d_model


def dictionary_models(config: Config, dictionary: str) -> Iterator[tuple[str, str]]:
    """Yield (dictionary, model) of a dictionary that is trained here and of those that it starts from."""
    for name in (dictionary, *config.ancestors(dictionary)):
        if name in config.trained():
            yield name, config.trained()[name].model


def width_problems(config: Config) -> list[str]:
    """Return where a dictionary meets models of different residual widths."""
    meetings = [
        (f"dictionaries.{name}.model", stage.model, [name]) for name, stage in config.trained().items()
    ]
    meetings += [
        (f"evaluation.{i}.model", entry.model, entry.dictionaries)
        for i, entry in enumerate(config.evaluation)
    ]
    for label, diff in config.all_comparisons().items():
        key = "diff.model" if label == MAIN else f"comparisons.{label}.model"
        meetings.append((key, diff.model, [diff.base, diff.adapted, diff.null]))
    lines: dict[str, str] = {}
    widths = {name: width_of(config, name) for name in used(config, "model")}
    for key, model, dictionaries in meetings:
        for dictionary, other in (pair for one in dictionaries for pair in dictionary_models(config, one)):
            if None not in (widths[model], widths[other]) and widths[model] != widths[other]:
                lines.setdefault(
                    key,
                    f"{key}: found '{model}' of residual width {widths[model]}, but dictionary "
                    f"'{dictionary}' is trained on '{other}' of width {widths[other]}, and a "
                    "dictionary has one width; name a model and the language model that it was tuned from",
                )
    return list(lines.values())
