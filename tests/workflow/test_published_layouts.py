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
    "smolvlm": (experiments.smolvlm, experiments.write_smolvlm),
}
FETCHED = {"fetch_model", "prepare_dataset"}
IMPORTED = {"fetch_dictionary", "import_dictionary"}
# Nothing is published for its language model: its base dictionary is trained from random rows.
TRAINED_FROM_NOTHING = ("smolvlm",)
# As its ready config, it keeps what trainings read.
KEEPS_SHARDS = ("smolvlm",)

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


def prepared(name, root, **changes):
    """Return a function that runs Snakemake on one experiment, and its results, of which there are none.

    `changes` replace keys of its configuration.
    """
    configure, write = KINDS[name]
    cache, config = write(root), {**configure(root / "sources"), **changes}
    file = root / "config.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    environment = {
        **os.environ,
        "HF_HOME": str(cache.parent),
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }

    def snakemake(*arguments):
        command = [sys.executable, "-m", "snakemake", "--configfile", str(file), "--cores", "2", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)

    results = ROOT / "results" / config["experiment"]
    subprocess.run(["rm", "-rf", str(results)], check=True)
    return snakemake, results


def ran(run):
    """Return the rules that had jobs in a run."""
    return set(re.findall(r"^(?:local)?rule (\w+):", run.stdout + run.stderr, re.MULTILINE))


# One of them is small enough for every run of the tests.
EACH = [pytest.param(name, marks=[pytest.mark.long] if name != "smolvlm" else []) for name in sorted(KINDS)]


@pytest.fixture(scope="module", params=EACH)
def experiment(request, tmp_path_factory):
    """Name, results, a function that runs Snakemake, and the run of a whole experiment from nothing."""
    snakemake, results = prepared(request.param, tmp_path_factory.mktemp(request.param))
    run = snakemake()
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return request.param, results, snakemake, run


def test_it_ends_with_figures_a_summary_and_an_explorer(experiment):
    name, results, _, run = experiment
    assert "Activations that experiment" in run.stdout + run.stderr
    assert (results / "summary.md").read_text().count("#") > 3
    assert (results / "explorer" / "index.html").stat().st_size > 1000
    for figure in ("fvu_by_layer", "seed_0/spatial/funnel", "seed_0/spatial/attention_map"):
        assert (results / "figures" / f"{figure}.svg").stat().st_size > 1000, name


def test_every_source_was_fetched_and_prepared(experiment):
    name, _, _, run = experiment
    published = set() if name in TRAINED_FROM_NOTHING else IMPORTED
    assert (FETCHED | IMPORTED) & ran(run) == FETCHED | published


def test_a_second_run_does_nothing(experiment):
    run = experiment[2]("-n")
    assert run.returncode == 0, run.stderr
    assert "Nothing to be done" in run.stdout + run.stderr


def test_shards_that_nothing_needs_are_gone(experiment):
    left = list((experiment[1] / "activations").rglob("*.h5"))
    assert bool(left) == (experiment[0] in KEEPS_SHARDS)


def test_models_are_recorded_with_their_commit(experiment):
    record = json.loads((experiment[1] / "models" / "vlm" / "hub.json").read_text())
    assert (record["revision"], record["commit"]) == ("main", "a" * 40)
    assert any(name.endswith(".safetensors") for name in record["files"])


def test_missing_pictures_are_counted(experiment):
    counts = pd.read_csv(experiment[1] / "data" / "vsr_test" / "counts.csv").iloc[0]
    assert (counts["requested"], counts["missing_images"], counts["kept"]) == (60, 6, 54)


def test_dictionaries_keep_their_indices(experiment):
    name, results, *_ = experiment
    config = json.loads((results / "dictionaries/base/seed_0/layer_0/cfg.json").read_text())
    assert (config["d_in"], config["d_sae"]) == (32, 64)
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
