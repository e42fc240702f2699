"""The files of a checkpoint in a folder: which are there, which are missing, which are cut off."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Where transformers looks for weights, in its order; an index names several files.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
TOKENIZERS += ("sentencepiece.bpe.model", "source.spm", "vocab.bpe", "*.tiktoken")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
ADAPTER = "adapter_config.json"
# What folders hold in place of a checkpoint, and what to do; the first that is found counts.
OTHERS = (
    (
        (ADAPTER,),
        "a LoRA adapter, not a whole model; merge it into its base model (`merge_and_unload()` of peft) and "
        "save that with `save_pretrained`",
    ),
    (("*.gguf",), "a GGUF file, which transformers does not load; use the checkpoint that it was made from"),
    (
        ("consolidated*", "params.json"),
        "weights in their authors' own format; use the repository in transformers' format (`…-hf`)",
    ),
    (
        ("tf_model.h5", "flax_model*.msgpack"),
        "weights of TensorFlow or Flax; load them once in transformers (`from_tf`, `from_flax`) and save "
        "them with `save_pretrained`",
    ),
)
POINTER = b"version https://git-lfs"
LARGEST_HEADER = 100 * 2**20
SHOWN = 3
AGAIN = "fetch or copy the checkpoint again"


def something_else(place: Path) -> str | None:
    """Say what a file or folder is that holds no checkpoint, and what to do; None if nothing tells."""
    for patterns, what in OTHERS:
        for pattern in patterns:
            if place.match(pattern) and place.is_file():
                return f"{place} is {what}"
            if place.is_dir() and (found := sorted(place.glob(pattern))):
                return f"{found[0]} is {what}"
    return None


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: naming the file, what is wrong with it and what to do.
    """
    start = b""
    try:
        start = file.read_bytes()
        found = json.loads(start)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, OSError):
            raise ValueError(f"{file} cannot be read ({error.strerror}); make it readable for you") from error
        if start.startswith(POINTER):
            raise ValueError(pointer_problem(file)) from error
        raise ValueError(f"{file} is no JSON or cut off ({error}); {AGAIN}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(found).__name__}; {AGAIN}")
    return found


def pointer_problem(file: Path) -> str:
    """Say that a file of git-lfs was not fetched."""
    return f"{file} is a pointer of git-lfs and not the file itself; run `git lfs pull` in its folder"


def listed(names: list[str]) -> str:
    """Write some names, the first ones only if there are many."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def weight_problems(folder: Path) -> Iterator[str]:
    """Yield what is wrong with the weights of a checkpoint: absent, not all there, or cut off."""
    used = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if used is None:
        others = sorted(file.name for file in folder.glob("*.safetensors"))
        found = f"found {listed(others)} in {folder}, " if others else f"{folder} holds no weights, "
        yield (
            something_else(folder)
            or f"{found}expected {WEIGHTS[0]}, or {WEIGHTS[1]} and the files that it names; {AGAIN}"
        )
        return
    if (folder / ADAPTER).is_file():
        yield (
            f"{folder} holds a whole model and a LoRA adapter ({ADAPTER}), of which only the model would be "
            "read; merge them (`merge_and_unload()` of peft), or take the adapter's files out of the folder"
        )
    names = [used.name]
    if used.suffix == ".json":
        try:
            index = read_object(used).get("weight_map")
        except ValueError as error:
            yield str(error)
            return
        if not isinstance(index, dict) or not index:
            yield f"{used}: expected a `weight_map` that names the files of the weights; {AGAIN}"
            return
        names = sorted({str(name) for name in index.values()})
        if missing := [name for name in names if not (folder / name).exists()]:
            there = f"{len(missing)} of them are not there: {listed(missing)}"
            yield f"{used} names {len(names)} files, and {there}; {AGAIN}"
    yield from filter(None, (cut_off(folder / name) for name in names if (folder / name).exists()))


def cut_off(file: Path) -> str | None:
    """Say whether a file of weights is not whole, by its header; None if nothing tells that."""
    try:
        with file.open("rb") as stream:
            start = stream.read(len(POINTER))
            if start == POINTER:
                return pointer_problem(file)
            if file.suffix != ".safetensors":
                return None
            (length,) = struct.unpack("<Q", start[:8])
        ends = [entry["data_offsets"][1] for entry in read_header(file).values()]
        expected, found = 8 + length + max(ends, default=0), file.stat().st_size
    except OSError as error:
        return f"{file} cannot be read ({error.strerror}); make it readable for you"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error, RecursionError):
        return f"{file} is no file of safetensors, or cut off; {AGAIN}"
    return None if found == expected else f"{file}: found {found} bytes, expected {expected}; {AGAIN}"


def read_header(file: Path) -> dict[str, Any]:
    """Return what the header of a file of safetensors tells of each tensor.

    Raises:
        OSError: the file cannot be read.
        ValueError, struct.error, AttributeError: it is no such file.
    """
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(min(length, LARGEST_HEADER)))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def absent(folder: Path, names: tuple[str, ...], what: str) -> str | None:
    """Say that a folder has none of several files; None if it has one."""
    if any(True for name in names for _ in folder.glob(name)):
        return None
    return (
        f"{folder} holds no {what}, expected {' or '.join(names[:2])}; copy the file there from the "
        "published checkpoint"
    )


def weight_names(folder: Path) -> set[str]:
    """Return the names of a checkpoint's weights; none if its files do not tell them quickly."""
    single, index = (folder / name for name in WEIGHTS[:2])
    try:
        if not single.is_file():
            return set(read_object(index)["weight_map"])
        return set(read_header(single))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError):
        return set()
