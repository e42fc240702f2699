"""Bring published dictionaries into an experiment: where their files are, then what they hold."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmdiff.config.decoder import width_in
from vlmdiff.config.sources import HubSource, is_hub
from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.initial import inverse_power_of_two
from vlmdiff.dictionaries.lineage import check_lineage
from vlmdiff.dictionaries.modules import Dictionary
from vlmdiff.dictionaries.published.content import Found
from vlmdiff.dictionaries.published.convert import (
    check_converted,
    read_published,
    to_dictionary,
)
from vlmdiff.dictionaries.published.place import Place, check_place, place_of_file
from vlmdiff.dictionaries.source import OPTIONAL, PublishedSource, files_read, published_files
from vlmdiff.dictionaries.weights import DictionaryError, load_config_file
from vlmdiff.hub.fetch import commit_of, fetch_repository
from vlmdiff.runtime.disk_errors import not_read
from vlmdiff.runtime.files import replacing

log = logging.getLogger(__name__)
# Names of a cached file whose content the hub knows by this sum; of small files it is another one.
SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_dictionary(source: str, format: str, files: Mapping[int, str], output: str | Path) -> None:
    """Find a published dictionary's files, downloading what is missing, and note where they are.

    Args:
        source: local folder or `hub:OWNER/NAME@REVISION`.
        format: layout of the files.
        files: for each layer the path of its folder or file in the source.
        output: JSON file with `source`, `commit` (None unless from the hub), and by layer `files` (in the
            source) and `paths` (on this machine).

    Raises:
        HubError: the hub does not give the files.
        DictionaryError: a file is not there.
    """
    commit, paths = None, {layer: f"{source}/{file}" for layer, file in files.items()}
    if is_hub(source):
        optional = [f"{file}/{name}" for file in files.values() for name in OPTIONAL.get(format, ())]
        wanted = [*optional, *(name for file in files.values() for name in published_files(format, file))]
        folder = fetch_repository(HubSource.parse(source), [glob.escape(name) for name in wanted])
        commit = commit_of(folder)
        paths = {layer: str(folder / file) for layer, file in files.items()}
    missing = [file for path in paths.values() for file in files_read(format, path) if not file.is_file()]
    if missing:
        raise DictionaryError(
            f"{source}: {len(missing)} files are not there, first {missing[0]}; format {format} is made of "
            f"{published_files(format, '<file>')}. Correct `file` in the config; with HF_HUB_OFFLINE, the "
            "cache may lack them: fetch them on a machine with network first"
        )
    with replacing(output) as temporary:
        content = {"source": source, "commit": commit, "files": dict(files), "paths": paths}
        temporary.write_text(json.dumps(content, indent=2) + "\n")
    log.info("%s: files of %d layers found", source, len(paths))


def import_dictionary(
    sources: str | Path,
    layer: int,
    format: str,
    options: Mapping[str, Any],
    shape: tuple[int | None, int],
    facts: Mapping[str, Any],
    folder: str | Path,
    initial: str | Path | None = None,
    models: Sequence[str] = (),
    needs_scale: bool = False,
) -> None:
    """Convert one layer of a published dictionary to this project's conventions and layout.

    Args:
        sources: what `fetch_dictionary` wrote.
        layer: decoder block.
        format: layout of the files.
        options: `k`, `subtract_decoder_bias` and `input_scale`; None where files tell.
        shape: `d_model` of the model under study (None if unknown) and `d_sae` of the experiment.
        facts: plain values to keep in `cfg.json`.
        folder: receives `sae_weights.safetensors` and `cfg.json`.
        initial: folder of the dictionary whose feature indices it keeps; None if of none.
        models: sources of the experiment's models, for a warning.
        needs_scale: trainings start from it, and their input scale is not estimated.

    Raises:
        DictionaryError: a file is missing or damaged, has no equal here, does not fit the experiment, does
            not keep the indices of `initial`, or tells no input scale where one is needed.
    """
    noted = read_sources(sources, layer)
    path = noted["paths"][str(layer)]
    found = read_published(PublishedSource(format, path, **options))
    check_place(found.place | place_of_layer(noted, format, layer), path, layer)
    dictionary = to_dictionary(found)
    check_converted(dictionary, path)
    check_shape(dictionary, path, shape)
    warn_of_another_model(found.model, models, path)
    scale = training_scale(found, options.get("input_scale"), format, path, initial)
    if needs_scale:
        check_scale(scale, path)
    kinship = {}
    if initial is not None:
        kinship["median_cosine"] = check_lineage(dictionary.W_dec.detach().numpy(), initial, path)
    provenance = {
        **facts,
        **kinship,
        **scale,
        "layer": layer,
        "source": noted["source"],
        "commit": noted["commit"],
        "format": format,
        "file": noted["files"][str(layer)],
        "sha256": {file.name: digest(file) for file in files_read(format, path)},
        "published_input_scale": found.input_scale,
        "published_model": found.model,
        "hook": next((names[0] for names in found.place.names.values()), None),
    }
    save_dictionary(dictionary, folder, provenance)


def place_of_layer(noted: Mapping[str, Any], format: str, layer: int) -> Place:
    """Return what the path of a layer's file tells; that it is a crosscoder is no other place for one."""
    place = place_of_file(noted["source"], noted["files"][str(layer)])
    if format != "crosscoder":
        return place
    return replace(place, other={key: one for key, one in place.other.items() if "cross" not in one.lower()})


