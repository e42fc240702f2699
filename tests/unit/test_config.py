"""The configuration refuses what cannot work, in one message that helps."""

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vlmdiff.config.load import ConfigError, load_config

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())


def changed(path: str, value: object) -> dict:
    """Return the default configuration with one key set."""
    values = copy.deepcopy(DEFAULT)
    *parents, last = path.split(".")
    section = values
    for key in parents:
        section = section[key]
    section[last] = value
    return values


def test_default_is_valid():
    assert load_config(DEFAULT).experiment == "builtin"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("colour", 1, ["colour", "unknown key"]),
        ("dictionaries.adapted.learning_rat", 1e-3, ["dictionaries.adapted.learning_rat", "unknown key"]),
        ("layers", [], ["layers", "at least 1"]),
        ("layers", [2, 1], ["layers", "rising", "[2, 1]"]),
        ("dictionaries.adapted.model", "gpt", ["dictionaries.adapted.model", "'gpt'", "base_lm", "vlm"]),
        ("dictionaries.base.dataset", "coco", ["dictionaries.base.dataset", "'coco'", "vqa_train"]),
        ("diff.percentile", 140, ["diff.percentile", "less than 100", "140"]),
        ("diff.rule", "guess", ["diff.rule", "'percentile' or 'calibrated'", "guess"]),
        ("diff.adapted", "scratch", ["diff.adapted", "starts from 'random'", "'base'"]),
        ("diff.null", "nothing", ["diff.null", "'nothing'"]),
        ("dictionaries.base.steps", "many", ["dictionaries.base.steps", "integer", "many"]),
        ("dictionaries.base.initial", "adapted", ["starts from itself"]),
        ("architecture.k", 5000, ["architecture.k", "5000", "1024"]),
        ("concepts.spatial.fdr", 2, ["concepts.spatial.fdr", "2"]),
        ("ablation.random_draws", 3, ["ablation.random_draws", "20"]),
        ("ablation.concepts", ["smell"], ["ablation.concepts", "'smell'", "spatial"]),
        ("ablation.report_on.target", "spatial_val", ["ablation.report_on.target", "spatial_val"]),
        ("experiment", "../elsewhere", ["experiment", "../elsewhere"]),
        ("dictionaries.adapted.snapshots", [50, 25], ["snapshots must rise", "[50, 25]"]),
    ],
)
def test_bad_value_is_named_with_what_is_allowed(path, value, words):
    with pytest.raises(ConfigError) as error:
        load_config(changed(path, value))
    for word in words:
        assert word in str(error.value)


def test_every_problem_is_told_at_once():
    values = changed("seeds", 0)
    values["layers"] = "all of them"
    with pytest.raises(ConfigError, match=r"(?s)seeds.*layers|layers.*seeds"):
        load_config(values)


def leaves(section: object, path: str = "") -> list[str]:
    """List the dotted paths of all leaves of the default configuration."""
    if not isinstance(section, dict):
        return [path]
    return [leaf for key, value in section.items() for leaf in leaves(value, f"{path}.{key}".lstrip("."))]


@given(
    path=st.sampled_from(leaves(DEFAULT)),
    value=st.one_of(
        st.none(), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=2), st.booleans()
    ),
)
def test_any_leaf_with_any_value_is_taken_or_explained(path, value):
    try:
        load_config(changed(path, value))
    except ConfigError as error:
        assert str(error).startswith("The configuration is not valid:\n  ")
