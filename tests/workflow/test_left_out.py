"""An experiment without any stage that can be left out runs to its summary, which says what is missing."""

import re
import subprocess

import pytest
import stages_left_out
import tiny_experiment
import yaml

RESULTS = tiny_experiment.ROOT / "results" / "left_out"

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    """Run the default target and `sensitivity` from nothing; return what Snakemake printed."""
    file = tmp_path_factory.mktemp("left_out") / "config.yaml"
    file.write_text(yaml.safe_dump(stages_left_out.shortest(), sort_keys=False))
    subprocess.run(["rm", "-rf", str(RESULTS)], check=True)
    done = tiny_experiment.snakemake("all", "sensitivity", config=file)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def test_no_job_of_a_stage_that_is_left_out_ran(run):
    ran = set(re.findall(r"^(?:local)?rule (\w+):", run, re.MULTILINE))
    assert {"train_dictionary", "select_features", "label_features", "plot_top_samples"} <= ran
    assert not {
        name for name in ran if re.search(r"head|ablation|steering|rank_|hold_out|evaluate_(?!world)", name)
    }


def test_the_summary_says_what_was_left_out(run):
    text = (RESULTS / "summary.md").read_text()
    for key in ("evaluation", "ablation", "heads", "steering"):
        assert f"Left out (`{key}: none`)" in text
    head = text.partition("## What was asked")[0]
    assert "Left out by the configuration: `evaluation`" in head and "Headline" not in head
    assert "which attention heads" not in text
    assert "Without the lexical filter (`lexical: false`): spatial, truth, grounded, mirrored." in text


def test_the_page_of_comparisons_has_no_effects(run):
    text = (RESULTS / "comparisons" / "sensitivity.md").read_text()
    assert "Left out (`ablation: none`)" in text and "| eps = 0.001 |" in text
    assert "logits" not in text and "nothing to ablate" not in text


def test_the_one_layer_is_the_last_block_of_the_shipped_models(run):
    assert yaml.safe_load((RESULTS / "config.yaml").read_text())["layers"] == [3]
    assert (RESULTS / "dictionaries" / "adapted" / "seed_0" / "layer_3" / "cfg.json").is_file()
