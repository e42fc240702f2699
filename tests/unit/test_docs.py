"""Generated pages match the code; every rule has its script and its page."""

import re
from pathlib import Path

import pytest

from vlmdiff.config import document as config_document
from vlmdiff.tables import document as tables_document

ROOT = Path(__file__).parents[2]
RULES = [
    name
    for file in sorted((ROOT / "rules").glob("*.smk"))
    for name in re.findall(r"^rule (\w+):", file.read_text(), flags=re.MULTILINE)
]


def test_configuration_page_is_current():
    assert config_document.DOCUMENT.read_text() == config_document.page(), (
        "run python -m vlmdiff.config.document"
    )


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
