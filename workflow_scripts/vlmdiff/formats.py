"""Say what a file or folder is, and how a configuration names it: `python -m vlmdiff.formats FOLDER`."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmdiff.config.checkpoint_files import listed, read_object, something_else
from vlmdiff.config.documents import LINES
from vlmdiff.config.families import (
    LANGUAGE_MODEL,
    LLAVA_ORIGINAL,
    MODEL_TYPES,
    all_kinds,
    family_of,
    kind_of,
    layout_problem,
)
from vlmdiff.config.image_tokens import image_tokens
from vlmdiff.config.local_checkpoints import folder_problems
from vlmdiff.config.new import SHOWN_GROUPS, flow, look_at_checkpoint
from vlmdiff.config.own_data import document_lengths
from vlmdiff.config.samples_file import SAMPLES, TABLE, find_samples, read_records
from vlmdiff.config.sources import is_local
from vlmdiff.config.subjects import ModelConfig
from vlmdiff.dictionaries.source import FILES
from vlmdiff.runtime.disk_errors import StorageError
from vlmdiff.runtime.reading import DataError

SUPPORTED = (
    f"dictionaries ({', '.join(FILES)}), checkpoints of models ({', '.join(MODEL_TYPES)}), "
    f"samples ({SAMPLES}, {TABLE}) and text with a document a line ({', '.join(LINES)})"
)


# How paths tell the active features a token: `average_l0_71`, `SAE-…-L0_50`.
AVERAGE = re.compile(r"(?i)l0_(\d+)")


class FormatError(ValueError):
    """Nothing here is recognised, or what is cannot be used; the message says what was found."""


def told(path: Path) -> str:
    """Return what a file or folder is, and the lines of a configuration that name it.

    Raises:
        FormatError: it is nothing that is supported, or damaged.
    """
    if path.name in ("", ".."):
        path = path.resolve()
    if not is_local(str(path)) or not (path.is_file() or path.is_dir()):
        raise FormatError(
            f"{path}: found nothing there, expected a file or folder on this machine: {SUPPORTED}"
        )
    if is_checkpoint(path):
        return checkpoint_told(path)
    if found := dictionaries_told(path):
        return "\n\n".join([found, *filter(None, [others_told(path)])])
    if path.suffix.lower() in (".csv", *LINES) or any((path / name).is_file() for name in (SAMPLES, TABLE)):
        return data_told(path)
    if found := others_told(path):
        return found
    if path.is_file() and is_checkpoint(path.parent):
        raise FormatError(f"{path}: found a file of a checkpoint; name the folder, {path.parent}")
    names = [path.name] if path.is_file() else sorted(one.name for one in path.iterdir())
    found = something_else(path) or f"{path}: found {listed(names) or 'an empty folder'}"
    raise FormatError(f"{found}; this is nothing that is read here. Supported are {SUPPORTED}")


def is_checkpoint(path: Path) -> bool:
    """Tell whether a folder is the checkpoint of some model.

    Raises:
        FormatError: its config.json is damaged.
    """
    if not (path / "config.json").is_file():
        return False
    try:
        return kind_of(read_object(path / "config.json")) is not None
    except ValueError as error:
        raise FormatError(str(error)) from None


def others_told(path: Path) -> str | None:
    """Return which folders below one hold checkpoints or samples, and which were not looked into."""
    from vlmdiff.dictionaries import recognise

    looked_at, left = ([], []) if path.is_file() else recognise.folders_below(path)
    lines = [f"  {one}: {what}" for one in looked_at if (what := plainly(one))]
    if lines:
        lines.insert(0, f"{path}: below it lie these, each to be named by its own path:")
    if left:
        lines.append(f"Not looked into: {left[0]}{f' and {len(left) - 1} more folders' if left[1:] else ''}.")
    return "\n".join(lines) or None


def plainly(folder: Path) -> str | None:
    """Say in a few words that a folder is a checkpoint or a data set; None if it is neither."""
    try:
        if is_checkpoint(folder):
            return f"a checkpoint ({kind_of(read_object(folder / 'config.json'))})"
    except FormatError:
        return "a checkpoint whose config.json is damaged"
    return "samples" if any((folder / name).is_file() for name in (SAMPLES, TABLE)) else None


def in_config(entry: dict[str, Any]) -> str:
    """Write the lines of a configuration, as they are pasted."""
    lines = ["In the configuration:", ""]
    for key, value in entry.items():
        nested = isinstance(value, dict) and key in ("models", "dictionaries")
        lines += [f"{key}:", *(f"  {name}: {flow(one)}" for name, one in value.items())] if nested else [
            f"{key}: {flow(value)}"
        ]  # fmt: skip
    return "\n".join(lines)


def checkpoint_told(folder: Path) -> str:
    """Return what a checkpoint is; see `told`.

    Raises:
        FormatError: no family reads it, or its files are not whole.
    """
    description = read_object(folder / "config.json")
    family = family_of(description)
    if family is None:
        raise FormatError(
            f"{folder}: found a checkpoint of model_type '{kind_of(description)}', which no family reads; "
            f"families and what they read: {all_kinds()}"
        )
    found = look_at_checkpoint(str(folder), sees=family != LANGUAGE_MODEL)
    problems = [*filter(None, [layout_problem(family, description)])]
    problems += folder_problems(ModelConfig.model_construct(path=str(folder), family=family))
    if problems:
        raise FormatError("\n  ".join([f"{folder}: found a checkpoint: {found}; but", *problems]))
    sees = family != LANGUAGE_MODEL
    entry = {"path": str(folder)}
    if family == LLAVA_ORIGINAL:
        entry["vision_tower"] = tower_of(description)
    pictures = image_tokens(family, description)
    count = f", {pictures} tokens a picture" if pictures else ", image tokens as its tower makes them"
    return (
        f"{folder}: a checkpoint of a {'vision-language' if sees else 'language'} model: family {found}"
        f"{count if sees else ''}.\n" + in_config({"models": {"vlm" if sees else "base_lm": entry}})
    )


def tower_of(description: Mapping[str, Any]) -> str:
    """Return where the vision tower of LLaVA's own layout lies: a folder, or the repository that is named."""
    tower = str(description.get("mm_vision_tower") or "FOLDER")
    return tower if Path(tower).is_dir() or tower.count("/") != 1 else f"hub:{tower}@main"


