"""Published dictionaries in folders: which files are missing, and which are made for another model."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from vlmdiff.config.absent import is_there
from vlmdiff.config.checkpoint_files import cut_off, read_header, read_object
from vlmdiff.config.dictionaries import PublishedDictionary
from vlmdiff.config.local_checkpoints import width_of
from vlmdiff.config.schema import Config
from vlmdiff.config.sources import is_local
from vlmdiff.dictionaries.source import formats_in, published_files


def dictionary_problems(config: Config) -> list[str]:
    """Return a line for whatever published dictionaries in folders tell against the configuration.

    What is not there at all is left to `missing_files`, what only the weights tell to `import_dictionary`.
    """
    lines = []
    for name, entry in config.published().items():
        if is_local(entry.source):
            lines += [f"dictionaries.{name}.{line}" for line in entry_problems(config, entry)]
    return lines


def entry_problems(config: Config, entry: PublishedDictionary) -> Iterator[str]:
    """Yield what is wrong with the files of a dictionary, the first layer's of each kind."""
    width, size = width_of(config, config.diff.model), config.architecture.d_sae
    for path in (f"{entry.source}/{entry.path(layer)}" for layer in config.layers):
        if not is_there(path):
            continue
        files = [Path(file) for file in published_files(entry.format, path)]
        if missing := [file for file in files if not file.is_file()]:
            names = ", ".join(published_files(entry.format, "<file>"))
            others = " or ".join(formats_in(Path(path)))
            yield (
                f"file: {missing[0]} is not there; format {entry.format} is made of {names}; correct `file` "
                f"or `format`{f' (what is there is {others})' if others else ''}"
            )
            return
        try:
            found = shape_of(entry.format, files)
        except ValueError as error:
            yield f"file: {error}"
            return
        expected = (found[0] if width is None else width, size) if found else None
        if found != expected:
            yield (
                f"file: {path} has (d_model, d_sae) = {found}, expected {expected}: the width of model "
                f"'{config.diff.model}' and `architecture.d_sae`; set that, or name a dictionary made for "
                "this model"
            )
            return


def shape_of(kind: str, files: list[Path]) -> tuple[int, int] | None:
    """Return (d_model, d_sae) of a dictionary by the headers of its files; None if they do not tell it.

    Args:
        kind: layout in which it was published.
        files: its files, in the order of `source.FILES`.

    Raises:
        ValueError: a file is damaged; the message says which and what to do.
    """
    for file in files:
        if file.suffix == ".json":
            read_object(file)
        elif file.suffix == ".safetensors" and (problem := cut_off(file)):
            raise ValueError(problem)
    last = files[-1]
    if kind == "dictionary_learning":
        trainer = read_object(files[0]).get("trainer")
        told = trainer if isinstance(trainer, dict) else {}
        d_model, d_sae = told.get("activation_dim"), told.get("dict_size")
        return (d_model, d_sae) if isinstance(d_model, int) and isinstance(d_sae, int) else None
    if kind == "gemma_scope" or last.suffix == ".npz":
        d_sae, d_model = npz_shape(last, "W_dec")
    elif kind == "llama_scope":
        d_model, d_sae = read_header(last).get("decoder.weight", {}).get("shape", (None, None))
    elif last.suffix == ".safetensors":
        header = read_header(last)
        rows = next((header[name] for name in ("W_dec", "w_dec", "W_D") if name in header), {})
        d_sae, d_model = rows.get("shape", (None, None))
    else:
        return None
    return None if d_model is None else (d_model, d_sae)


def npz_shape(file: Path, name: str) -> tuple[int, int] | tuple[None, None]:
    """Return the shape of a matrix in a file of NumPy; two times None if it has none of the name.

    Raises:
        ValueError: the file is damaged.
    """
    from numpy.lib import format as npy

    try:
        with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as stream:
            version = npy.read_magic(stream)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape = read(stream)[0]
    except KeyError:
        return None, None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{file} is no file of NumPy, or cut off ({error}); fetch or copy it again"
        ) from error
    return shape if len(shape) == 2 else (None, None)
