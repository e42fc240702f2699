"""A samples file as people write it: JSON lines or CSV, read into plain records before anything runs."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from vlmdiff.config.absent import SAMPLES_FILES, not_there
from vlmdiff.config.record import Record, checked
from vlmdiff.runtime.reading import DataError, lines_of, parse_json, read_text, shortened

SAMPLES, TABLE = SAMPLES_FILES
NEEDED = ("prompt", "group")
# Keys whose values become names, around which blanks mean nothing.
NAMES = ("group", "answer")
REMEDY = "correct the file (docs/understand/formats.md)"
SEPARATORS = ",;\t"
TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
# What a key that a line does not have stands for; null for the others.
ABSENT = {"chat": True}
SHOWN = 5


@dataclass(frozen=True)
class Contents:
    """What a samples file holds.

    Attributes:
        records: its samples in order, each with the keys of `Record` and further ones.
        canonical: whether jobs can read the file as it is.
    """

    records: list[dict[str, Any]]
    canonical: bool


def find_samples(path: str | Path) -> Path:
    """Return the samples file that a path means: the file itself, or the one in the folder.

    Args:
        path: a folder with samples.jsonl or samples.csv, or such a file of any name.

    Raises:
        DataError: the folder holds both, or the file is of another kind.
    """
    path = Path(path)
    if path.suffix.lower() in (".csv", ".jsonl") and not leads_to(path, Path.is_dir):
        return path
    if is_file(path):
        raise DataError(f"{path}: found a file, expected a folder or a file named .jsonl or .csv; rename it")
    lines, table = path / SAMPLES, path / TABLE
    if is_file(lines) and is_file(table):
        raise DataError(
            f"{path}: found {SAMPLES} and {TABLE}, expected one of them; name the file instead of the folder"
        )
    return table if is_file(table) else lines


def is_file(path: Path) -> bool:
    """Tell whether a path leads to a file; one that the system cannot even look up does not."""
    return leads_to(path, Path.is_file)


def leads_to(path: Path, kind: Callable[[Path], bool]) -> bool:
    """Tell whether a path leads to something of a kind."""
    try:
        return kind(path)
    except OSError:
        return False


def data_folder(path: str | Path) -> Path:
    """Return the folder from which a samples file's image paths count."""
    return find_samples(path).parent


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """Read a samples file into plain records: texts for numbers, an id for each, images within the folder.

    A file is read once in a process, so do not change what is returned.

    Args:
        path: see `find_samples`.

    Raises:
        DataError: naming file, line, key, what was found and what is allowed, for the first wrong lines.
    """
    return contents(path).records


def count_samples(path: str | Path) -> int:
    """Return how many samples a samples file has; see `read_records`."""
    return len(read_records(path))


def is_canonical(path: str | Path) -> bool:
    """Tell whether jobs can read a folder in place: its samples.jsonl has nothing that must be rewritten.

    A file that is not there (a rule may make it) is taken for one.
    """
    file = find_samples(path)
    return file.name == SAMPLES and (not is_file(file) or contents(path).canonical)


def contents(path: str | Path) -> Contents:
    """Read a samples file; see `read_records`."""
    file = find_samples(path)
    if not is_file(file):
        raise DataError(not_there(str(path), str(file)))
    known = file.stat()
    return _contents(str(file), str(file.absolute()), known.st_mtime_ns, known.st_size)


@lru_cache(maxsize=64)
def _contents(name: str, _place: str, _time: int, _size: int) -> Contents:
    file = Path(name)
    rows = table_rows(file) if file.suffix.lower() == ".csv" else json_rows(file)
    images, records, problems, lines, as_it_is = Images(file.parent), [], [], {}, True
    for line, row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            record = canonical(row, len(records) + len(problems) + 1, images)
            checked(Record, record)
            if (before := lines.setdefault(record["sample_id"], line)) != line:
                raise DataError(
                    f"sample_id: '{record['sample_id']}' was used in line {before}; make it unique"
                )
        except DataError as error:
            problems.append(f"line {line}: {error}")
            continue
        as_it_is = as_it_is and all(row.get(key, ABSENT.get(key)) == value for key, value in record.items())
        records.append(record)
    if problems or not records:
        raise DataError(first_problems(file, problems))
    return Contents(records, as_it_is and file.suffix.lower() != ".csv")


def first_problems(file: Path, problems: Sequence[str]) -> str:
    """Write the first problems of a file, one a line."""
    if not problems:
        return f"{file}: found no samples; expected one JSON object a line, or CSV with a header"
    more = [f"… and {len(problems) - SHOWN} more lines"] if len(problems) > SHOWN else []
    return "\n  ".join([f"{file} is not a valid data set; {REMEDY}:", *problems[:SHOWN], *more])


