"""Faults made by rule: comparisons, signs, constants, axes and the like, changed one at a time.

Nobody chose them, so a random sample of them measures the tests without an author's blind spots. Its price:
some change nothing that anyone could see. `equivalent.yaml` names those that were looked at, with the reason;
they are not drawn.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

import yaml

from mutation.catalogue import LIBRARY, ROOT, Mutation, functions, line_starts, source_of

EQUIVALENT = Path(__file__).parent / "equivalent.yaml"
ROOMS = {
    "features": ("features",),
    "interventions": ("interventions",),
    "heads": ("heads",),
    "explorer": ("explorer",),
    "dictionaries": ("dictionaries",),
    "kernels": ("kernels",),
    "hypergeometric": ("hypergeometric",),
    "models": ("models",),
    "extraction": ("extraction",),
    "activations": ("activations",),
    "data": ("data",),
    "config": ("config",),
    "summary": ("summary",),
    "world": ("world/ground_truth.py", "world/sample_labels.py", "world/scenes.py"),
    "scoreboard": ("scoreboard",),
}
COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
NAMES = {
    "min": "max",
    "max": "min",
    "sum": "mean",
    "mean": "sum",
    "any": "all",
    "all": "any",
    "argmin": "argmax",
    "argmax": "argmin",
    "minimum": "maximum",
    "maximum": "minimum",
    "zeros": "ones",
    "floor": "ceil",
    "sqrt": "square",
    "amax": "amin",
}


class Faults(ast.NodeVisitor):
    """Collects (start, stop, replacement) inside of functions; texts, messages and annotations stay."""

    def __init__(self, source: str) -> None:
        """Look at one module."""
        self.source, self.starts = source, line_starts(source)
        self.encoded = [line.encode() for line in source.splitlines(keepends=True)]
        self.found: list[tuple[int, int, str]] = []

    def place(self, line: int, column: int) -> int:
        """Return the character at a line and a column in bytes."""
        return self.starts[line - 1] + len(self.encoded[line - 1][:column].decode())

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Return the first and the last character of a node."""
        return self.place(node.lineno, node.col_offset), self.place(node.end_lineno, node.end_col_offset)

    def between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> None:
        """Replace an operator between two operands."""
        start, stop = self.span(left)[1], self.span(right)[0]
        if self.source[start:stop].count(old) == 1:
            place = start + self.source[start:stop].index(old)
            self.found.append((place, place + len(old), new))

    def visit_Raise(self, node: ast.Raise) -> None:
        """Leave messages of errors alone."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave texts alone."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Leave annotations alone."""
        if node.value:
            self.visit(node.value)

    def visit_arguments(self, node: ast.arguments) -> None:
        """Leave annotations alone."""
        for default in [*node.defaults, *filter(None, node.kw_defaults)]:
            self.visit(default)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Leave decorators and annotations alone."""
        self.visit(node.args)
        for statement in node.body:
            self.visit(statement)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Turn a comparison, or move its limit."""
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators):
            self.between(left, right, *COMPARISONS[type(operator)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Change an arithmetic operator; not that of texts."""
        text = any(isinstance(side, ast.JoinedStr) or is_text(side) for side in (node.left, node.right))
        if type(node.op) in ARITHMETIC and not text:
            self.between(node.left, node.right, *ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Change `and` and `or`."""
        pair = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:]):
            self.between(left, right, *pair)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Drop `not`, `~` and `-`."""
        # The operator alone: the operand's span leaves out brackets around it.
        start = self.span(node)[0]
        self.found.append((start, start + (3 if isinstance(node.op, ast.Not) else 1), ""))
        if not isinstance(node.operand, ast.Constant):
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Change a number or a truth value."""
        if isinstance(node.value, bool):
            self.found.append((*self.span(node), str(not node.value)))
        elif isinstance(node.value, int | float):
            new = node.value + 1 if isinstance(node.value, int) else node.value * 2 or 1.0
            self.found.append((*self.span(node), repr(new)))

    def visit_If(self, node: ast.If) -> None:
        """Turn a condition."""
        start, stop = self.span(node.test)
        self.found.append((start, stop, f"not ({self.source[start:stop]})"))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Exchange a reduction for its counterpart."""
        stop = self.span(node)[1]
        if node.attr in NAMES:
            self.found.append((stop - len(node.attr), stop, NAMES[node.attr]))
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        """Exchange `min` for `max`."""
        if node.id in ("min", "max", "any", "all"):
            self.found.append((*self.span(node), NAMES[node.id]))


def is_text(node: ast.AST) -> bool:
    """Tell whether an operand is a literal text."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def faults_of(room: str, file: Path) -> Iterator[Mutation]:
    """Yield the faults of one module, named by function, text and change: edits elsewhere keep names."""
    source = source_of(file)
    tree, seen = ast.parse(source), {}
    for function in functions(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        collector = Faults(source)
        collector.visit(function)
        for start, stop, put in collector.found:
            if (start, stop, put) in seen.values():
                continue
            line = source[source.rfind("\n", 0, start) + 1 : source.find("\n", stop)].strip()
            name = f"{file.relative_to(LIBRARY)}:{function.name}: {line} | {source[start:stop]!r} -> {put!r}"
            while name in seen:
                name += " (next)"
            seen[name] = (start, stop, put)
            yield Mutation(room, name, file, start, stop, put)


def room_faults(room: str) -> list[Mutation]:
    """Return all faults by rule of one room, those that change nothing aside."""
    same = yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8")) or {}
    paths = [ROOT / LIBRARY / part for part in ROOMS[room]]
    files = sorted(file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path]))
    every = (fault for file in files for fault in faults_of(room, file.relative_to(ROOT)))
    return [fault for fault in every if fault.name not in same]


def sample(mutations: list[Mutation], count: int, seed: int) -> list[Mutation]:
    """Draw some; the choice hangs on names alone, so that an edit elsewhere leaves it as it is."""
    return sorted(mutations, key=lambda one: hashlib.sha256(f"{seed} {one.name}".encode()).digest())[:count]
