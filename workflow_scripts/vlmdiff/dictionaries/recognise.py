"""Which published dictionaries a file or folder holds, by their files, and the entry that imports them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmdiff.config.checkpoint_files import cut_off, read_header
from vlmdiff.dictionaries.files import is_own
from vlmdiff.dictionaries.local_dictionaries import npz_shape, shape_of
from vlmdiff.dictionaries.published.content import Found, read_json
from vlmdiff.dictionaries.published.convert import check_converted, read_published, to_dictionary
from vlmdiff.dictionaries.published.mmdiff import mappings, read_pickle
from vlmdiff.dictionaries.published.place import (
    Place,
    block_after,
    check_place,
    place_in,
    place_in_path,
    place_of_file,
)
from vlmdiff.dictionaries.source import FILES, PublishedSource, formats_in, published_files
from vlmdiff.dictionaries.weights import DictionaryError

# How deep folders are looked into, and how many of them.
DEEPEST, MOST_FOLDERS = 6, 5000
# Stands for a number that nothing tells; a configuration that holds it is refused.
UNTOLD = "FILL_IN"
QWEN_FILE, QWEN_K = ".sae.pt", re.compile(r"L0_(\d+)")
CROSSCODER = "crosscoder"


@dataclass(frozen=True)
class Candidate:
    """A dictionary's format, and its folder or file."""

    format: str
    path: Path


def dictionaries_in(path: Path) -> list[Candidate]:
    """Return the dictionary that a file or folder is, else those in the folders below it, sorted by path."""
    if path.is_file():
        return in_file(path)
    if found := in_folder(path):
        return found
    found = [one for folder in folders_below(path)[0] for one in in_folder(folder)]
    return sorted(found, key=lambda one: natural(str(one.path)))


