"""Put a fault into modules that are imported already: give functions the changed code.

Most faults lie inside of functions. Then a child of a process that has everything imported need not import
anything again. Faults in constants, classes' bodies, defaults and compiled loops need a fresh import.
"""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Iterator
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FunctionType

Place = tuple[str, int]  # qualified name and first line


def code_of(source: str, file: Path) -> CodeType:
    """Compile a module."""
    return compile(source, str(file), "exec", dont_inherit=True)


def parts(code: CodeType) -> list[CodeType]:
    """Return the functions and classes that are defined directly in a module or class."""
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def body(code: CodeType) -> tuple:
    """Return what a module or a class does itself, its definitions aside."""
    plain = tuple(repr(constant) for constant in code.co_consts if not isinstance(constant, CodeType))
    return code.co_code, plain, code.co_names


def changed_functions(old: CodeType, new: CodeType) -> Iterator[tuple[Place, CodeType]]:
    """Yield the place of every function that changed, and its new code.

    Raises:
        ValueError: something changed that is no function.
    """
    if body(old) != body(new) or len(parts(old)) != len(parts(new)):
        raise ValueError("the body of a module or class changed")
    for before, after in zip(parts(old), parts(new)):
        if before == after:
            continue
        if not before.co_flags & CO_OPTIMIZED:
            yield from changed_functions(before, after)
        elif before.co_freevars == after.co_freevars:
            yield (before.co_qualname, before.co_firstlineno), after
        else:
            raise ValueError("a function sees other variables around it")


def used_at_import(node: ast.AST) -> Iterator[str]:
    """Yield the names that a module looks up while it is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name):
            yield child.id
        if not (isinstance(node, ast.FunctionDef) and child in node.body):
            yield from used_at_import(child)


def swaps(old: str, new: str, file: Path) -> dict[Place, CodeType] | None:
    """Return the new code of the functions that a fault changes; None if a fresh import is needed.

    What a function returned during the import is kept by the module, and comprehensions of the module's own
    are gone afterwards: both need one.
    """
    try:
        found = dict(changed_functions(code_of(old, file), code_of(new, file)))
    except (ValueError, SyntaxError):
        return None
    early = {*used_at_import(ast.parse(old)), "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}
    return None if early & {name for name, _ in found} else found


def put_in(code: dict[Place, CodeType], file: Path) -> None:
    """Give the functions of a module their new code, wherever wrappers keep them.

    Raises:
        RuntimeError: a function is nowhere.
    """
    missing = set(code)
    for function in [one for one in gc.get_objects() if type(one) is FunctionType]:
        own = function.__code__
        place = (own.co_qualname, own.co_firstlineno)
        if place in code and own.co_filename == str(file):
            function.__code__ = code[place]
            missing.discard(place)
    if missing:
        raise RuntimeError(f"{file}: no function {sorted(missing)} is imported")


def forget(checkout: Path) -> None:
    """Forget all modules of a checkout, so that they are imported anew."""
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(f"{checkout}/"):
            del sys.modules[name]
