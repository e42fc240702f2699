"""What a job left behind: for each output its checksum and where it comes from.

The record of `results/<experiment>/a/b.csv` is `results/<experiment>/provenance/a/b.csv.json`. The job that
writes an output writes its record; a job that reads the output compares it first, and so does
`snakemake verify`. A file without a record, such as the user's own, is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from vlmdiff.runtime.disk_errors import not_read
from vlmdiff.runtime.files import replacing
from vlmdiff.runtime.hdf5 import open_hdf5

FOLDER = "provenance"
READ_BYTES = 2**22


class DamagedFileError(ValueError):
    """A file is not what the job that wrote it left behind; the message says what to do."""


@dataclass(frozen=True)
class Problem:
    """A file that differs from its record.

    Attributes:
        output: the output of a job, the file itself or the folder that holds it.
        path: the file.
        found: what is wrong with it, in words.
        missing: there is no file.
    """

    output: Path
    path: Path
    found: str
    missing: bool = False


def record_path(path: str | Path) -> Path | None:
    """Return where the record of an output lies; None for files that are not results."""
    parts = Path(path).parts
    if len(parts) < 3 or parts[0] != "results" or parts[2] == FOLDER:
        return None
    return Path(parts[0], parts[1], FOLDER, *parts[2:-1], parts[-1] + ".json")


def described_path(record: Path, experiment: Path) -> Path:
    """Return the output of an experiment that a record describes: the inverse of `record_path`."""
    place = record.relative_to(experiment / FOLDER)
    return experiment / place.with_name(place.name.removesuffix(".json"))


def bytes_checksum(path: Path) -> str:
    """Return the XXH3-128 checksum of a file's bytes; of a link, the name of what it leads to.

    Links lead into the hub's cache, which names files by their contents.
    """
    if path.is_symlink():
        return f"link {path.readlink().name}"
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while part := file.read(READ_BYTES):
            digest.update(part)
    return digest.hexdigest()


def stated_checksum(path: Path) -> str:
    """Return the checksum of what an HDF5 file states of itself: all its attributes.

    A shard's attributes name its origin and hold a checksum of every object, which whoever reads an object
    compares. So a foreign or exchanged shard is noticed without reading gigabytes.

    Raises:
        Exception: of HDF5's, of any kind, if the file is damaged or none of its own.
    """
    digest = xxhash.xxh3_128()

    def add(name: str, item: Any) -> None:
        for key in sorted(item.attrs):
            digest.update(f"{name} {key} {item.attrs[key]!r}\n".encode())

    with open_hdf5(path) as file:
        add("", file)
        file.visititems(add)
    return digest.hexdigest()


def files_of(path: Path) -> dict[str, Path]:
    """Return the files of an output by their place in it: one, named `.`, or those of a folder.

    Hidden files are left out: Snakemake marks folders with one.
    """
    if not path.is_dir():
        return {".": path}
    files = [file for file in sorted(path.rglob("[!.]*")) if file.is_file()]
    return {file.relative_to(path).as_posix(): file for file in files}


def measured(path: Path) -> dict[str, dict[str, Any]]:
    """Return size and checksums of an output's files, by their place in it."""
    found = {}
    for name, file in files_of(path).items():
        found[name] = {"bytes": file.lstat().st_size, "xxh3_128": bytes_checksum(file)}
        if file.suffix == ".h5":
            found[name]["attributes"] = stated_checksum(file)
    return found


def write_records(outputs: Iterable[str | Path], origin: dict[str, Any]) -> None:
    """Write the record of each output that is a result and exists.

    Args:
        outputs: what a job has written.
        origin: plain values that say where they come from.
    """
    for output in map(Path, outputs):
        target = record_path(output)
        if target is None or not output.exists():
            continue
        text = json.dumps({"files": measured(output), **origin}, indent=1, default=str)
        with replacing(target) as temporary:
            temporary.write_text(text + "\n")


def read_record(record: Path) -> dict[str, Any] | None:
    """Return a record; None if there is none or it is damaged.

    Raises:
        StorageError: the system does not let us read it.
    """
    try:
        found = json.loads(record.read_text())
    except (OSError, ValueError) as error:
        if problem := not_read(record, error):
            raise problem from error
        return None
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else None


def problems_of(path: Path, record: dict[str, Any], whole: bool) -> Iterator[Problem]:
    """Yield what differs between an output and its record.

    Args:
        path: the output.
        record: as `read_record` returns it.
        whole: read HDF5 files to their end; else their attributes alone are compared.
    """
    present = files_of(path) if path.exists() else {}
    for name in sorted(present.keys() - record["files"].keys()):
        yield Problem(path, present[name], "the job that made the folder did not write this file")
    for name, expected in record["files"].items():
        file = path if name == "." else path / name
        if name not in present:
            yield Problem(path, file, "there is no such file", missing=True)
        elif file.lstat().st_size != expected["bytes"]:
            yield Problem(path, file, f"found {file.lstat().st_size} bytes, expected {expected['bytes']}")
        elif not same_content(file, expected, whole):
            yield Problem(path, file, "its content was altered (the checksum differs)")


def same_content(file: Path, expected: dict[str, Any], whole: bool) -> bool:
    """Compare a file with its recorded checksum.

    Raises:
        OSError: the system does not let us read it.
    """
    if whole or "attributes" not in expected:
        return bytes_checksum(file) == expected["xxh3_128"]
    try:
        return stated_checksum(file) == expected["attributes"]
    except Exception as error:  # damaged files make HDF5 fail in many ways
        if problem := not_read(file, error):
            raise problem from error
        return False


def check_inputs(inputs: Iterable[str | Path]) -> None:
    """Refuse input files that are not what the jobs that wrote them left behind.

    Raises:
        DamagedFileError: naming the first such file and what to do.
    """
    for path in map(Path, inputs):
        place = record_path(path)
        record = read_record(place) if place is not None else None
        if record is None or not path.exists():
            continue
        for problem in problems_of(path, record, whole=False):
            raise DamagedFileError(
                f"{problem.path}: {problem.found}. Delete {path} and run snakemake again, which makes it "
                f"anew; if you changed it on purpose, delete {place} instead"
            )


def all_problems(experiment: str | Path) -> tuple[int, list[Problem]]:
    """Compare all results of an experiment with their records, every byte.

    Args:
        experiment: folder `results/<experiment>`.

    Returns:
        the number of records, and what differs.
    """
    experiment = Path(experiment)
    records = sorted((experiment / FOLDER).rglob("*.json"))
    found: list[Problem] = []
    for record in records:
        content = read_record(record)
        if content is None:
            found.append(Problem(record, record, "not a readable record"))
        else:
            found.extend(problems_of(described_path(record, experiment), content, whole=True))
    return len(records), found
