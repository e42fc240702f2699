"""A copy of the checkout in which faults are put and taken away again, and what its tests say."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dependable.checkout import copy_checkout

from mutation.catalogue import ROOT, Mutation, source_of
from mutation.children import TIMEOUT, collect, note_calls, run_tests, warm_up
from mutation.swap import forget, put_in, swaps

KEPT = ROOT / "results" / "mutants"
# By the exit status of pytest; a module that cannot be imported any more (2) is noticed too. With any other
# status the tests did not run.
KINDS = {0: "survived", 1: "caught", 2: "caught", TIMEOUT: "timeout"}
# What takes long to import; the first children need it already.
HEAVY = (
    "numpy",
    "pandas",
    "scipy.stats",
    "pyarrow.parquet",
    "h5py",
    "numba",
    "torch",
    "safetensors.torch",
    "transformers",
    "pytorch_lightning",
    "matplotlib.pyplot",
    "hypothesis",
    "beartype",
)
# Rooms of loops that Numba compiles: a change is not seen as calls, nor put into a running process.
COMPILED = {"kernels", "hypergeometric"}
PATIENCE = 60.0  # seconds beyond three times what the tests take without a fault


@dataclass(frozen=True)
class Outcome:
    """What happened to one fault: caught, timeout (caught too), survived or broken."""

    mutation: Mutation
    kind: str
    seconds: float
    tests: int


class Bench:
    """Where faults are tried."""

    def __init__(self, folder: Path, test_files: Sequence[Path], old_notes: bool) -> None:
        """Copy the checkout and run the tests once as it is.

        Args:
            folder: where the copy and the logs lie.
            test_files: relative to the checkout.
            old_notes: whether notes of an earlier state of the library do.
        """
        self.checkout = copy_checkout(folder / "checkout")
        self.log = folder / "log"
        self.changed = 0
        self.tests = self.noted(test_files, old_notes)
        # From here on byte code is read, not written: a changed module must not leave any behind.
        sys.dont_write_bytecode = True
        collect(self.checkout, list(map(str, test_files)), self.log)

    def noted(self, test_files: Sequence[Path], old_notes: bool) -> dict[Path, dict[str, dict]]:
        """Return, for each test file, what its tests call; runs those whose notes are missing or too old."""
        KEPT.mkdir(parents=True, exist_ok=True)
        notes = {file: KEPT / f"{file.stem}-{digest_of(file)}.json" for file in test_files}
        missing = [file for file, note in notes.items() if not usable(note, old_notes)]
        warm_up(HEAVY)
        if missing:
            fresh = note_calls(self.checkout, list(map(str, missing)), self.log)
            for file in missing:
                own = {test: note for test, note in fresh["tests"].items() if test.startswith(f"{file}::")}
                notes[file].write_text(json.dumps({**fresh, "state": shared_state(), "tests": own}))
        read = {file: json.loads(note.read_text()) for file, note in notes.items()}
        warm_up(sorted({name for one in read.values() for name in one["modules"]}))
        return {file: one["tests"] for file, one in read.items()}

    @contextmanager
    def fault(self, mutation: Mutation) -> Iterator[None]:
        """Put a fault into the copy, and take it away."""
        file = self.checkout / mutation.file
        before, times = file.read_bytes(), file.stat()
        self.changed += 1
        file.write_text(mutation.applied(source_of(mutation.file)), encoding="utf-8")
        # Byte code is known by the second and the size of its source: another second for each fault.
        os.utime(file, (times.st_atime, times.st_mtime + 10 * self.changed))
        try:
            yield
        finally:
            file.write_bytes(before)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    def chosen(self, mutation: Mutation, test_files: Sequence[Path]) -> list[tuple[str, dict]]:
        """Return the tests that call the changed function, for other lines the module; narrow ones first."""
        tests = {name: note for file in test_files for name, note in self.tests[file].items()}
        place = enclosing(mutation)
        module = str(mutation.file.relative_to("workflow_scripts"))

        def near(note: dict) -> bool:
            names = [name for file, name in note["called"] if file == module]
            return place in names if place else bool(names)

        chosen = {name: note for name, note in tests.items() if near(note)}
        # Compiled loops, constants that others took, fields of settings and child processes are not seen.
        if not chosen or place is None or COMPILED & set(mutation.file.parts):
            chosen |= {name: note for name, note in tests.items() if name not in chosen}
        # A test that calls little besides is likely to be about the function, and quick.
        return sorted(chosen.items(), key=lambda item: (len(item[1]["called"]), item[1]["seconds"]))

    def preparation(self, mutation: Mutation) -> Callable[[], None]:
        """Return what a child does before its tests: exchange functions, or forget all modules."""
        file, source = self.checkout / mutation.file, source_of(mutation.file)
        code = None if COMPILED & set(mutation.file.parts) else swaps(source, mutation.applied(source), file)
        loaded = any(getattr(one, "__file__", None) == str(file) for one in list(sys.modules.values()))
        return (lambda: put_in(code, file)) if code and loaded else (lambda: forget(self.checkout))

    def attempt(self, mutation: Mutation, test_files: Sequence[Path]) -> Outcome:
        """Run the tests with one fault."""
        chosen = self.chosen(mutation, test_files)
        if any(note["failed"] for _, note in chosen):
            return Outcome(mutation, "broken", 0.0, len(chosen))
        limit = PATIENCE + 3 * sum(note["seconds"] for _, note in chosen)
        with self.fault(mutation):
            names = [name for name, _ in chosen]
            status, seconds = run_tests(self.checkout, names, self.log, limit, self.preparation(mutation))
        return Outcome(mutation, KINDS.get(status, "broken"), seconds, len(chosen))


def enclosing(mutation: Mutation) -> str | None:
    """Return the qualified name of the innermost changed function; None outside of any."""
    source = source_of(mutation.file)
    line = source.count("\n", 0, mutation.start) + 1
    return innermost(ast.parse(source), line, "")


def innermost(parent: ast.AST, line: int, prefix: str) -> str | None:
    """Look for the innermost function over a line, below a node."""
    for node in ast.iter_child_nodes(parent):
        inside = node.lineno <= line <= node.end_lineno if hasattr(node, "lineno") else False
        if isinstance(node, ast.FunctionDef) and inside:
            name = f"{prefix}{node.name}"
            return innermost(node, line, f"{name}.<locals>.") or name
        if isinstance(node, ast.ClassDef) and inside:
            return innermost(node, line, f"{prefix}{node.name}.")
        if inside and (found := innermost(node, line, prefix)):
            return found
    return None


@cache
def shared_state() -> str:
    """Return a digest of everything that tests share: the library, helpers and configs."""
    total = hashlib.sha256()
    folders = (ROOT / "workflow_scripts", ROOT / "config", ROOT / "rules")
    files = [
        path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".yaml", ".smk")
    ]
    for path in sorted([*files, *(ROOT / "tests").glob("*.py")]):
        total.update(path.read_bytes())
    return total.hexdigest()


def digest_of(test_file: Path) -> str:
    """Return a digest of a test file."""
    return hashlib.sha256((ROOT / test_file).read_bytes()).hexdigest()[:16]


def usable(note: Path, old_notes: bool) -> bool:
    """Tell whether a note is there, and of the library as it is."""
    return note.exists() and (old_notes or json.loads(note.read_text())["state"] == shared_state())