def folders_below(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders below one that are looked into, and the first that are not, if there are more."""
    level, found = [path], []
    for _ in range(DEEPEST):
        level = [one for folder in level for one in subfolders(folder)]
        if len(found) + len(level) > MOST_FOLDERS:
            return found, level
        found += level
    return found, [one for folder in level for one in subfolders(folder)]


def natural(text: str) -> list[tuple[int, str]]:
    """Return a key by which `layer_10` comes after `layer_9`."""
    return [(int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", text)]


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in one, hidden ones aside; none if it cannot be read."""
    try:
        return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    except OSError:
        return []


def in_file(path: Path) -> list[Candidate]:
    """Return the dictionary that a file is, or is the one part or the other of."""
    for kind, names in FILES.items():
        for name in names:
            folder = Path(*path.parts[: len(path.parts) - len(Path(name).parts)])
            if folder / name == path and (found := in_folder(folder)) and found[0].format == kind:
                return found
    kind = format_of_file(path)
    return [] if kind is None else [Candidate(kind, path)]


def in_folder(folder: Path) -> list[Candidate]:
    """Return the dictionary that a folder is, or those of its files; none if there are none."""
    whole = formats_in(folder)
    if "saelens" in whole:
        return [Candidate("vlmdiff" if is_own(folder) else "saelens", folder)]
    if "dictionary_learning" in whole and format_of_file(folder / "ae.pt") == CROSSCODER:
        return [Candidate(CROSSCODER, folder / "ae.pt")]
    if whole:
        return [Candidate(whole[0], folder)]
    try:
        told = (one for one in folder.iterdir() if one.suffix in (".pt", ".safetensors"))
        # Neither a folder that is called so, nor a pipe, which would never end.
        files = sorted(one for one in told if one.is_file())
    except OSError:
        return []
    # Files of one folder and kind are alike: the first one tells.
    found = {suffix: [one for one in files if one.suffix == suffix] for suffix in (".pt", ".safetensors")}
    kinds = {suffix: format_of_file(some[0]) for suffix, some in found.items() if some}
    return [Candidate(kind, one) for suffix, kind in kinds.items() if kind for one in found[suffix]]


def format_of_file(path: Path) -> str | None:
    """Return the format of a dictionary that is one file; None if the file is none, or cannot be read."""
    if path.suffix == ".npz":
        try:
            return "gemma_scope" if npz_shape(path, "W_dec")[0] else None
        except ValueError:
            return None
    if path.suffix == ".safetensors":
        told = {} if cut_off(path) else read_header(path)
        shapes = {name: len(entry.get("shape", ())) for name, entry in told.items()}
    elif path.suffix == ".pt":
        try:
            content = read_pickle(path)
        except DictionaryError:
            return None
        tensors = {str(name): value for one in mappings(content) for name, value in one.items()}
        shapes = {name: value.dim() for name, value in tensors.items() if hasattr(value, "dim")}
    else:
        return None
    if 3 in (shapes.get(f"{prefix}encoder.weight") for prefix in ("", "_orig_mod.")):
        return CROSSCODER
    if "W_enc" in shapes and "W_dec" in shapes and path.suffix == ".pt":
        return "qwen_scope" if path.name.endswith(QWEN_FILE) else "mmdiff"
    return None


def untold_k(candidate: Candidate) -> tuple[int | None, bool]:
    """Return the `k` that no file of a dictionary tells, and whether it is a guess.

    None where its files tell it; of Qwen Scope the one that the names of its folders tell; else 1, by which
    it can be read.
    """
    if candidate.format == "qwen_scope":
        told = QWEN_K.findall(str(candidate.path.absolute()))
        return (int(told[-1]), False) if told else (1, True)
    if candidate.format == "mmdiff":
        names = {str(name) for one in mappings(read_pickle(candidate.path)) for name in one}
        return (None, False) if names & {"threshold", "log_threshold"} else (1, True)
    return None, False


def read_candidate(candidate: Candidate, root: Path) -> tuple[Found, int | None]:
    """Read a dictionary, and the layer that its files or its path tell.

    Args:
        candidate: the dictionary.
        root: the source, from which its path counts.

    Raises:
        DictionaryError: it cannot be imported.
    """
    found = read_published(PublishedSource(candidate.format, candidate.path, untold_k(candidate)[0]))
    place = found.place | place_of(candidate, root)
    layer = layer_told(place)
    check_place(place, candidate.path, max(0, layer or 0))
    check_converted(to_dictionary(found), candidate.path)
    return found, layer


def check_alike(candidates: Iterable[Candidate], shape: tuple[int, int]) -> None:
    """Refuse dictionaries that are damaged or of another size than the first, as far as headers tell.

    Args:
        candidates: those of the other layers.
        shape: (d_model, d_sae) of the first.

    Raises:
        DictionaryError: naming the first that is not like it.
    """
    for one in candidates:
        try:
            found = shape_of(one.format, list(map(Path, published_files(one.format, str(one.path)))))
        except ValueError as error:
            raise DictionaryError(str(error)) from error
        if found not in (None, shape):
            raise DictionaryError(
                f"{one.path}: found (d_model, d_sae) = {found}, expected {shape} as of the first; name "
                "a folder whose dictionaries are all of one size"
            )


def place_of(candidate: Candidate, root: Path) -> Place:
    """Return what the path of a dictionary and its configuration tell, without its weights."""
    place = place_of_file(str(root), str(candidate.path.relative_to(root)))
    if candidate.format == CROSSCODER:
        others = {key: one for key, one in place.other.items() if "cross" not in one.lower()}
        place = replace(place, other=others)
    for name in FILES[candidate.format]:
        if name.endswith(".json"):
            place = place_in(read_json(candidate.path / name), candidate.path) | place
    return place


def layer_told(place: Place) -> int | None:
    """Return the decoder block after which a place is; None if nothing tells one."""
    for names in place.names.values():
        if (block := block_after(names[0])) is not None:
            return block
    numbers = [number for some in place.numbers.values() for number in some]
    return numbers[0] - bool(place.before) if numbers else None


def root_of(candidates: Sequence[Candidate], given: Path) -> Path:
    """Return the folder to name as the source: the given one, or one above what tells the layer.

    Args:
        candidates: what was found.
        given: where it was looked for.
    """
    path = candidates[0].path
    if len(candidates) > 1 or (given not in (path, path.parent) and path not in given.parents):
        return given
    above = path.parent
    for folder in (path, *list(path.parents)[:DEEPEST]):
        if layer_told(place_of_file(".", folder.name)) is not None and folder.parent != folder:
            above = folder.parent
            break
    return above


def entry_for(candidates: Iterable[Candidate], layers: Sequence[int | None], root: Path) -> dict[str, Any]:
    """Return what to write about dictionaries of one format, one a layer, into the configuration.

    Args:
        candidates: the dictionaries.
        layers: of each; None for a single one whose layer nothing tells.
        root: their source.

    Raises:
        DictionaryError: several are of one layer.
    """
    candidates = list(candidates)
    if twice := [layer for layer, count in Counter(layers).items() if count > 1]:
        some = [str(one.path) for one, layer in zip(candidates, layers, strict=True) if layer == twice[0]]
        raise DictionaryError(
            f"{root}: holds {len(candidates)} dictionaries, of which {len(some)} are of layer {twice[0]} "
            f"({', '.join(some[:2])}, …); name the folder of one of them"
        )
    files = [str(one.path.relative_to(root)) for one in candidates]
    k, guessed = untold_k(candidates[0])
    return {
        "source": str(root),
        "format": candidates[0].format,
        **named_files(dict(zip(layers, files, strict=True))),
        **({} if k is None else {"k": UNTOLD if guessed else k}),
        **({"base_model": "base_lm"} if candidates[0].format == CROSSCODER else {}),
    }


def named_files(files: Mapping[int | None, str]) -> dict[str, Any]:
    """Return `file`, with `{layer}` in the place of the number, or each layer's path in `by_layer`.

    Args:
        files: of each layer; None for one whose layer nothing tells.
    """
    patterns = [patterns_of(file, layer) for layer, file in files.items()]
    common = sorted(set.intersection(*patterns), key=len)
    # In `layer_16/width_16k`, one of the two numbers is that of a layer.
    following = [one for one in common if layer_told(place_in_path(one.format(layer=98))) == 98]
    if following or (common and len(files) > 1):
        return {"file": [*following, *common][0]}
    if len(files) == 1:
        return {"file": literal(next(iter(files.values())))}
    return {"file": "{path}", "by_layer": {"path": dict(files)}}


def literal(file: str) -> str:
    """Return a path as `file` has it, which reads braces as names."""
    return file.replace("{", "{{").replace("}", "}}")


def patterns_of(file: str, layer: int | None) -> set[str]:
    """Return a path with `{layer}` for its number, once for each place where that stands, and for all."""
    plain = literal(file)
    places = list(re.finditer(rf"(?<!\d){layer}(?!\d)", plain))
    single = {f"{plain[: one.start()]}{{layer}}{plain[one.end() :]}" for one in places}
    return single | ({re.sub(rf"(?<!\d){layer}(?!\d)", "{layer}", plain)} if places else set())
