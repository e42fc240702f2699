"""The house keeps its order: rooms import only from rooms before them, and nothing outgrows its size."""

import ast
from pathlib import Path

import pytest

from vlmdiff.runtime.digest import imported_names, parse

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "workflow_scripts" / "vlmdiff"
ROOMS = (
    "runtime",
    "kernels",
    "hypergeometric",
    "config",
    "tables",
    "hub",
    "activations",
    "models",
    "data",
    "extraction",
    "dictionaries",
    "features",
    "interventions",
    "heads",
    "figures",
    "explorer",
    "summary",
    "world",
    "scoreboard",
)
MODULES = sorted(path for path in LIBRARY.rglob("*.py") if path.parent != LIBRARY)
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_SNAKEFILE = 400, 60, 80


def test_every_room_is_known():
    assert {path.name for path in LIBRARY.iterdir() if (path / "__init__.py").exists()} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_modules_import_from_rooms_before_theirs(module):
    own = ROOMS.index(module.relative_to(LIBRARY).parts[0])
    for name in imported_names(parse(module)):
        assert ROOMS.index(name.split(".")[1]) <= own, f"{name} lies in a later room"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_nothing_outgrows_its_room(module):
    assert len(module.read_text().splitlines()) <= LONGEST_FILE
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


def test_only_scripts_and_rules_know_snakemake():
    for module in MODULES:
        imports = [node for node in ast.walk(parse(module)) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}
        assert not any(name.split(".")[0] == "snakemake" for name in names), module


def test_the_snakefile_stays_short():
    assert len((ROOT / "Snakefile").read_text().splitlines()) <= LONGEST_SNAKEFILE
