"""Nulls are trained on what they stand for, or refused with the key."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_experiment import put

from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.world import WorldConfig

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config" / "config.yaml").read_text())
DEFAULT["world"]["datasets"] = WorldConfig().model_dump()["datasets"]


def changed(*changes: tuple[str, Any]) -> dict:
    """Return the default configuration with some keys set."""
    values = copy.deepcopy(DEFAULT)
    for path, value in changes:
        put(values, path, value)
    return values


def refused(*changes: tuple[str, Any]) -> str:
    """Return why the default configuration with some keys set is refused."""
    with pytest.raises(ConfigError) as error:
        load_config(changed(*changes))
    return str(error.value)


# (changes, what is said)
WRONG = {
    "the base's own text": (
        [("dictionaries.null_text.dataset", "text_train")],
        "dictionaries.null_text.dataset: found 'text_train', but 'base' is trained on 'text_train', and "
        "it is the same data set; expected more text",
    ),
    "the base's text under another name": (
        [("world.datasets.text_null.seed", 0)],
        "dictionaries.null_text.dataset: found 'text_null', but 'base' is trained on 'text_train', and "
        "both are drawn with seed 0 from split 'train'",
    ),
    "part of the base's text": (
        [("datasets", {"text_null": {"kind": "subset", "of": "text_train", "samples": 50}})],
        "dictionaries.null_text.dataset: found 'text_null', but 'base' is trained on 'text_train', and "
        "'text_null' is part of 'text_train'",
    ),
    "the tuned model": (
        [("dictionaries.null_text.model", "vlm"), ("dictionaries.null_text.dataset", "text_null")],
        "dictionaries.null_text.model: found 'vlm', a model that was tuned with images, expected one "
        "that was not, such as 'base_lm', on which 'base' is trained",
    ),
    "an earlier stage of the tuned model": (
        [("dictionaries.null_text.model", "vlm_25")],
        "dictionaries.null_text.model: found 'vlm_25', a model that was tuned",
    ),
    "the tuned model's own language model": (
        [
            ("models.own_lm", {"family": "llava", "path": "world:vlm", "text_only": True}),
            ("dictionaries.null_text.model", "own_lm"),
        ],
        "dictionaries.null_text.model: found 'own_lm', a model that was tuned",
    ),
    "the adapted dictionary": (
        [("diff.null", "adapted")],
        "diff.null: found 'adapted', which is `adapted` too",
    ),
    "the adapted dictionary of a comparison": (
        [("comparisons.continued_text.null", "adapted_continued")],
        "comparisons.continued_text.null: found 'adapted_continued', which is `adapted` too",
    ),
    "a second null that is the adapted dictionary of a comparison": (
        [("diff.null_check", "adapted_continued")],
        "diff.null_check: found 'adapted_continued', which is `adapted` too "
        "(comparisons.continued_text.adapted), expected a dictionary that saw no images; name another one",
    ),
    "a null that is the adapted dictionary of a comparison": (
        [("diff.null", "adapted_continued")],
        "diff.null: found 'adapted_continued', which is `adapted` too (comparisons.continued_text.adapted)",
    ),
    "the null of another comparison": (
        [("dictionaries.null_k4.dataset", "text_train")],
        "dictionaries.null_k4.dataset: found 'text_train', but 'base_k4' is trained on 'text_train', "
        "and it is the same data set; expected more text, for what was learned before turns features "
        "less; name other text (comparisons.k_4.null)",
    ),
    "a second null that is the first": (
        [("diff.null_check", "null_text")],
        "diff.null_check: found 'null_text', which is `null` too",
    ),
    "a second null on the first one's text": (
        [("dictionaries.null_check.dataset", "text_null")],
        "dictionaries.null_check.dataset: found 'text_null', but 'null_text' is trained on 'text_null', "
        "and it is the same data set; expected other text",
    ),
    "a second null on the base's text": (
        [("dictionaries.null_check.dataset", "text_train")],
        "dictionaries.null_check.dataset: found 'text_train', but 'base' is trained on 'text_train'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_stage_must_not_be_trained_on_is_refused_by_key(name):
    changes, said = WRONG[name]
    assert said in refused(*changes)


@pytest.mark.parametrize(
    "changes",
    [
        # What a model learned while it read on, without images, may set the threshold: its text is new to it.
        [
            ("diff.null", "adapted_continued"),
            ("diff.null_check", None),
            ("comparisons.continued_text", ...),
            ("scoreboard", "none"),
        ],
        # So may a model that was never tuned and sees.
        [("comparisons.eps_low.null", "adapted_untuned")],
        # The questions of the new data are text, and no image is shown with them.
        [("dictionaries.null_text.dataset", "vqa_train")],
        # Where an earlier stage is studied, base and null still stand for what was before the last one.
        [
            ("models.own_lm", {"family": "llava", "path": "world:vlm_25", "text_only": True}),
            ("dictionaries.base", {"source": "world/base", "format": "vlmdiff", "file": "{layer}"}),
            ("dictionaries.null_text.model", "own_lm"),
        ],
        # One model may have two names.
        [
            ("models.same_lm", {"family": "causal_lm", "path": "world:base_lm"}),
            ("dictionaries.null_check.model", "same_lm"),
        ],
    ],
)
def test_what_a_null_may_be_trained_on_passes(changes):
    assert load_config(changed(*changes)).experiment == "builtin"


def test_every_training_of_a_null_since_the_base_counts():
    first = DEFAULT["dictionaries"]["null_text"]
    changes = [("diff.adapted", "data_then_model"), ("comparisons", {}), ("diff.untuned", None)]
    changes += [("scoreboard", "none")]
    changes += [("diff.null_check", None), ("dictionaries.null_text.initial", "first")]
    assert load_config(changed(*changes, ("dictionaries.first", first))).diff.null == "null_text"
    for key, wrong in (("model", "vlm"), ("dataset", "text_train")):
        said = refused(*changes, ("dictionaries.first", first | {key: wrong}))
        assert f"dictionaries.first.{key}: found '{wrong}'" in said and "(diff.null)" in said


def test_all_is_told_at_once():
    said = refused(
        ("dictionaries.null_text.dataset", "text_train"), ("dictionaries.null_k4.dataset", "text_train")
    )
    assert "dictionaries.null_text.dataset: " in said and "dictionaries.null_k4.dataset: " in said