def read_sources(sources: str | Path, layer: int) -> dict[str, Any]:
    """Read what `fetch_dictionary` wrote, with the places of a layer.

    Raises:
        DictionaryError: the file is damaged, or does not name the layer.
    """
    try:
        noted = json.loads(Path(sources).read_text())
        places = [noted[key][str(layer)] for key in ("paths", "files")]
        if not all(isinstance(place, str) for place in [*places, noted["source"]]):
            raise TypeError("a path is no text")
        return {"commit": None, **noted}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise not_read(sources, error) or DictionaryError(
            f"{sources}: does not say where the dictionary of layer {layer} is ({type(error).__name__}: "
            f"{error}); delete the file and run snakemake again, which remakes it"
        ) from error


def check_shape(dictionary: Dictionary, path: str, shape: tuple[int | None, int]) -> None:
    """Refuse a dictionary of another width than the model's or another size than the experiment's.

    Raises:
        DictionaryError: naming both.
    """
    found = (dictionary.d_model, dictionary.d_sae)
    expected = (found[0] if shape[0] is None else shape[0], shape[1])
    if found != expected:
        raise DictionaryError(
            f"{path}: found (d_model, d_sae) = {found}, expected {expected} from the model under study and "
            "`architecture.d_sae`; set `architecture.d_sae`, or name a dictionary made for this model"
        )


def warn_of_another_model(name: Any, models: Sequence[str], path: str) -> None:
    """Log a warning if a dictionary was trained on a model that no model of the experiment is named after.

    Names alone decide nothing: a dictionary of the base model is used on its tuned versions.
    """

    def plain(one: str) -> str:
        return re.sub(r"[^a-z0-9]", "", one.rpartition("/")[2].partition("@")[0].lower())

    known = [plain(one) for one in models if is_hub(one)]
    if isinstance(name, str) and known and not any(plain(name) in one or one in plain(name) for one in known):
        log.warning(
            "%s: was trained on %s; the models of this experiment are %s. Features of another model mean "
            "nothing here: correct `source` and `file` unless it is the same model by another name",
            path, name, list(models),
        )  # fmt: skip


def training_scale(
    found: Found, given: float | None, format: str, path: str, initial: str | Path | None
) -> dict[str, Any]:
    """Return the input scale of all trainings that start from a dictionary, where something tells it.

    It is that of the dictionary whose indices it keeps and no other, else the one at which this project
    trained it, else the power of two nearest to the inverse of the average norm that the files or the config
    tell: an input scale `s` is sqrt(d_model) / average norm. Files that expect the residual stream as it is
    tell no norm; a scale in the config does, also if it is 1.

    Args:
        found: what the files hold.
        given: input scale of the config; None if it gives none.
        format, path: of the files.
        initial: folder of the dictionary whose indices it keeps; None if of none.

    Returns:
        for `cfg.json`; nothing if it has to be estimated.
    """
    noted = initial or (path if format == "vlmdiff" else None)
    scale = load_config_file(noted).get("metadata", {}).get("input_scale") if noted else None
    if scale is None and initial is None and (found.tells_norm or given is not None):
        norm = math.sqrt(found.weights["W_enc"].shape[0]) / found.input_scale
        scale = inverse_power_of_two(norm)
    return {} if scale is None else {"input_scale": scale}


def check_scale(scale: Mapping[str, Any], path: str) -> None:
    """Refuse a dictionary without an input scale before trainings that start from it wait for their data.

    Raises:
        DictionaryError: nothing tells one.
    """
    if not scale:
        raise DictionaryError(
            f"{path}: nothing tells the input scale of the trainings that start from it: its files were "
            "folded or never noted one. Name `scale_on` in its entry in the config, a dictionary that is "
            "trained from it and on whose tokens it is estimated, or give `input_scale` (sqrt(d_model) / "
            "average norm of the residual stream)"
        )


def digest(file: Path) -> str:
    """Return a file's SHA-256, by which the hub's cache names the large files that it links to.

    Raises:
        DictionaryError: the file in the cache is not the one that the hub has.
    """
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    kept = file.resolve()
    if kept.parent.name == "blobs" and SHA256.fullmatch(kept.name) and kept.name != found:
        raise DictionaryError(
            f"{file}: its SHA-256 is {found}, expected {kept.name}: it was damaged since the download. "
            f"Delete {kept} and the dictionary's sources.json, and run snakemake again"
        )
    return found


def expected_width(config: str | Path, format: str) -> int | None:
    """Return the width of what a dictionary reads, of a crosscoder two residual streams; None if not known.

    Raises:
        DictionaryError: as of `model_width`.
    """
    width = model_width(config)
    return 2 * width if width is not None and format == "crosscoder" else width


def model_width(config: str | Path) -> int | None:
    """Return the width of a model's residual stream from its `config.json`; None if that leaves it out.

    Raises:
        DictionaryError: the file is damaged.
    """
    try:
        return width_in(json.loads(Path(config).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise not_read(config, error) or DictionaryError(
            f"{config}: not a model's configuration ({type(error).__name__}: {error}); fetch or copy the "
            "checkpoint again"
        ) from error
