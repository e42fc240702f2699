"""The reviewed list of faults: `lists/<room>.yaml` names each one, its place, and who should notice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
LIBRARY = Path("workflow_scripts/vlmdiff")
LISTS = Path(__file__).parent / "lists"


class CatalogueError(ValueError):
    """An entry of the list cannot be used."""


@dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
        room: name of its list, which says which test files should notice.
        name: what is wrong after it.
        file: module, relative to the checkout.
        start, stop: characters that are replaced.
        put: what stands there instead.
    """

    room: str
    name: str
    file: Path
    start: int
    stop: int
    put: str

    def applied(self, source: str) -> str:
        """Return the module with the fault in it."""
        return source[: self.start] + self.put + source[self.stop :]


@dataclass(frozen=True)
class Room:
    """Faults of one room and the unit tests that should notice them.

    Attributes:
        name: of its file.
        tests: test files, relative to the checkout.
        mutations: its faults.
    """

    name: str
    tests: tuple[Path, ...]
    mutations: tuple[Mutation, ...]


@cache
def source_of(file: Path) -> str:
    """Return a module's text."""
    return (ROOT / file).read_text(encoding="utf-8")


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Yield all functions and classes, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node


def first_line(node: ast.FunctionDef | ast.ClassDef) -> int:
    """Return the line on which a definition begins, its decorators included."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def line_starts(source: str) -> list[int]:
    """Return the place of each line's first character."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def span_of(source: str, where: str) -> tuple[int, int]:
    """Return where a function or class stands: first and last character.

    Raises:
        CatalogueError: there is not exactly one of that name.
    """
    found = [node for node in functions(ast.parse(source)) if node.name == where]
    if len(found) != 1:
        raise CatalogueError(f"found {len(found)} definitions of '{where}', expected one")
    starts = line_starts(source)
    return starts[first_line(found[0]) - 1], starts[found[0].end_lineno]


def read_entry(room: str, entry: dict[str, str]) -> Mutation:
    """Find the place of one entry.

    Raises:
        CatalogueError: its snippet does not occur exactly once.
    """
    file = LIBRARY / entry["file"]
    source, find = source_of(file), entry["find"]
    try:
        start, stop = span_of(source, entry["in"]) if "in" in entry else (0, len(source))
    except CatalogueError as error:
        raise CatalogueError(f"{room}/{entry['name']} no longer applies: {file}: {error}") from error
    if (count := source.count(find, start, stop)) != 1:
        raise CatalogueError(
            f"{room}/{entry['name']} no longer applies: {file} holds its snippet {count} times, expected "
            f"once; bring tests/mutation/lists/{room}.yaml up to date:\n{find}"
        )
    place = source.index(find, start, stop)
    return Mutation(room, entry["name"], file, place, place + len(find), entry["put"])


def read_room(path: Path) -> Room:
    """Read the list of one room.

    Raises:
        CatalogueError: a name occurs twice, no test file fits a pattern, or a snippet no longer applies.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    tests: list[Path] = []
    for pattern in content["tests"]:
        found = sorted((ROOT / "tests" / "unit").glob(f"test_{pattern}.py"))
        if not found:
            raise CatalogueError(f"{path.name}: no test file is called test_{pattern}.py")
        tests += [file.relative_to(ROOT) for file in found]
    names = [entry["name"] for entry in content["mutations"]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CatalogueError(f"{path.name}: two mutations are called {twice}")
    mutations = tuple(read_entry(path.stem, entry) for entry in content["mutations"])
    return Room(path.stem, tuple(dict.fromkeys(tests)), mutations)


def read_rooms() -> list[Room]:
    """Read all lists."""
    return [read_room(path) for path in sorted(LISTS.glob("*.yaml"))]
