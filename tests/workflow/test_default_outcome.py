"""What the default experiment finds, checked on its own tables (the run is made or brought up to date)."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "builtin"
TARGET, CONTROL = "spatial_test", "general_test"

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module", autouse=True)
def default_run():
    """Run the default workflow; what is up to date is not made again."""
    run = subprocess.run(
        # One seed: the first of the default's three, so its numbers are the default's.
        [sys.executable, "-m", "snakemake", "--cores", "all", "--quiet", "all", "--config", "seeds=1"],
        cwd=ROOT,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]


def table(name: str) -> pd.DataFrame:
    """Read one CSV of the run."""
    return pd.read_csv(RESULTS / name)


def accuracy(model: str, condition: str, dataset: str, group: str = "all") -> float:
    rows = table("world/accuracy_shipped.csv").set_index(["model", "condition", "dataset", "group"])
    return rows.loc[(model, condition, dataset, group), "accuracy"]


def test_the_model_sees():
    assert accuracy("vlm", "image", TARGET) >= 0.95
    kinds = [
        accuracy("vlm", "image", CONTROL, kind) for kind in ("colour", "shape", "size", "existence", "count")
    ]
    assert sum(value >= 0.95 for value in kinds) >= 3


@pytest.mark.parametrize(
    ("model", "condition"), [("base_lm", "no_image"), ("vlm", "no_image"), ("vlm", "shuffled_image")]
)
def test_without_its_image_it_guesses(model, condition):
    assert accuracy(model, condition, TARGET) == pytest.approx(0.5, abs=0.05)


def calibrated() -> pd.Series:
    """What the calibrated rule selects over all layers."""
    rows = table("features/main/seed_0/thresholds.csv").query("rule == 'calibrated' and layer == -1")
    return rows.iloc[0]


def test_where_nothing_was_tuned_less_rotates_and_no_truth_is_found():
    row = calibrated()
    assert row["untuned_adapted"] < row["adapted"] / 3
    # More than text alone: image tokens before it turn features without any learning.
    assert row["untuned_rate"] > row["check_high"]
    found = table("features/untuned/seed_0/truth/funnel.csv").query("layer == -1 and stage == 'final'")
    assert found["features"].item() == 0


def test_hardly_a_feature_is_adapted_without_a_reference():
    row = calibrated()
    assert 0 < row["adapted_uncalibrated"] < 0.15 * row["adapted"]


def test_the_null_has_almost_no_adapted_features():
    row = calibrated()
    assert row["null_false_positive_rate"] <= 0.02
    assert row["adapted"] > 10 * row["null_adapted"]


def test_warm_start_is_better_than_none_and_bases_converged():
    base = table("dictionaries/base/seed_0/metrics.csv").query("tokens == 'text'")
    adapted = table("dictionaries/adapted/seed_0/metrics.csv").query("tokens == 'text' and snapshot == 100")
    own, foreign = base.query("model == 'base_lm'"), base.query("model == 'vlm'")
    assert (own["fvu"] < 0.05).all()
    assert (adapted.set_index("layer")["fvu"] < foreign.set_index("layer")["fvu"]).all()


def test_every_filter_leaves_something_and_never_adds():
    funnel = (
        table("features/main/seed_0/spatial/funnel.csv").query("layer == -1").set_index("stage")["features"]
    )
    assert 0 < funnel["final"] <= funnel["adapted_and_contrast"] <= min(funnel["contrast"], funnel["adapted"])
    assert funnel["adapted"] <= funnel["visual"] <= funnel["all"]


@pytest.mark.parametrize("size", [10, 20])
def test_the_spatial_set_matters_for_space_and_ranking_explains_most_of_it(size):
    rows = table("interventions/seed_0/spatial/ablation_all_layers.csv").query(
        "group == 'all' and size == @size"
    )
    selected = rows[rows["arm"] == "selected"].set_index("dataset")
    random = rows[(rows["arm"] == "random") & (rows["dataset"] == TARGET)]["delta_margin"]
    assert len(random) >= 20
    assert selected.loc[TARGET, "margin_high"] < -3
    assert abs(selected.loc[CONTROL, "delta_margin"]) < abs(selected.loc[TARGET, "delta_margin"]) / 3
    # The best of random pools, ranked alike, do more than half as much: no unranked set is a fair null.
    assert selected.loc[TARGET, "delta_margin"] < random.mean() < selected.loc[TARGET, "delta_margin"] / 2


def test_attribution_agrees_with_exact_patching():
    agreement = table("heads/seed_0/spatial/agreement.csv").query("name == 'pooled' and method == 'score'")
    assert agreement["spearman"].item() >= 0.7


def test_the_second_null_confirms_the_first():
    row = calibrated()
    # The rule allows 1 % by construction on the first null; the second was not used to set it.
    assert row["check_false_positive_rate"] <= 0.02
    assert row["check_low"] <= row["null_false_positive_rate"] <= row["check_high"]


def test_final_features_survive_samples_as_clusters():
    row = table("features/main/seed_0/spatial/contrast_check.csv").set_index("unit").loc["token"]
    assert row["final_clustered"] >= 0.95 * row["final"]


def test_the_full_rule_beats_chance_against_the_scenes():
    quality = table("ground_truth/seed_0/spatial/rule_quality.csv")
    whole = quality.query("layer == -1 and definition == 'best match'").set_index("rule")
    assert whole.loc["full", "precision"] > whole.loc["live", "precision"]


def test_a_contrast_of_equal_texts_is_spatial_where_one_of_questions_is_not():
    precision = {}
    for concept in ("spatial", "truth"):
        quality = table(f"ground_truth/seed_0/{concept}/rule_quality.csv")
        whole = quality.query("layer == -1 and definition == 'best match'").set_index("rule")
        precision[concept] = whole.loc["full", "precision"]
    assert precision["truth"] >= 0.5 > precision["spatial"]


def test_the_costs_of_all_rules_are_told():
    costs = table("costs.csv").set_index("rule")
    assert {"train_dictionary", "extract_activations", "write_summary"} <= set(costs.index)
    assert costs["share"].sum() == pytest.approx(1, abs=1e-4)


def test_every_final_feature_has_a_label():
    labels, final = (
        table(f"{name}.csv")
        for name in ("labels/seed_0/spatial/labels", "features/main/seed_0/spatial/final_features")
    )
    assert list(labels["name"]) == list(final["name"])


def test_steering_and_selection_rules_have_their_controls():
    steering = table("interventions/seed_0/spatial/steering.csv").query("group == 'all'")
    assert steering.query("arm == 'random'")["draw"].nunique() >= 20
    selection = table("interventions/comparisons/main/seed_0/spatial/selection.csv")
    assert {"random", "contrast", "full"} <= set(selection["rule"])


def test_the_summary_tells_weak_results():
    text = (RESULTS / "summary.md").read_text()
    assert "## Weak or negative results" in text
    assert "## How sure are we" in text
    assert "vlm" in text