def data_told(path: Path) -> str:
    """Return what a data set or a corpus is; see `told`.

    Raises:
        FormatError: it is neither.
    """
    try:
        groups = Counter(record["group"] for record in read_records(path))
    except DataError as error:
        if path.suffix.lower() not in LINES:
            raise FormatError(str(error)) from None
        return corpus_told(path, str(error))
    shown = ", ".join(f"{name} ({count})" for name, count in groups.most_common(SHOWN_GROUPS))
    more = f" and {len(groups) - SHOWN_GROUPS} more" if len(groups) > SHOWN_GROUPS else ""
    return (
        f"{path}: a data set: {sum(groups.values())} samples in {find_samples(path).name}, of groups "
        f"{shown}{more}.\n" + in_config({"data": str(path)})
    )


def corpus_told(path: Path, no_samples: str) -> str:
    """Return what a file with a document a line is; see `told`.

    Args:
        path: the file.
        no_samples: why it holds no samples.

    Raises:
        FormatError: it holds no documents either.
    """
    try:
        lengths = document_lengths(str(path))
    except ValueError as error:
        reason = f"; as samples: {no_samples}" if path.suffix.lower() == ".jsonl" else ""
        raise FormatError(f"{path}: {error}{reason}") from None
    return (
        f"{path}: text for a language model: {len(lengths)} documents of {sum(lengths)} words.\n"
        + in_config({"data": {"photos": "FOLDER", "text": str(path)}})
    )


def dictionaries_told(path: Path) -> str | None:
    """Return what published dictionaries are; see `told`. None if there are none.

    Raises:
        FormatError: there are some, which cannot be imported.
    """
    from vlmdiff.dictionaries import recognise
    from vlmdiff.dictionaries.weights import DictionaryError

    candidates = recognise.dictionaries_in(path)
    formats = list(dict.fromkeys(one.format for one in candidates))
    try:
        parts = [format_told(path, [one for one in candidates if one.format == kind]) for kind in formats]
    except DictionaryError as error:
        names = " and ".join(f"`{kind}`" for kind in formats)
        raise FormatError(
            f"found a dictionary of format {names}, which cannot be imported: {error}"
        ) from None
    return "\n\n".join(parts) or None


