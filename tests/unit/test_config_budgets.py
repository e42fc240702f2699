"""Dictionaries whose cosines are compared have one budget, or the configuration is refused."""

import copy

import pytest
import yaml
from pydantic import ValidationError
from tiny_experiment import ROOT

from vlmdiff.config.budgets import Budget
from vlmdiff.config.defaults import rising_steps
from vlmdiff.config.layers import read_layers
from vlmdiff.config.load import ConfigError, load_config

DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
LOOK = read_layers({}, [ROOT / "config" / "llava_more_first_look.yaml"]).values


def changed(values: dict, **entries: dict) -> dict:
    """Return a configuration in which keys of some dictionaries have other values."""
    values = copy.deepcopy(values)
    for name, keys in entries.items():
        values["dictionaries"][name] = {**values["dictionaries"].get(name, {}), **keys}
    return values


def refused(values: dict) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(values)
    return str(error.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"steps": 40}, "steps 40 against 300"),
        ({"batch_tokens": 512}, "batch_tokens 512 against 1024"),
        ({"learning_rate": 1e-4}, "learning_rate 0.0001 against 0.0003"),
        ({"schedule": "constant"}, "schedule constant against cosine"),
        ({"warmup": 0.1}, "warmup 30 against 15"),
        ({"gradient_clip_norm": 1.0}, "gradient_clip_norm 1.0 against None"),
        ({"architecture": {"d_sae": 1024, "k": 4}}, "k 4 against 8"),
        ({"architecture": {"d_sae": 1024, "k": 8, "kind": "jumprelu"}}, "kind jumprelu against topk"),
        (
            {"architecture": {"d_sae": 1024, "k": 8, "reconstruction": "mse"}},
            "reconstruction mse against fvu",
        ),
    ],
)
def test_a_null_of_another_budget_is_refused(keys, words):
    said = refused(changed(DEFAULT, null_text=keys, null_check=keys))
    assert "diff.null: dictionary 'null_text' is not trained as 'adapted' is" in said and words in said
    assert said.count("\n") == 1


def test_a_second_null_is_made_as_the_first():
    said = refused(changed(DEFAULT, null_check={"steps": 200}))
    assert "diff.null_check: dictionary 'null_check'" in said and "steps 200 against 300" in said
    # A comparison has no such key: its own dictionaries, alike among themselves, must fit that of `diff`.
    values = changed(DEFAULT, long_null={**DEFAULT["dictionaries"]["null_text"], "steps": 999})
    values = changed(values, adapted_25={"steps": 999})
    values["comparisons"]["tuned_25"]["null"] = "long_null"
    said = refused(values)
    assert "comparisons.tuned_25.null: dictionary 'long_null' is not trained as 'null_check' is" in said
    assert "steps 999 against 300" in said


def test_every_comparison_is_looked_at():
    assert "comparisons.k_16.null: dictionary 'null_k16'" in refused(changed(DEFAULT, null_k16={"steps": 40}))
    # Its adapted dictionary is of the comparison, its null that of `diff`.
    said = refused(changed(DEFAULT, adapted_25={"steps": 600}))
    assert "comparisons.tuned_25.null: dictionary 'null_text'" in said and "steps 300 against 600" in said
    # Its null is the adapted dictionary of another comparison, and refused there first.
    values = changed(DEFAULT, long_null={**DEFAULT["dictionaries"]["adapted_continued"], "steps": 999})
    values["comparisons"]["model_null"]["null"] = "long_null"
    assert "comparisons.model_null.null: dictionary 'long_null'" in refused(values)


def test_all_trainings_since_the_base_count():
    values = copy.deepcopy(DEFAULT)
    values["diff"]["adapted"] = "data_then_model"
    assert "diff.null" in (said := refused(values)) and "1 against 2 trainings" in said
    first = DEFAULT["dictionaries"]["null_text"]
    values = changed(values, null_first=first, null_check_first=first)
    values = changed(values, null_text={"initial": "null_first"}, null_check={"initial": "null_check_first"})
    values["comparisons"], values["diff"]["untuned"], values["scoreboard"] = {}, None, "none"
    assert load_config(values).diff.adapted == "data_then_model"
    said = refused(changed(values, data_first={"steps": 10}, model_first={"steps": 10}))
    assert "steps of training 1 300 against 10" in said


def test_edges_of_the_grid_are_equal():
    said = refused(changed(DEFAULT, model_first={"steps": 150}))
    assert "stages.grid.model: dictionary 'model_first'" in said and "steps 150 against 300" in said
    assert "stages.grid.model_then_data" in refused(changed(DEFAULT, model_then_data={"learning_rate": 1e-3}))


def test_what_does_not_come_from_the_base_has_no_null():
    assert load_config(changed(DEFAULT, scratch={"steps": 77})).dictionaries["scratch"].steps == 77


def test_what_is_equal_may_be_written_in_two_ways():
    config = load_config(
        changed(DEFAULT, adapted={"warmup": 15}, null_text={"devices": 2, "tokens": ["text"]})
    )
    assert config.dictionaries["adapted"].warmup == 15 and config.dictionaries["null_text"].warmup == 0.05


