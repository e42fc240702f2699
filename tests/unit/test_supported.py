"""The page of what can be read: complete, current, of tests that exist, and true of files and models."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import published_dictionaries as published
import pytest
import torch

from vlmdiff.config.dictionaries import PublishedDictionary
from vlmdiff.config.families import MODEL_TYPES, Family
from vlmdiff.config.supported import FAMILY_FACTS, FORMAT_FACTS, SAELENS_LIST
from vlmdiff.dictionaries import document
from vlmdiff.dictionaries.published.convert import READERS, read_published
from vlmdiff.dictionaries.source import FILES, PublishedSource
from vlmdiff.models.registry import FAMILIES

ROOT = Path(__file__).parents[2]
FORMATS = set(get_args(PublishedDictionary.model_fields["format"].annotation))
FACTS = {**FAMILY_FACTS, **FORMAT_FACTS}
EXAMPLES = {name: facts.example for name, facts in FACTS.items() if facts.example is not None}


def test_the_page_is_current():
    assert document.DOCUMENT.read_text() == document.page(), "run python -m vlmdiff.dictionaries.document"


def test_every_family_has_its_facts():
    assert set(FAMILY_FACTS) == set(get_args(Family)) == set(MODEL_TYPES) == set(FAMILIES), (
        "add the family to FAMILY_FACTS in vlmdiff/config/supported.py"
    )


def test_every_format_has_its_facts():
    assert set(FORMAT_FACTS) == FORMATS == set(FILES) == set(READERS), (
        "add the format to FORMAT_FACTS in vlmdiff/config/supported.py"
    )


@pytest.mark.parametrize("name", sorted(FACTS))
def test_tests_that_are_named_exist_and_are_about_it(name):
    assert FACTS[name].tests
    for file in FACTS[name].tests:
        assert re.search(rf"[\"'.]{name}[\"'.(]|\b(write_|tiny_){name}\b", (ROOT / file).read_text()), file


@pytest.mark.parametrize("family", sorted(set(FAMILY_FACTS) - {"causal_lm"}))
def test_heads_are_tested_where_they_are_said_to_be_patched(family):
    texts = [(ROOT / file).read_text() for file in FAMILY_FACTS[family].tests]
    assert FAMILY_FACTS[family].heads == "attributed, patched, ablated"
    assert any(re.search(r"check_patching|head_values", text) for text in texts)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_names_of_examples_stand_where_they_were_seen(name):
    """In an installed library where one is named; other places cannot be looked up here."""
    example = EXAMPLES[name]
    place = re.fullmatch(r"(\w[\w-]*) [\d.]+: (\S+\.(?:py|yaml))", example.seen)
    if place is None:
        pytest.skip(f"seen in '{example.seen}'")
    package = find_spec(place[1].replace("-", "_"))
    if package is None:
        pytest.skip(f"{place[1]} is not installed")
    text = (Path(package.origin).parent / place[2]).read_text()
    assert example.repository in text
    if example.seen == SAELENS_LIST:
        release, _, name = example.release.partition("/")
        listed = re.search(rf"^{re.escape(release)}:\n.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)[0]
        assert f"repo_id: {example.repository}\n" in listed
        assert re.search(rf"id: {re.escape(name)}\n(.*\n)*?.*path: {re.escape(example.file)}\n", listed)


WRITTEN = {
    "gemma_scope": lambda folder, weights: published.write_gemma_scope(folder / "L", weights),
    "gemma_scope_2": lambda folder, weights: published.write_gemma_scope_2(folder / "L", weights),
    "llama_scope": lambda folder, weights: published.write_llama_scope(folder / "L", weights),
    "mmdiff": lambda folder, weights: published.write_mmdiff(folder / "L.pt", weights),
    "qwen_scope": lambda folder, weights: published.write_qwen_scope(folder / "L.pt", weights),
}


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_facts_of_a_format_are_those_of_its_files(tmp_path, name):
    facts, k = FORMAT_FACTS[name], published.K if name == "qwen_scope" else None
    path = WRITTEN[name](tmp_path, published.random_weights(unit_rows=True))
    found = read_published(PublishedSource(name, path, k))
    assert ("TopK" if found.k else "JumpReLU") in facts.activation
    assert not found.subtract_decoder_bias or facts.subtracts != "no"
    assert found.input_scale == 1 or not facts.scale.startswith(("1", "`input_scale`"))
    if facts.subtracts == "no":
        assert not found.subtract_decoder_bias
    assert torch.isfinite(found.weights["W_dec"]).all()


def test_a_format_without_an_example_says_so():
    assert "none is known" in document.example(None)
    assert [name for name, facts in FORMAT_FACTS.items() if facts.example is None] == ["openmoss", "vlmdiff"]
