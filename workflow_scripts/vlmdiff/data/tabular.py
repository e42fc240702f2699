"""Rows of a published table, from the hub or from local files, one after the other."""

from __future__ import annotations

import glob
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from vlmdiff.config.sources import HubSource, is_hub
from vlmdiff.data.samples import DataError
from vlmdiff.hub.fetch import HubError, explained, resolve_commit
from vlmdiff.runtime.disk_errors import StorageError, not_read
from vlmdiff.runtime.secrets import redacted

if TYPE_CHECKING:
    from datasets import IterableDataset

READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".txt": "text", ".csv": "csv"}
SHUFFLE_BUFFER = 10_000


def open_table(source: str, split: str, seed: int, config: str | None = None) -> tuple[IterableDataset, str]:
    """Open a table for streaming, shuffled through a buffer of 10,000 rows.

    Images stay bytes. Nothing but what is read is downloaded.

    Args:
        source: `hub:OWNER/NAME@REVISION`, a file, or a folder with `<split>*` files (also in `data/`).
        split: split of the source; of a single file there is only one.
        seed: order of files and rows.
        config: configuration of a data set of the hub that has several.

    Returns:
        The rows, and what was opened.

    Raises:
        DataError: there is no such source or split.
        HubError: the hub cannot be reached.
    """
    table, origin = hub_table(source, split, config) if is_hub(source) else local_table(Path(source), split)
    return table.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER), origin


def loader() -> Callable[..., IterableDataset]:
    """Return `datasets.load_dataset`, told not to report every reading, of local files too, to a server."""
    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    return datasets.load_dataset


def hub_table(source: str, split: str, config: str | None) -> tuple[IterableDataset, str]:
    """Open a data set of the hub at a pinned commit."""
    from datasets.exceptions import DatasetNotFoundError

    parsed = HubSource.parse(source)
    commit = resolve_commit(parsed, "dataset")
    try:
        with explained(parsed, "dataset"):
            table = loader()(parsed.repository, config, revision=commit, split=split, streaming=True)
    except DatasetNotFoundError as error:
        raise HubError(
            f"{source}: {redacted(str(error))}; check the name, and log in with `hf auth login` if it is "
            "gated"
        ) from error
    except ValueError as error:
        raise DataError(f"{source}: split '{split}' cannot be read: {redacted(str(error))}") from error
    return undecoded(table), f"{parsed.repository}@{commit}"


def local_table(path: Path, split: str) -> tuple[IterableDataset, str]:
    """Open local files in the layout in which the hub has them."""
    files = files_of(path, split)
    kinds = {READERS.get(file.suffix) for file in files}
    if len(kinds) != 1 or None in kinds:
        raise DataError(
            f"{path}: found {sorted({file.suffix for file in files}) or 'no files'} for split '{split}', "
            f"expected files of one kind of {sorted(READERS)} named {split}* (in the folder or in data/)"
        )
    rows = {"rows": as_they_are(files)}
    # The library wants a cache even where it keeps nothing, and HF_HOME may be read-only.
    with TemporaryDirectory(prefix="vlmdiff-") as cache:
        try:
            table = loader()(kinds.pop(), data_files=rows, split="rows", streaming=True, cache_dir=cache)
            return undecoded(table), ", ".join(file.name for file in files)
        except Exception as error:  # damaged files make readers fail in many ways
            problem = not_made(path, rows["rows"], error) or not_read(path, error)
            raise problem or unreadable(str(path), error) from error


def not_made(source: Path, files: Collection[str], error: BaseException) -> StorageError | None:
    """Return the error for a file of the library's own that it cannot use; None if it is a source's."""
    name = error.filename if isinstance(error, OSError) else None
    if name is None or source in (Path(name), *Path(name).parents) or str(name) in files:
        return None
    return StorageError(
        f"{name}: cannot be used ({error.strerror}), which the reader of {source} needs; the source may be "
        "whole: set HF_HOME and TMPDIR to folders of your own that can be written"
    )


def as_they_are(files: Sequence[Path]) -> list[str]:
    """Return files as `datasets` takes them literally; of plain names it makes patterns.

    Raises:
        DataError: a path that the library cannot take literally.
    """
    from datasets.data_files import DataFilesList

    paths = [str(file.resolve()) for file in files]
    if chained := [path for path in paths if "::" in path or "://" in path]:
        raise DataError(
            f"{chained[0]}: '::' and '://' in a path mean a chain of archives to the reader of tables; "
            "rename the folder or the file"
        )
    return DataFilesList(paths, [])


def read_rows(table: IterableDataset, source: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a table.

    Raises:
        DataError: a file of the source is damaged.
    """
    try:
        yield from table
    except (DataError, HubError):
        raise
    except Exception as error:  # damaged files make readers fail in many ways
        raise not_read(source, error) or unreadable(source, error) from error


def with_columns(table: IterableDataset, names: Sequence[str], source: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a table that has some columns.

    Raises:
        DataError: it lacks one, or a file of the source is damaged.
    """
    for row in read_rows(table, source):
        if missing := [name for name in names if name not in row]:
            raise DataError(f"{source}: columns {missing} are missing, found {sorted(row)}; correct `source`")
        yield row


def unreadable(source: str, error: Exception) -> DataError:
    """Return the error for a source whose files cannot be read."""
    cause = error.__cause__ or error
    return DataError(
        f"{source}: cannot be read ({type(cause).__name__}: {redacted(str(cause))}); the file is damaged "
        "or of another kind: correct or download it again"
    )


def files_of(path: Path, split: str) -> list[Path]:
    """Return the files of a split, in order; a single file is all of them."""
    if path.is_file():
        return [path]
    name = glob.escape(split)
    found = [*path.glob(f"{name}*"), *path.glob(f"data/{name}*")]
    return sorted(file for file in found if file.is_file())


def undecoded(table: IterableDataset) -> IterableDataset:
    """Leave images as they are stored."""
    from datasets import Image

    for name, feature in (table.features or {}).items():
        if isinstance(feature, Image):
            table = table.cast_column(name, Image(decode=False))
    return table