def format_told(given: Path, candidates: Sequence[Any]) -> str:
    """Return what dictionaries of one format are; see `told`.

    Raises:
        DictionaryError: they cannot be imported.
    """
    from vlmdiff.dictionaries import recognise
    from vlmdiff.dictionaries.weights import DictionaryError

    root = recognise.root_of(candidates, given)
    first = candidates[0]
    found, layer = recognise.read_candidate(first, root)
    layers = [layer, *(recognise.layer_told(recognise.place_of(one, root)) for one in candidates[1:])]
    if None in layers and len(layers) > 1:
        lost = candidates[layers.index(None)].path
        raise DictionaryError(f"{lost}: nothing tells its layer; name the folder of one dictionary")
    width, d_sae = found.weights["W_enc"].shape
    recognise.check_alike(candidates[1:], (width, d_sae))
    width = f"two models of width {width // 2}" if first.format == recognise.CROSSCODER else f"width {width}"
    known = sorted(one for one in layers if one is not None)
    where = f"after layer {', '.join(map(str, known))}" if known else "of a layer that nothing tells"
    count = "a dictionary" if len(candidates) == 1 else f"{len(candidates)} dictionaries"
    guessed, pair = recognise.untold_k(first)[1], first.format == recognise.CROSSCODER
    shape = {} if pair else shape_of_trained(found, None if guessed else found.k, str(first.path))
    entry = recognise.entry_for(candidates, layers, root)
    lines = [
        f"{given}: {count} of format {first.format}, {d_sae} features of {width}, "
        f"{activation_of(found, guessed)}, {where}.",
        in_config(
            {
                **({"layers": known} if known else {}),
                **({"architecture": shape} if shape else {}),
                "dictionaries": {recognise.CROSSCODER if pair else "base": entry},
            }
        ),
    ]
    if pair:
        lines += [
            "",
            "It reads two models; how these are compared: docs/understand/diff_features.md#crosscoder.",
        ]
    if recognise.UNTOLD in (entry.get("k"), shape.get("k")):
        lines += [
            "",
            f"No file tells {recognise.UNTOLD}, the active features a token; its authors' papers do.",
        ]
    return "\n".join(lines)


def shape_of_trained(found: Any, k: int | None, path: str) -> dict[str, Any]:
    """Return the `architecture` of dictionaries that are trained from one: it keeps how that one fires.

    Args:
        found: the dictionary.
        k: how many features are active; None if that is not known, or its thresholds decide.
        path: where it lies, which may tell the average number.
    """
    from vlmdiff.dictionaries import recognise

    of_path = AVERAGE.findall(path)
    k = k or (int(of_path[-1]) if of_path else recognise.UNTOLD)
    kind = "jumprelu" if found.k is None else "topk"
    return {"kind": kind, "d_sae": found.weights["W_enc"].shape[1], "k": k}


def activation_of(found: Any, guessed: bool) -> str:
    """Return what decides which features fire, and what is done with the input."""
    if found.k is not None:
        name = "TopK" if guessed else f"TopK with k = {found.k}"
    else:
        name = "JumpReLU" if bool((found.weights["threshold"] != 0).any()) else "ReLU"
    parts = [name]
    if found.by_norm:
        parts.append("chosen by activation times norm")
    parts.append(f"b_dec {'' if found.subtract_decoder_bias else 'not '}subtracted from the input")
    if not math.isclose(found.input_scale, 1.0):
        parts.append(f"input times {found.input_scale:.4g}")
    return ", ".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what a path is; return 1 if that cannot be told, or nothing can be done with it."""
    parser = argparse.ArgumentParser(prog="python -m vlmdiff.formats", description=__doc__)
    parser.add_argument("path", type=Path, metavar="FOLDER", help="a folder, or a file")
    try:
        print(told(parser.parse_args(arguments).path))
    except FormatError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        found = f"{error.filename} cannot be read ({error.strerror}); make it readable for you"
        print(error if isinstance(error, StorageError) else found, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
