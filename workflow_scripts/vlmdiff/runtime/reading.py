"""Text, JSON and names from data sets, none of which is trusted."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmdiff.runtime.disk_errors import not_read

LONGEST_NAME, LONGEST_PATH = 200, 1000
# What ends a line or a text for some reader, and halves of characters.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# The one folder of a data set that may be a link: `prepare_dataset` makes it so.
IMAGES = "images"


class DataError(ValueError):
    """A data set is not as docs/understand/formats.md says; the message names file, line and remedy."""


def read_text(file: Path, remedy: str) -> str:
    """Read a UTF-8 text, without the mark that some editors put before it.

    Args:
        file: the file.
        remedy: what to do if it cannot be read.

    Raises:
        DataError: naming the file, the cause and the remedy.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        damaged = DataError(f"{file}: cannot be read as UTF-8 text ({error}); {remedy}")
        raise not_read(file, error) or damaged from error


def stream_lines(file: Path, remedy: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is not blank, without reading more than is asked for.

    Args:
        file, remedy: as for `read_text`.

    Raises:
        DataError: see `read_text`.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="\n") as text:
            yield from ((number, line) for number, line in enumerate(text, start=1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        damaged = DataError(f"{file}: cannot be read as UTF-8 text ({error}); {remedy}")
        raise not_read(file, error) or damaged from error


def parse_json(text: str) -> Any:
    """Parse JSON; a key given twice, numbers of thousands of digits and endless nesting are errors too.

    Raises:
        DataError: saying where the text stops being JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=each_key_once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}") from None


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its keys and values.

    Raises:
        ValueError: a key is given twice; which value counts, each reader would decide for itself.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shortened(twice)} is given twice in one object")
    return found


def read_json(file: Path, remedy: str) -> Any:
    """Read a JSON file.

    Raises:
        DataError: naming the file, the cause and the remedy.
    """
    try:
        return parse_json(read_text(file, remedy))
    except DataError as error:
        raise error if str(file) in str(error) else DataError(f"{file}: {error}; {remedy}") from None


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is not blank.

    Lines end at line feeds alone: other separators of Unicode may stand inside of a JSON string.
    """
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def read_json_lines(file: Path, remedy: str) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each line that is not blank.

    Raises:
        DataError: naming file, line and remedy.
    """
    for number, line in lines_of(read_text(file, remedy)):
        try:
            yield number, parse_json(line)
        except DataError as error:
            raise DataError(f"{file}: line {number}: {error}; {remedy}") from None


def needed(row: Any, keys: Sequence[str], place: str, remedy: str) -> dict[str, Any]:
    """Return a row that has some keys.

    Raises:
        DataError: it is no JSON object, or a key is missing.
    """
    if not isinstance(row, dict):
        raise DataError(f"{place}: expected a JSON object, found {type(row).__name__}; {remedy}")
    if missing := [key for key in keys if key not in row]:
        raise DataError(f"{place}: keys missing: {missing}, found {sorted(map(str, row))}; {remedy}")
    return row


def whole_number(value: Any, allowed: Iterable[int] | None, place: str, remedy: str) -> int:
    """Return an integer, perhaps written as text.

    Raises:
        DataError: it is none, or not an allowed one.
    """
    written = isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value) is not None
    number = int(value) if written or (isinstance(value, int) and not isinstance(value, bool)) else None
    if number is None or (allowed is not None and number not in allowed):
        expected = "a whole number" if allowed is None else " or ".join(map(str, allowed))
        raise DataError(f"{place}: found {value!r}, expected {expected}; {remedy}")
    return number


def name_problem(name: str) -> str | None:
    """Say why a name cannot be a path within a folder; None if it can."""
    # Data sets have many names, and making a path of each would take most of the time of reading them.
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name.startswith("/") or ".." in parts:
        return "expected a path within the data set's folder"
    if CONTROL.search(name):
        return "expected a name without control characters"
    if len(name.encode()) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in parts):
        return f"expected at most {LONGEST_PATH} bytes, and {LONGEST_NAME} between two slashes"
    return None


def within(folder: Path, name: str, real: Callable[[str], str] = os.path.realpath) -> Path:
    """Return the path of a name inside a folder, links followed.

    The folder itself and its `images` may be links; nothing below them may lead out of them.

    Args:
        folder: the folder.
        name: path within it, from a data set.
        real: resolves the links of a folder; a caller with many names keeps what it resolved.

    Raises:
        DataError: the name leads out of the folder.
    """
    if problem := name_problem(name):
        raise DataError(f"{problem}, found {shortened(name)}")
    inside, root = os.path.normpath(name), str(folder)
    path = f"{root}/{inside}"
    linked = os.path.islink(path)  # noqa: PTH114
    place = os.path.realpath(path) if linked else real(path.rpartition("/")[0])
    inner = f"{root}/{IMAGES}"
    roots = [root, inner] if inside.partition("/")[0] == IMAGES else [root]
    if not any(f"{place}/".startswith(f"{real(one).rstrip('/')}/") for one in roots):
        raise DataError(
            f"{path} is a link out of its folder, to {place}; copy the file there (`cp -rL` copies "
            "what links lead to)"
        )
    return Path(path)


def shortened(name: str) -> str:
    """Quote a name for a message, not all of a very long one."""
    return f"'{name}'" if name.isprintable() and len(name) <= LONGEST_NAME else ascii(name[:LONGEST_NAME])


def safe_name(text: str) -> str:
    """Return a text as one part of a path: itself if that is harmless, else a similar one with a digest."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", text).lstrip(".")[: LONGEST_NAME // 2]
    if plain == text and plain:
        return text
    return f"{plain}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"