@pytest.mark.parametrize(
    "keys",
    [
        {"auxk_coefficient": 0},
        {"auxk_coefficient": 0.0, "dead_after_tokens": 5000},
        {"dead_after_tokens": 5000},
        {"architecture": {"d_sae": 1024, "k": 8, "bandwidth": 0.5}},
        {"architecture": {"d_sae": 1024, "k": 8, "l0_coefficient": 7.0}},
        {"warmup": 15, "sparsity_warmup": 0.0},
    ],
)
def test_what_a_training_does_not_read_or_leaves_out_is_equal(keys):
    for one in ({"adapted": keys}, {"null_text": keys, "null_check": {}}, {"null_check": keys}):
        assert load_config(changed(DEFAULT, **{name: found for name, found in one.items() if found}))


def test_jumprelu_reads_no_auxiliary_loss():
    values = copy.deepcopy(DEFAULT)
    values["architecture"] |= {"kind": "jumprelu", "bandwidth": 0.1}
    values["dictionaries"] = {
        name: {**stage, "architecture": None} for name, stage in values["dictionaries"].items()
    }
    assert load_config(changed(values, null_text={"dead_after_tokens": 9000, "auxk_coefficient": 0}))
    said = refused(changed(values, null_text={"sparsity_warmup": 30}))
    assert "sparsity_warmup 30 against 0" in said
    shape = {**values["architecture"], "bandwidth": 0.2}
    assert "bandwidth 0.2 against 0.1" in refused(changed(values, null_text={"architecture": shape}))


def test_an_auxiliary_loss_is_compared():
    said = refused(
        changed(DEFAULT, null_text={"auxk_coefficient": 0.5}, null_check={"auxk_coefficient": 0.5})
    )
    assert "auxk_coefficient 0.5 against 0.0" in said
    both = {name: {"auxk_coefficient": 0.5} for name in DEFAULT["dictionaries"]}
    both["null_text"] = {"auxk_coefficient": 0.5, "dead_after_tokens": 9000}
    assert "dead_after_tokens 9000 against" in refused(changed(DEFAULT, **both))


def test_a_published_dictionary_tells_its_budget():
    values = copy.deepcopy(LOOK)
    budget = values["dictionaries"]["adapted"].pop("budget")
    said = refused(values)
    assert (
        "dictionaries.adapted.budget: missing" in said
        and "docs/configure/import_dictionary.md#budget" in said
    )
    said = refused(changed(LOOK, null_text={"steps": 40}))
    assert "diff.null: dictionary 'null_text' is not trained as 'adapted' is" in said
    assert "steps 40 against 1560" in said
    # Two published ones are compared too, and neither is a training of this experiment.
    values = changed(LOOK, null_text={})
    null = {**LOOK["dictionaries"]["adapted"], "budget": {**budget, "steps": 900}}
    values["dictionaries"]["null_text"] = null
    assert "steps 900 against 1560" in refused(values)
    values["dictionaries"]["null_text"] = {**null, "budget": budget}
    assert load_config(values)


def test_the_shape_of_a_published_dictionary_is_compared():
    shape = {"kind": "topk", "d_sae": 32768, "k": 64}
    adapted = {"k": 64, "budget": {**LOOK["dictionaries"]["adapted"]["budget"], "architecture": shape}}
    assert "k 50 against 64" in refused(changed(LOOK, adapted=adapted))
    said = refused(changed(LOOK, adapted={**adapted, "k": 50}))
    assert "budget.architecture: found topk with k 64, but it is topk with k 50" in said


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"warmup": 1.5}, "warmup: found 1.5, expected a fraction below 1 or a whole number of steps below"),
        ({"warmup": 300}, "warmup: found 300, expected a fraction below 1 or a whole number of steps below"),
        ({"warmup": 0.999}, "warmup: found 0.999, which is all 300 steps, expected a fraction below 1 or"),
        ({"sparsity_warmup": 0.9999999999}, "sparsity_warmup: found 0.9999999999, which is all 300 steps"),
        ({"dead_after_tokens": 10**30}, "less than or equal to 4611686018427387904 (found: 1000"),
        ({"warmup": -1}, "greater than or equal to 0"),
        ({"sparsity_warmup": 300}, "sparsity_warmup: found 300"),
        ({"sparsity_warmup": 0.5}, "only JumpReLU has a sparsity penalty"),
        ({"gradient_clip_norm": 0}, "greater than 0"),
        ({"schedule": "linear"}, "'cosine' or 'constant'"),
    ],
)
def test_bad_budgets_are_explained(keys, words):
    alike = {name: keys for name in DEFAULT["dictionaries"] if DEFAULT["dictionaries"][name]["steps"] == 300}
    assert words in refused(changed(DEFAULT, **alike))


@pytest.mark.parametrize(
    ("warmup", "steps", "rising"),
    [
        (0.07, 100, 7),
        (0.05, 60, 3),
        (0.29, 100, 29),
        (0.051, 60, 4),
        (0.05, 1, 1),
        (59, 60, 59),
        (0.98, 60, 59),
    ],
)
def test_a_fraction_of_the_steps_is_a_whole_number(warmup, steps, rising):
    budget = Budget(steps=steps, learning_rate=1e-3, warmup=warmup)
    assert rising_steps(budget.warmup, steps) == rising


@pytest.mark.parametrize(("warmup", "steps"), [(0.999, 60), (60, 60), (0.6, 2), (1, 1)])
def test_a_training_outlasts_its_warm_up(warmup, steps):
    with pytest.raises(ValidationError, match=f"warmup: found {warmup}"):
        Budget(steps=steps, learning_rate=1e-3, warmup=warmup)
