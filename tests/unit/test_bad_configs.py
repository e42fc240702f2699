"""Damaged configurations: refused with the key, or valid as they stand."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from damage import damaged_json, outcome, refused, tries
from hypothesis import given
from hypothesis import strategies as st

from vlmdiff.config.layers import read_layers
from vlmdiff.config.load import load_config
from vlmdiff.config.plan import plan
from vlmdiff.config.schema import Config

CONFIGS = Path(__file__).parents[2] / "config"
WHOLE = {path.stem: read_layers({}, [path]).values for path in sorted(CONFIGS.glob("*.yaml"))}


PLAIN = st.dictionaries(st.text(), st.text())


@pytest.mark.parametrize("name", ["config", "llava_more", "paligemma2_stages"])
@tries(150)
@given(data=st.data())
def test_a_damaged_configuration_is_refused_by_key_or_valid(name, data):
    path, _, damaged = data.draw(damaged_json(WHOLE[name]))
    config, message = outcome(lambda: load_config(damaged))
    if message is None:
        assert isinstance(config, Config)
        assert load_config(copy.deepcopy(damaged)) == config
    else:
        assert "not valid" in message
        assert any(str(part) in message for part in path)


@pytest.mark.parametrize("text", ["data/a\0b", "\0", "half \ud83d", "\udc00"])
def test_a_text_that_no_file_can_be_called_is_told_by_its_key(text):
    values = copy.deepcopy(WHOLE["paligemma2_stages"])
    values["datasets"]["vqa_yes_no_val"]["source"] = text
    message = refused(lambda: load_config(values))
    assert "datasets.vqa_yes_no_val.source: found NUL or half a character" in message


@pytest.mark.parametrize("kind", ["vqa", "x" * 9000])
def test_an_unknown_kind_of_data_is_told_shortly_with_those_that_are_known(kind):
    values = copy.deepcopy(WHOLE["llava_more"])
    values["datasets"]["text_null"]["kind"] = kind
    message = refused(lambda: load_config(values))
    assert f"datasets.text_null: kind: found '{kind[:120]}', expected one of 'folder', 'vqav2'" in message
    assert len(message) < 400


@tries(60)
@given(values=st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers()), PLAIN))
def test_what_is_no_configuration_is_refused(values):
    assert "not valid" in refused(lambda: load_config(values))


def changed(path: str, value: object) -> dict:
    values = copy.deepcopy(WHOLE["config"])
    *parents, last = path.split(".")
    section = values
    for key in parents:
        section = section.setdefault(key, {})
    section[last] = value
    return values


def named(section: str, name: str) -> dict:
    """Return the default configuration with the first entry of a section under another name too."""
    values = copy.deepcopy(WHOLE["config"])
    entries = values[section]
    entries[name] = copy.deepcopy(next(iter(entries.values())))
    return values


UNSAFE = [
    "../x",
    "a/b",
    "/etc",
    "..",
    "",
    "a b",
    "a\n",
    "a\x00",
    "x" * 65,
    "ends_",
    "-n",
    "a$",
    "<b>",
    "\u202ea",
]


@pytest.mark.parametrize("section", ["models", "dictionaries", "concepts"])
@pytest.mark.parametrize("name", UNSAFE)
def test_names_that_could_leave_their_folder_or_mark_up_a_report_are_refused(section, name):
    refused(lambda: load_config(named(section, name)), section)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc", "..", ".hidden", "", "a b", "a\n", "x" * 65, "a\x00"]
)
def test_an_experiment_keeps_to_its_folder(name):
    refused(lambda: load_config(changed("experiment", name)), "experiment")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "key",
    [
        "dictionaries.adapted.learning_rate",
        "diff.eps",
        "lexical.threshold",
        "concepts.spatial.min_odds_ratio",
    ],
)
def test_numbers_are_finite(key, value):
    refused(lambda: load_config(changed(key, value)), key)


PUBLISHED = {"source": "hub:o/n@main", "format": "saelens", "file": "layer_{layer}"}


@pytest.mark.parametrize(
    "file",
    ["{layer", "{layer:x{layer}}", "{layer:abc}", "{0}", "{}", "{layer.__class__}", "{layer!z}", "../{layer}",
     "/etc/{layer}", "a/../{layer}", "{other}"],
)  # fmt: skip
def test_a_pattern_of_files_is_plain_and_stays_in_its_source(file):
    refused(lambda: load_config(changed("dictionaries.published", {**PUBLISHED, "file": file})), "published")


def test_a_part_of_a_pattern_stays_in_its_source():
    layers = dict.fromkeys(WHOLE["config"]["layers"], "../../x")
    entry = {**PUBLISHED, "file": "{layer}/{part}", "by_layer": {"part": layers}}
    refused(lambda: load_config(changed("dictionaries.published", entry)), "published")


@pytest.mark.parametrize(
    "template", ["{evidence:d}", "{evidence!x}", "{evidence", "{evidence.__class__}", "{0}", "no place"]
)
def test_a_prompt_of_a_description_can_be_filled_in(template):
    entry = {"base_url": "http://localhost/v1", "model": "m", "template": template}
    refused(lambda: load_config(changed("labelling", entry)), "labelling")


@pytest.mark.parametrize(
    "url", ["http://user:key@host/v1", "http://host/v1?key=x", "file:///etc/passwd", "ftp://host", "host"]
)
def test_a_key_cannot_stand_in_an_address(url):
    message = refused(lambda: load_config(changed("labelling", {"base_url": url, "model": "m"})), "labelling")
    assert "without user, password or query" in message


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"text_config": 3}', '{"vision_config": {"patch_size": 0}}']
)
def test_a_damaged_checkpoint_does_not_stop_the_plan(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    values = changed("models.vlm.path", str(tmp_path))
    assert "experiment 'builtin'" in plan(load_config(values))
