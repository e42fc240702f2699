"""Editors are told the keys of a config: all of them, and no others."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from vlmdiff.config.document import DOCUMENT, row
from vlmdiff.config.editor import SCHEMA, json_schema, text
from vlmdiff.config.layers import read_layers

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "config").rglob("*.yaml"))
CONFIGS = [*SHIPPED, *sorted((ROOT / "tests").glob("*/config.yaml"))]
VALIDATOR = jsonschema.Draft7Validator(json_schema())


def plain(values: object) -> object:
    """Return values as an editor sees them: days and numbered keys are text."""
    return json.loads(json.dumps(values, default=str))


def problems(values: object) -> list[str]:
    return [error.json_path for error in VALIDATOR.iter_errors(plain(values))]


def test_the_published_schema_is_current():
    jsonschema.Draft7Validator.check_schema(json_schema())
    assert SCHEMA.read_text() == text(), "run python -m vlmdiff.config.document"


@pytest.mark.parametrize("file", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_is_valid_as_it_stands_and_with_what_it_extends(file):
    assert problems(yaml.safe_load(file.read_text())) == []
    assert problems(read_layers({}, [file]).values) == []


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.stem)
def test_every_config_names_the_schema(file):
    first = file.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (file.parent / first.partition("=")[2]).resolve() == SCHEMA


def mistyped(values: dict, path: tuple[str | int, ...]) -> dict:
    """Return values with the last key of a path under another name."""
    values = copy.deepcopy(values)
    *parents, last = path
    section = values
    for part in parents:
        section = section[part]
    section[f"{last}x"] = section.pop(last)
    return values


@pytest.mark.parametrize(
    "path",
    [
        ("seeds",),
        ("world", "tuning", "gate"),
        ("models", "vlm", "path"),
        ("dictionaries", "adapted", "steps"),
        ("dictionaries", "scratch", "architecture", "k"),
        ("evaluation", 1, "dataset"),
        ("diff", "visual_datasets"),
        ("comparisons", "eps_high", "about"),
        ("concepts", "truth", "target", "groups"),
        ("ablation", "headline", "size"),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_a_mistyped_key_is_marked(path):
    values = yaml.safe_load((ROOT / "tests" / "workflow" / "config.yaml").read_text())
    assert problems(values) == []
    found = problems(mistyped(values, path))
    assert len(found) == 1
    # An entry of several possible kinds is marked as a whole.
    place = "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[:-1])
    assert place.startswith(found[0])


@pytest.mark.parametrize(
    "values",
    [
        {"extends": "x.yaml"},
        {"extends": ["x.yaml", "y.yaml"], "seed": 3},
        {"datasets": {"mine": {"samples": 3}}},
        {"dictionaries": {"base": None, "adapted": {"extends": False, "format": "mmdiff"}}},
        {"concepts": {"extends": False, "mine": {"target": None}}},
        {"resources": {"train_dictionary": {"gpu": None, "mem_mb": 3}}, "lexical": None},
        {"models": {"vlm": {"prompt_date": "2024-07-26"}}},
    ],
    ids=str,
)
def test_an_overlay_needs_no_key(values):
    assert problems(values) == []


@pytest.mark.parametrize(
    "values",
    [
        {"extends": 3},
        {"extends": True},
        {"seed": "three"},
        {"seeds": 0},
        {"layers": 3},
        {"models": {"vlm": {"family": "gpt"}}},
        {"models": {"1vlm": {"family": "llava"}}},
        {"concepts": {"mine": 3}},
        {"concepts": {"extends": "other.yaml"}},
        {"datasets": {"mine": {"kind": "folder", "questions": "all"}}},
        {"dictionaries": {"base": {"source": "x", "steps": 3}}},
        {"resources": {"train_dictionary": 3}},
    ],
    ids=str,
)
def test_what_cannot_be_right_in_any_file_is_marked(values):
    assert len(problems(values)) == 1


def test_descriptions_are_kept():
    schema = json_schema()
    assert schema["properties"]["seed"]["description"] == "From it every job derives its own seed."
    section = schema["$defs"]["AblationConfig"]["properties"]
    assert section["candidates"]["description"].startswith("At most this many final features")
    assert all(
        "description" in part for kind in schema["$defs"].values() for part in kind["properties"].values()
    )


def test_rows_of_the_page_have_four_cells():
    assert row("a|b", "c\nd", "e", "f") == r"| a\|b | c\nd | e | f |"
    keys, _ = DOCUMENT.read_text().split("## `resources`, where nothing is said")
    rows = [line for line in keys.splitlines() if line.startswith("|")]
    assert len(rows) > 200
    assert {line.replace(r"\|", "").count("|") for line in rows} == {5}
    assert all(line.endswith("|") for line in rows)