def json_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and object of each line; what is wrong with a line in place of its object."""
    for number, line in lines_of(read_text(file, REMEDY)):
        try:
            row = parse_json(line)
        except DataError as error:
            row = error
        if not isinstance(row, dict | DataError):
            hint = "; write one object a line, without brackets around all" if isinstance(row, list) else ""
            row = DataError(f"expected a JSON object, found {type(row).__name__}{hint}")
        yield number, row


def table_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield line and row of a CSV file, as its JSON line would be; empty cells count as not there.

    The separator is the one of comma, semicolon and tab that the header holds most of.

    Raises:
        DataError: the header names a column twice, or the file is no CSV.
    """
    text = read_text(file, "save it as CSV in UTF-8")
    header = text.lstrip("\r\n").partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(SEPARATORS, key=header.count), strict=True)
    names: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = column_names(cells, file)
            elif len(cells) != len(names):
                yield (
                    reader.line_num,
                    DataError(
                        f"found {len(cells)} cells, the header has {len(names)}; quote cells with separators"
                    ),
                )
            else:
                yield reader.line_num, of_cells(dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{file}: line {reader.line_num}: not CSV: {error}; {REMEDY}") from None


def column_names(cells: Sequence[str], file: Path) -> list[str]:
    """Return the names of a header.

    Raises:
        DataError: a column is missing or named twice.
    """
    names = [cell.strip() for cell in cells]
    known = {key.lower(): key for key in (*Record.model_fields, "id")}
    names = [known.get(name.lower(), name) for name in names]
    if missing := [key for key in NEEDED if key not in names]:
        lacking = " and ".join(missing)
        raise DataError(
            f"{file}: the first line names no column {lacking}, found {', '.join(names)}; write "
            "the names of the columns into it"
        )
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise DataError(f"{file}: the header names {twice} twice; {REMEDY}")
    return names


def of_cells(cells: dict[str, str]) -> dict[str, Any] | DataError:
    """Make the values of a CSV row those of a JSON line: choices are split at `|`, `chat` is a truth."""
    row: dict[str, Any] = {name: cell for name, cell in cells.items() if name and cell.strip()}
    if "choices" in row:
        row["choices"] = [choice.strip() for choice in row["choices"].split("|")]
    if "chat" in row:
        if (chat := row["chat"].strip().lower()) not in TRUTHS:
            return DataError(f"chat: found {shortened(row['chat'])}, expected true or false")
        row["chat"] = TRUTHS[chat]
    return row


class Images:
    """Paths of a samples file's images, within its folder."""

    def __init__(self, folder: Path) -> None:
        """Remember the folder; links are followed once for each folder."""
        self.root, self.real = os.path.realpath(folder), cache(os.path.realpath)

    def relative(self, image: str) -> str:
        """Return an image's path from the folder on.

        Raises:
            DataError: it is a whole path that leads elsewhere.
        """
        if not image.startswith("/"):
            return image
        parent, _, name = image.rpartition("/")
        inside = os.path.relpath(f"{self.real(parent)}/{name}", self.root)
        if inside.startswith(".."):
            raise DataError(
                f"image: found {shortened(image)}, expected a path within the file's folder, {self.root}; "
                "copy the images there, and write their paths from there on"
            )
        return inside


def canonical(row: dict[str, Any], number: int, images: Images) -> dict[str, Any]:
    """Return a row with all keys of `Record`, as jobs expect them.

    Args:
        row: what the file says.
        number: of the sample in the file, from 1 on; its id where the file has none.
        images: of the file.

    Raises:
        DataError: a key is missing, or an image lies elsewhere.
    """
    if missing := [key for key in NEEDED if row.get(key) is None]:
        raise DataError(f"keys missing: {missing}, found {sorted(row)}; rename what you call them")
    key = "image" if "image" in row else "images"
    if isinstance(image := row.get(key), list):
        if len(image) > 1:
            raise DataError(
                f"{key}: found {len(image)} pictures, expected one; several in one sample are not read: ask "
                "about each in a sample of its own, or put them side by side in one picture"
            )
        image = image[0] if image else None
    row = {
        key: value.strip() if key in NAMES and isinstance(value, str) else value for key, value in row.items()
    }
    sample_id, choices = row.get("sample_id", row.get("id")), row.get("choices")
    others = {key: value for key, value in row.items() if key != "images" or "image" in row}
    return others | {
        "sample_id": f"row_{number}" if sample_id is None else as_text(sample_id),
        "image": images.relative(image) if isinstance(image, str) else image,
        "answer": as_text(row.get("answer")),
        "choices": [as_text(choice) for choice in choices] if isinstance(choices, list) else choices,
        "group": as_text(row["group"]),
        "chat": row.get("chat", True),
    }


def as_text(value: Any) -> Any:
    """Return a number as text; anything else as it is."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
