"""Generated pages match the code; every rule has its script and its page."""

from pathlib import Path
from typing import Literal, Optional

import pytest
from rule_texts import rules

from vlmdiff.config import document as config_document
from vlmdiff.config.base import Count, Name
from vlmdiff.tables import document as tables_document

ROOT = Path(__file__).parents[2]
RULES = list(rules(sorted((ROOT / "rules").glob("*.smk"))))


def test_configuration_page_is_current():
    assert config_document.DOCUMENT.read_text() == config_document.page(), (
        "run python -m vlmdiff.config.document"
    )


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Optional[int], "int or None"),  # noqa: UP045
        (float | None, "float or None"),
        (Count | None, "int or None"),
        (list[Name] | None, "list[str] or None"),
        (Literal["a", "b"] | None, "`a` or `b` or None"),
        (dict[Name, dict[int, str | int]], "dict[str, dict[int, str or int]]"),
        (list[Literal["text", "image"]], "list[`text` or `image`]"),
    ],
)
def test_types_are_written_in_words(annotation, words):
    assert config_document.type_name(annotation) == words


def test_formats_page_is_current():
    text = tables_document.DOCUMENT.read_text()
    assert text == tables_document.renewed(text), "run python -m vlmdiff.tables.document"


def test_no_setting_is_without_meaning():
    assert "|  |\n" not in config_document.page()


@pytest.mark.parametrize(
    "script", sorted((ROOT / "workflow_scripts").glob("*.py")), ids=lambda path: path.stem
)
def test_scripts_are_thin_and_read_params_only(script):
    text = script.read_text()
    assert len(text.splitlines()) <= 40
    assert "snakemake.config" not in text
    assert script.stem in RULES
