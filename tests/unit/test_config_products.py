"""What each target of the tiny experiment makes, worked out by hand."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import stages_left_out as tiny

from vlmdiff.config import products
from vlmdiff.config.load import load_config

TINY = load_config(tiny.tiny())
LEAST = load_config(tiny.everything_left_out())


def test_sources_are_what_comes_from_elsewhere_and_is_used():
    values = tiny.tiny()
    values["models"]["further"] = {"family": "llava", "path": f"hub:someone/model@{'0' * 40}"}
    values["dictionaries"]["published"] = {
        "format": "saelens",
        "source": "/data/sae",
        "file": "layer_{layer}",
    }
    part = {"kind": "vsr", "source": "resources/vsr_random", "split": "test", "samples": 40}
    values["datasets"] |= {"general_test": part, "unused": part}
    assert products.sources(load_config(values)) == [
        "models/further/config.json",
        "dictionaries/published/sources.json",
        "data/general_test/samples.jsonl",
    ]
    assert products.sources(TINY) == []


def test_the_summary_tells_of_every_stage():
    found = products.summary_tables(TINY)
    assert [name for name, files in found.items() if not files] == ["perplexity"]
    assert found["accuracy"] == ["world/accuracy_trained.csv"]
    assert found["metrics"] == [
        f"dictionaries/{one}/metrics.csv"
        for one in (
            "adapted/seed_0",
            "adapted/seed_1",
            "base/seed_0",
            "base/seed_1",
            "null_text/seed_0",
            "null_text/seed_1",
            "scratch/seed_0",
        )
    ]
    # Of concepts that are not studied the first seed alone.
    assert found["funnel"] == [
        f"features/main/{one}/funnel.csv"
        for one in (
            "seed_0/spatial",
            "seed_1/spatial",
            "seed_0/truth",
            "seed_0/grounded",
            "seed_0/mirrored",
            "seed_0/counting",
        )
    ]
    assert found["untuned"] == [
        f"features/untuned/seed_0/{one}/funnel.csv" for one in ("spatial", "truth", "grounded")
    ]
    assert found["selection"] == [
        f"interventions/comparisons/{one}/seed_0/spatial/selection.csv" for one in ("main", "scratch")
    ]
    assert found["quality"] == [
        f"ground_truth/{one}/rule_quality.csv"
        for one in ("seed_0/spatial", "seed_1/spatial", "seed_0/truth", "seed_0/grounded")
    ]
    assert found["scores"] == ["heads/seed_0/spatial/scores.csv", "heads/seed_1/spatial/scores.csv"]
    assert found["recurrence"] == ["features/main/recurrence/spatial.csv"]


def test_the_summary_reads_nothing_of_what_is_left_out():
    found = products.summary_tables(LEAST)
    assert {name for name, files in found.items() if not files} == {
        *("held_out", "asked", "metrics", "ablation", "scores", "agreement", "head_ablation"),
        *("quality", "selection", "steering", "perplexity"),
    }
    facts = products.summary_facts(LEAST)
    assert facts["omitted"] == ["evaluation", "lexical", "ablation", "heads", "steering"]
    assert facts["ablation_data"] == facts["heads_data"] == facts["steering_data"] == []


def test_without_ablation_the_experiment_asks_itself_for_what_comparisons_find():
    concepts = ("spatial", "truth", "grounded", "mirrored", "counting")
    funnels = [f"features/scratch/seed_0/{one}/funnel.csv" for one in concepts]
    assert [file for file in products.experiment(LEAST) if file.endswith("funnel.csv")] == funnels
    assert not [file for file in products.experiment(TINY) if file.endswith("funnel.csv")]
    assert {"config.yaml", "summary.md", "figures/fvu_by_layer.svg"} <= set(products.experiment(TINY))


def test_tables_that_people_read_are_named_themselves():
    tables = products.summary_tables(TINY)
    named = set(products.experiment(TINY))
    assert all(
        set(tables[name]) <= named for name in ("selection", "recurrence", "labels", "quality", "steering")
    )


def test_a_target_makes_a_table_and_a_figure_for_each_concept_and_a_page():
    assert products.comparison_products(TINY, "controls") == [
        "comparisons/controls/spatial.csv",
        "comparisons/controls/truth.csv",
        "comparisons/controls/grounded.csv",
        "figures/controls/spatial/comparisons.svg",
        "figures/controls/truth/comparisons.svg",
        "figures/controls/grounded/comparisons.svg",
        "comparisons/controls.md",
    ]
    alone = tiny.tiny(comparisons={}, scoreboard="none", diff=tiny.tiny()["diff"] | {"untuned": None})
    assert products.comparison_products(load_config(alone), "controls") == []


def test_stages_have_a_grid_and_transfer_as_far_as_the_configuration_has_them():
    grid = ["stages/seed_0/grid.parquet", "figures/stages/stage_grid.svg"]
    transfer = ["stages/seed_0/spatial/transfer.csv", "figures/stages/spatial/transfer.svg"]
    assert products.stage_products(TINY) == grid + transfer
    assert products.stage_products(load_config(tiny.tiny(**tiny.untransferred()))) == grid
    values = tiny.tiny()
    del values["stages"]["grid"]
    assert products.stage_products(load_config(values)) == transfer
