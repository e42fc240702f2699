"""Digests of the library code that a script reaches, so that results go stale with their code.

Snakemake sees a rule's script but not what the script imports. A digest over the syntax trees of
all library modules that the script reaches, comments and docstrings aside, is a param of each rule.

Every job reads the rules anew, so what a file's tree says is kept on disk, by the digest of the file's bytes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[1]
# A job's frame (logs, threads, renaming, records) changes no result, and the configuration reaches a job
# through its params alone; neither may make results stale. What jobs themselves look up in config/ does.
READ_BY_JOBS = (
    "choices.py",
    "chosen.py",
    "sources.py",
    "defaults.py",
    "documents.py",
    "memory.py",
    "parts.py",
    "record.py",
    "samples_file.py",
    "subsets.py",
)
FRAME = (
    "__init__", "causes", "digest", "disk_errors", "environment", "failures", "files", "hdf5", "job", "locks",
    "origin", "progress", "records", "secrets", "verification", "warm",
)  # fmt: skip
WITHOUT_RESULT = (
    *(file for file in (LIBRARY / "config").glob("*.py") if file.name not in READ_BY_JOBS),
    *(LIBRARY / "runtime" / f"{name}.py" for name in FRAME),
)
# Trees differ between versions of Python, as compiled modules do.
KEPT = LIBRARY / "__pycache__" / f"digests.{sys.implementation.cache_tag}.json"
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def module_file(name: str) -> Path | None:
    """Return the file of a dotted `vlmdiff` module, or None if there is no such module."""
    base = LIBRARY.parent.joinpath(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield dotted names of `vlmdiff` modules (or their members) that a syntax tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("vlmdiff"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vlmdiff"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def parse(file: Path) -> ast.Module:
    """Parse a source file once a process."""
    # As bytes, which declare their encoding: a text would depend on the user's locale.
    return ast.parse(file.read_bytes(), filename=str(file))


@cache
def direct_imports(file: Path) -> frozenset[Path]:
    """Return the library files that one file imports by name, parent packages left out.

    A member imported through a package (`from vlmdiff.room import name`) leads to the package's
    `__init__`, which in turn leads on to the modules that it imports.
    """
    found = set()
    for name in tree_facts(file)["imports"]:
        target = module_file(name) or module_file(name.rpartition(".")[0])
        if target is not None:
            found.add(target)
    return frozenset(found)


@cache
def bears_results(file: Path) -> bool:
    """Tell whether a change of this file can change what a job computes."""
    return file not in WITHOUT_RESULT


def reachable_modules(file: Path) -> list[Path]:
    """Return the library files on which the results of `file` depend, itself included, sorted.

    Of files that change no result only a package's `__init__` is followed: names are imported through it.
    """
    todo, seen = [Path(file).resolve()], set()
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            if bears_results(current) or current.name == "__init__.py":
                todo.extend(direct_imports(current))
    return sorted(filter(bears_results, seen))


@cache
def kept_facts() -> dict[str, dict]:
    """Return what earlier runs found out, by digest of a file's bytes; nothing if that cannot be read."""
    with suppress(OSError, ValueError):
        found = json.loads(KEPT.read_text())
        return found if isinstance(found, dict) else {}
    return {}


def keep_facts() -> None:
    """Keep what is known for later runs; where the folder cannot be written, they find it out again."""
    with suppress(OSError):
        KEPT.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=KEPT.parent, delete=False) as file:
            json.dump(kept_facts(), file)
        Path(file.name).replace(KEPT)


@cache
def tree_facts(file: Path) -> dict:
    """Return the digest of a file's syntax tree, and the `vlmdiff` names that it imports."""
    key, kept = hashlib.sha256(file.read_bytes()).hexdigest(), kept_facts()
    if not isinstance(kept.get(key), dict) or set(kept[key]) != {"imports", "tree"}:
        kept[key] = {"imports": sorted(set(imported_names(parse(file)))), "tree": tree_digest(file)}
    return kept[key]


def tree_digest(file: Path) -> str:
    """Digest one file's syntax tree without docstrings (comments and layout are not in it)."""
    tree = ast.parse(file.read_bytes(), filename=str(file))
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def module_digest(files: Iterable[Path]) -> str:
    """Digest a set of source files, named by their place in the project, never by the machine's."""
    total = hashlib.sha256()
    for file in sorted(Path(item).resolve() for item in files):
        total.update(f"{file.relative_to(LIBRARY.parent)} {tree_facts(file)['tree']}\n".encode())
    return total.hexdigest()[:16]


def folder_digest(folder: Path) -> str:
    """Digest the names and contents of the files in a folder, such as a page that a script copies."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        total.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def script_digest(script: Path) -> str:
    """Digest a workflow script together with every library module that it reaches."""
    before = len(kept_facts())
    digest = module_digest(reachable_modules(script))
    if len(kept_facts()) > before:
        keep_facts()
    return digest
