"""Dictionaries named by SAELens' list of releases: the hub's repository, files and format that are meant.

The list is a file of the installed sae-lens package. It is read when a configuration is loaded; no code of
the package runs for it. What comes out is an entry as one could have written it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from vlmdiff.config.places import HUB, RELEASE
from vlmdiff.config.plain import Values, section

LIST = "pretrained_saes.yaml"
# The format of each converter of the list, and what places say in it that are outputs of a block.
FORMATS: dict[str | None, tuple[str, str]] = {
    None: ("saelens", "^(?!.*(att|mlp|resid-mid))"),
    "dictionary_learning_1": ("dictionary_learning", r"/resid_post_layer_\d+/"),
    "gemma_2": ("gemma_scope", "-res/layer_"),
    "gemma_3": ("gemma_scope_2", "/resid_post(_all)?/"),
    "llama_scope": ("llama_scope", "-LXR-"),
    "qwen_scope": ("qwen_scope", "/SAE-Res-"),
}
# What the list may say of a release beyond its files without meaning another dictionary or model.
HARMLESS = {"dataset_path", "hook_name", "model_name"}
FACTOR = "norm_scaling_factor"
# The part of a path that differs from layer to layer, in `by_layer`.
RELEASE_PATH = "release_path"
MOST_LAYERS = 512


def resolved(values: Any) -> Any:
    """Return a configuration with the repository in the place of each release that a dictionary names.

    Args:
        values: plain values; what is malformed is left for the schema to refuse.

    Raises:
        ValueError: sae-lens is not installed, or the release, its format or an id is not known; the message
            names the key.
    """
    if not isinstance(values, Mapping):
        return values
    found = {
        name: {**entry, **meant(f"dictionaries.{name}", entry)}
        for name, entry in section(values, "dictionaries").items()
        if isinstance(entry, Mapping) and str(entry.get("source")).startswith(RELEASE)
    }
    return {**values, "dictionaries": {**section(values, "dictionaries"), **found}} if found else values


def meant(key: str, entry: Mapping[str, Any]) -> Values:
    """Return source, format, file and options that an entry's release and ids stand for.

    Args:
        key: of the entry.
        entry: with a `source` of SAELens' list; its `file` is the id.

    Raises:
        ValueError: as of `resolved`.
    """
    name, _, revision = str(entry["source"]).removeprefix(RELEASE).partition("@")
    release = release_of(f"{key}.source", name)
    repository, format = release["repo_id"], format_of(f"{key}.source", name, release)
    if not revision:
        raise ValueError(
            f"{key}.source: found '{entry['source']}', expected {RELEASE}{name}@REVISION. The list names no "
            f"commit: copy one from https://huggingface.co/{repository}/commits/main, or write "
            "@main for the one that is the newest at the first run"
        )
    if entry.get("format", format) != format:
        raise ValueError(
            f"{key}.format: found '{entry['format']}', expected {format} of release '{name}'; leave it out"
        )
    chosen = chosen_of(key, name, release, entry)
    told = {k: v for k, v in options(format, repository, chosen).items() if entry.get(k) is None}
    found = {"source": f"{HUB}{repository}@{revision}", "format": format} | told
    return found | (files(entry["file"], chosen) if chosen else {})


def release_of(key: str, name: str) -> Values:
    """Return a release's entry of the list, of which nothing else is parsed.

    Raises:
        ValueError: the list is not there, or has no such release.
    """
    package = find_spec("sae_lens")
    if package is None or not package.submodule_search_locations:
        raise ValueError(
            f"{key}: found '{RELEASE}{name}', but the package sae-lens is not installed, whose list tells "
            "what that is; run `pip install sae-lens`, or name the repository as hub:OWNER/NAME@REVISION "
            "with its format and files"
        )
    file = Path(package.submodule_search_locations[0], LIST)
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    lines = re.search(rf"^{re.escape(name)}:[ ]*\n(?:[ #-].*\n|\n)+", f"{text}\n", re.MULTILINE)
    if lines is None:
        known = re.findall(r"^([^\s#:]+):", text, re.MULTILINE)
        remedy = f"; a repository is {HUB}{name}, with `format: saelens`" if "/" in name else ""
        raise ValueError(f"{key}: {unknown(name, f'releases of {file}', known)}{remedy}")
    (found,) = yaml.load(lines[0], Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)).values()
    entries = found.get("saes") if isinstance(found, dict) else None
    if not entries or "repo_id" not in found or not all({"id", "path"} <= set(one) for one in entries):
        raise ValueError(
            f"{key}: {file} tells no repository or files of '{name}' as sae-lens 6 does; install that, or "
            "name the repository as hub:OWNER/NAME@REVISION"
        )
    return found


def unknown(found: Any, what: str, known: Collection[str]) -> str:
    """Say that a name is none of those that are known, and which ones are like it."""
    some = get_close_matches(str(found), known, n=3, cutoff=0.3) or list(known)[:3]
    return f"found '{found}', expected one of the {len(known)} {what}, such as {', '.join(some)}"


def format_of(key: str, name: str, release: Mapping[str, Any]) -> str:
    """Return the format of a release here.

    Raises:
        ValueError: it is not read here, or SAELens changes what the files say.
    """
    converter = release.get("conversion_func")
    if converter not in FORMATS:
        raise ValueError(
            f"{key}: release '{name}' is in the format {converter}, which is not read here; read are "
            f"{', '.join(filter(None, FORMATS))} and SAELens' own"
        )
    overrides = release.get("config_overrides") or {}
    if changed := {one: value for one, value in overrides.items() if one not in HARMLESS}:
        raise ValueError(
            f"{key}: SAELens reads release '{name}' with {changed}, which has no equal here; name another one"
        )
    return FORMATS[converter][0]


def chosen_of(
    key: str, name: str, release: Mapping[str, Any], entry: Mapping[str, Any]
) -> dict[int, Mapping[str, Any]]:
    """Return by layer what the list says of the ids that `file` stands for; nothing if it is malformed.

    Raises:
        ValueError: no layer's id is known, or one is not of the residual stream after a block.
    """
    ids = ids_by_layer(entry.get("file"), entry.get("by_layer"))
    known = {str(one["id"]): one for one in release["saes"]}
    chosen = {layer: known[one] for layer, one in ids.items() if one in known}
    if ids and not chosen:
        raise ValueError(f"{key}.file: {unknown(entry['file'], f'ids of release {name}', known)}")
    place = FORMATS[release.get("conversion_func")][1]
    for path in (f"{release['repo_id']}/{one['path']}" for one in chosen.values()):
        if not re.search(place, path):
            raise ValueError(
                f"{key}.file: found '{entry['file']}', which is {path}, expected a dictionary of the "
                f"residual stream after a block ('{place}' in that path); name another id or release"
            )
    return chosen


def ids_by_layer(file: Any, by_layer: Any) -> dict[int, str]:
    """Return the id of each layer that a pattern may stand for; nothing if it is malformed."""
    try:
        values = {name: {int(k): v for k, v in one.items()} for name, one in (by_layer or {}).items()}
        layers = set(range(MOST_LAYERS)).intersection(*values.values())
        return {
            layer: file.format(layer=layer, **{name: one[layer] for name, one in values.items()})
            for layer in sorted(layers)
        }
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return {}


def files(pattern: str, chosen: Mapping[int, Mapping[str, Any]]) -> Values:
    """Return the entry's `file` and `by_layer`: paths in a repository."""
    paths = {layer: str(one["path"]) for layer, one in chosen.items()}
    if "{" not in pattern:
        return {"file": next(iter(paths.values())), "by_layer": {}}
    return {"file": f"{{{RELEASE_PATH}}}", "by_layer": {RELEASE_PATH: paths}}


def options(format: str, repository: str, chosen: Mapping[int, Mapping[str, Any]]) -> Values:
    """Return what the list tells and the files do not: `k` of Qwen Scope, scales of SAELens' own format."""
    if format == "qwen_scope" and (told := re.search(r"-L0_(\d+)$", repository)):
        return {"k": int(told[1])}
    scales = {layer: one[FACTOR] for layer, one in chosen.items() if FACTOR in one}
    return {"input_scale": scales} if format == "saelens" and scales else {}
