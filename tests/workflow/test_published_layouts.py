"""The whole workflow on tiny checkpoints, dictionaries and data in the published layouts, without network."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import published_experiments as experiments
import pytest
import yaml

ROOT = Path(__file__).parents[2]
KINDS = {
    "llava_more": (experiments.llava_more, experiments.write_llava_more),
    "paligemma2": (experiments.paligemma2, experiments.write_paligemma2),
}

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module", params=["paligemma2", "llava_more"])
def experiment(request, tmp_path_factory):
    """Name, results and a function that runs Snakemake on one experiment, which is run once from nothing."""
    root = tmp_path_factory.mktemp(request.param)
    configure, write = KINDS[request.param]
    cache = write(root)
    file = root / "config.yaml"
    file.write_text(yaml.safe_dump(configure(root / "sources"), sort_keys=False))
    environment = {
        **os.environ,
        "HF_HOME": str(cache.parent),
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }

    def snakemake(*arguments):
        command = [sys.executable, "-m", "snakemake", "--configfile", str(file), "--cores", "2", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)

    results = ROOT / "results" / f"tiny_{request.param}"
    subprocess.run(["rm", "-rf", str(results)], check=True)
    run = snakemake()
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return request.param, results, snakemake, run


def test_it_ends_with_figures_and_a_summary(experiment):
    name, results, _, run = experiment
    assert "Activations that experiment" in run.stdout + run.stderr
    assert (results / "summary.md").read_text().count("#") > 3
    for figure in ("fvu_by_layer", "seed_0/spatial/funnel", "seed_0/spatial/attention_map"):
        assert (results / "figures" / f"{figure}.svg").stat().st_size > 1000, name


def test_every_source_was_fetched_and_prepared(experiment):
    ran = set(
        re.findall(r"^(?:local)?rule (\w+):", experiment[3].stdout + experiment[3].stderr, re.MULTILINE)
    )
    assert {"fetch_model", "fetch_dictionary", "import_dictionary", "prepare_dataset"} <= ran


def test_a_second_run_does_nothing(experiment):
    run = experiment[2]("-n")
    assert run.returncode == 0, run.stderr
    assert "Nothing to be done" in run.stdout + run.stderr


def test_shards_that_nothing_needs_are_gone(experiment):
    assert list((experiment[1] / "activations").rglob("*.h5")) == []


def test_models_are_recorded_with_their_commit(experiment):
    record = json.loads((experiment[1] / "models" / "vlm" / "hub.json").read_text())
    assert (record["revision"], record["commit"]) == ("main", "a" * 40)
    assert any(name.endswith(".safetensors") for name in record["files"])


def test_missing_pictures_are_counted(experiment):
    counts = pd.read_csv(experiment[1] / "data" / "vsr_test" / "counts.csv").iloc[0]
    assert (counts["requested"], counts["missing_images"], counts["kept"]) == (60, 6, 54)


def test_dictionaries_are_imported_and_keep_their_indices(experiment):
    name, results, *_ = experiment
    config = json.loads((results / "dictionaries/base/seed_0/layer_0/cfg.json").read_text())
    assert config["d_in"], config["d_sae"] == (32, 64)
    diff = pd.read_parquet(results / "features" / "main" / "seed_0" / "diff.parquet")
    assert len(diff) == 128
    # Rows were turned a little, by training or on purpose, and still answer to their own index.
    assert diff["cos_decoder"].median() > 0.5, name


def test_every_filter_leaves_something(experiment):
    funnel = pd.read_csv(experiment[1] / "features/main/seed_0/spatial/funnel.csv").query("layer == -1")
    stages = funnel.set_index("stage")["features"]
    assert 0 < stages["final"] <= stages["adapted_and_contrast"] <= stages["adapted"] <= stages["all"]


def test_exact_patching_is_limited_to_the_asked_heads(experiment):
    patched = pd.read_csv(experiment[1] / "heads/seed_0/spatial/patching.csv")
    assert patched["exact"].notna().any()
    assert patched.groupby("name").size().max() <= 8


def test_an_absent_model_stops_with_one_message(experiment):
    name, _, snakemake, _ = experiment
    command = ["--config", "experiment=tiny_absent", "models={vlm: {path: 'hub:nobody/nothing@main'}}"]
    run = snakemake("results/tiny_absent/models/vlm/config.json", *command)
    output = run.stdout + run.stderr
    subprocess.run(["rm", "-rf", str(ROOT / "results" / "tiny_absent")], check=True)
    assert run.returncode != 0
    assert re.search(
        r"hub model nobody/nothing@main: not in the cache, and HF_HUB_OFFLINE forbids", output
    ), name
