"""The rules of a real language model that is taught to see, on a tiny one, from its folder to perplexity."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import tiny_smolvlm
import yaml
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from vlmdiff.config.world import SNAPSHOTS
from vlmdiff.world.checkpoints import RECORD

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "tiny_real"
MODELS = ("base_lm", "vlm_25", "vlm", "lm_continued")
MADE = [f"results/tiny_real/world/merged/{name}/config.json" for name in MODELS]
TARGETS = ["results/tiny_real/perplexity.csv", *MADE]
TINY = {"planned": {"d_model": 32, "blocks": 2}}

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


def settings(base: Path) -> dict[str, object]:
    """Return the configuration: the first look at the real model, of everything very little."""
    tuning = {
        "steps": 4,
        "check_every": 1,
        "images": 2,
        "questions": 2,
        "validation_images": 4,
        "dtype": "float32",
    }
    return {
        "extends": str(ROOT / "config" / "smollm2_first_look.yaml"),
        "experiment": "tiny_real",
        "layers": [1],
        "world": {
            "models": "train",
            "scenes": {"train": 300, "validation": 200, "test": 200},
            "vision": {"projector_steps": 20},
            "real_model": {"base": str(base), "lora": {"rank": 2}, "tuning": tuning},
        },
        "models": dict.fromkeys(("base_lm", "vlm", "vlm_25", "vlm_50", "vlm_75"), TINY),
        "datasets": {"text_val": {"samples": 10}},
    }


@pytest.fixture(scope="module")
def snakemake(tmp_path_factory):
    """Run Snakemake on the experiment, of which there are no results yet."""
    folder = tmp_path_factory.mktemp("tiny_real")
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(settings(tiny_smolvlm.build_lm(folder / "base")), sort_keys=False))
    subprocess.run(["rm", "-rf", str(RESULTS)], check=True)

    def run(*arguments):
        command = [sys.executable, "-m", "snakemake", "--configfile", str(file), "--cores", "2", *arguments]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)

    return run


@pytest.fixture(scope="module")
def made(snakemake):
    """Make the checkpoints and the perplexity from nothing."""
    run = snakemake("--", *TARGETS)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return run


def test_every_rule_of_it_ran(made):
    ran = set(re.findall(r"^(?:local)?rule (\w+):", made.stdout + made.stderr, re.MULTILINE))
    assert {"fit_frame", "tune_adapter", "merge_adapter", "evaluate_perplexity"} <= ran
    assert "train_world_vlm" not in ran


def test_perplexity_is_told_of_each_model(made):
    table = pd.read_csv(RESULTS / "perplexity.csv")
    assert list(table["model"].unique()) == ["base_lm", "vlm"]
    assert (table["perplexity"] > 1).all()


def test_adapters_are_kept_on_the_way(made):
    for percent in SNAPSHOTS:
        record = json.loads((RESULTS / "world" / "tuned" / "vlm" / str(percent) / RECORD).read_text())
        assert (record["steps"], record["total_steps"]) == (percent * 4 // 100, 4)


def test_checkpoints_are_what_transformers_loads(made):
    for name in MODELS:
        loads = AutoModelForCausalLM if name in ("base_lm", "lm_continued") else LlavaForConditionalGeneration
        _, told = loads.from_pretrained(RESULTS / "world" / "merged" / name, output_loading_info=True)
        assert not told["missing_keys"] and not told["unexpected_keys"], name


def test_a_second_run_does_nothing(made, snakemake):
    run = snakemake("-n", "--", *TARGETS)
    assert run.returncode == 0, run.stderr
    assert "Nothing to be done" in run.stdout + run.stderr


def test_another_rank_tunes_and_keeps_the_frame(made, snakemake):
    run = snakemake("-n", "--config", "world={real_model: {lora: {rank: 3}}}", "--", *TARGETS)
    assert run.returncode == 0, run.stderr
    planned = run.stdout + run.stderr
    assert "rule tune_adapter:" in planned and "rule fit_frame:" not in planned
