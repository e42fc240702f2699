"""Which figures the default target draws, and that every rule which draws one is asked for."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import stages_left_out as tiny

from vlmdiff.config.figures import figures
from vlmdiff.config.load import load_config

ROOT = Path(__file__).parents[2]
ALWAYS = {"cosine_distributions", "adapted_by_layer", "threshold_robustness", "model_accuracy"}
SCORES = {"fvu_by_layer", "training_dynamics"}
HEADS = {"head_attribution", "attribution_vs_exact", "head_ablation", "attention_map"}
# Figures of the other targets, and of what the default one cost.
OTHERS = {"scoreboard", "comparisons", "stage_grid", "transfer", "costs"}


def of(concepts: str, *names: str) -> set[str]:
    """Return the figures of some concepts, for the first seed."""
    return {f"seed_0/{concept}/{name}" for concept in concepts.split() for name in names}


def drawn(values: dict) -> set[str]:
    """Return the figures of a configuration, each of which is named once."""
    names = figures(load_config(values))
    assert len(names) == len(set(names))
    return set(names)


SELECTED = of("spatial truth grounded mirrored counting", "energy_vs_cosine", "contrast_volcano", "funnel")


def test_each_stage_draws_its_concepts():
    values = tiny.tiny()
    values["ablation"]["concepts"] = ["truth", "counting"]
    values["heads"]["concepts"] = ["counting", "spatial"]
    values["steering"]["concepts"] = ["truth", "spatial"]
    assert drawn(values) == {
        *ALWAYS, *SCORES, *SELECTED,
        "truth/selection_rules", "truth/recurrence", "truth/ground_truth",
        "counting/selection_rules", "counting/recurrence", "counting/ground_truth",
        *of("truth counting", "top_samples", "ablation_effects", "ablation_by_group"),
        *of("counting spatial", *HEADS), *of("truth spatial", "steering"),
    }  # fmt: skip


def test_stages_that_are_left_out_draw_nothing():
    concepts = "spatial truth grounded mirrored counting"
    recurring = {f"{concept}/recurrence" for concept in concepts.split()}
    top = of(concepts, "top_samples")
    assert drawn(tiny.everything_left_out()) == {*ALWAYS, *SELECTED, *recurring, *top}


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"seeds": 1}, {"spatial/recurrence"}),
        ({"heads": "none"}, of("spatial", *HEADS)),
        ({"steering": None}, of("spatial", "steering")),
        ({"evaluation": "none"}, SCORES),
    ],
)
def test_what_one_stage_draws_goes_with_it(changes, gone):
    assert drawn(tiny.tiny()) - drawn(tiny.tiny(**changes)) == gone


def test_nothing_is_measured_without_questions_and_without_checkpoints_of_the_world():
    values = tiny.everything_left_out()
    # In 16 bits a checkpoint of the world is not the model that was measured.
    values["models"] = {name: {**one, "dtype": "bfloat16"} for name, one in values["models"].items()}
    assert "model_accuracy" not in drawn(values)


def test_every_figure_with_a_rule_is_drawn():
    rules = {
        name
        for file in (ROOT / "rules").glob("*.smk")
        for name in re.findall(r"^rule plot_(\w+):", file.read_text(), flags=re.MULTILINE)
    }
    assert {Path(path).name for path in drawn(tiny.tiny())} | OTHERS == rules
