"""The whole workflow, every rule executed, on the smallest experiment: models trained from nothing."""

import re
import shutil
from functools import partial

import pytest
from rule_texts import rules
from tiny_experiment import RESULTS as FOLDER
from tiny_experiment import ROOT, TARGETS, snakemake

from vlmdiff.tables.io import read_table
from vlmdiff.tables.labels import DESCRIPTIONS, DETECTIONS

RESULTS = ROOT / FOLDER
RULES = set(rules(sorted((ROOT / "rules").glob("*.smk"))))

# Targets, which have no job of their own, and the rule that needs an endpoint.
NO_JOB = {*TARGETS, "descriptions", "sources"}
# It makes nothing, and is run by a test of its own.
ASKED_FOR = {"describe_features", "verify"}
# Rules for published models and data, which tests/workflow/test_published_layouts.py runs.
SOURCES = {"fetch_model", "fetch_dictionary", "import_dictionary", "estimate_scale", "prepare_dataset"}
# Rules of a real language model, and of a section that this experiment leaves out, for test_real_model.py.
SOURCES |= {"fit_frame", "tune_adapter", "merge_adapter", "evaluate_perplexity"}

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


def test_every_rule_ran(tiny_run, request):
    if request.config.getoption("--reuse-run"):
        pytest.skip("most rules ran earlier")
    ran = set(re.findall(r"^(?:local)?rule (\w+):", tiny_run.stdout + tiny_run.stderr, re.MULTILINE))
    assert RULES - SOURCES - NO_JOB - ASKED_FOR - ran == set()


def test_every_job_left_a_log_and_a_benchmark(tiny_run):
    for folder in ("logs", "benchmarks"):
        named = {
            path.relative_to(RESULTS / folder).parts[0].partition(".")[0]
            for path in (RESULTS / folder).rglob("*")
            if path.is_file()
        }
        assert RULES - SOURCES - NO_JOB - ASKED_FOR - named == set()


def test_a_second_run_does_nothing(tiny_run, tiny_config):
    run = snakemake("-n", *TARGETS, config=tiny_config)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Nothing to be done" in run.stdout + run.stderr


def test_features_are_described_by_an_endpoint_and_nothing_else_runs(described_run, endpoint):
    ran = set(
        re.findall(r"^(?:local)?rule (\w+):", described_run.stdout + described_run.stderr, re.MULTILINE)
    )
    assert ran == {"describe_features", "descriptions"}
    tables = sorted(RESULTS.rglob("descriptions.csv"))
    assert len(tables) == 2
    described = [read_table(table, DESCRIPTIONS) for table in tables]
    tried = [read_table(table.with_name("detections.csv"), DETECTIONS) for table in tables]
    # One description fits all, so that features share questions about a sample. Most of this small model's
    # features fire on every sample, so that nothing can be asked of them.
    questions = sum(table["sample_id"].nunique() for table in tried)
    assert endpoint.calls == sum(map(len, described)) + questions > questions
    for table, detections in zip(described, tried):
        assert set(detections["answer"]) <= {"yes"} and (table["hits"] == table["fires"]).all()
        scored = table[(table["fires"] > 0) & (table["silent"] > 0)]
        assert (scored["balanced_accuracy"] == 0.5).all() and (scored["detection_p"] == 1).all()


def test_report_is_made_offline(tiny_run, tiny_config, tmp_path):
    report = tmp_path / "report.html"
    run = snakemake("--report", str(report), config=tiny_config)
    assert run.returncode == 0, run.stderr
    assert report.stat().st_size > 100_000
    page = report.read_text()
    assert "What was found" in page and "1 Summary" in page
    # The report sorts rows by their columns: with the kind first, figures come before tables.
    assert re.search(r'"labels": {"kind": "figure", "result": "[^"]+"', page)
    place = re.search(r'href=\\"([^"]*explorer/index.html)\\"', page)[1]
    assert (tmp_path / place).resolve() == (RESULTS / "explorer" / "index.html").resolve()


def test_a_damaged_result_is_told_by_verify_and_refused_by_the_jobs_that_read_it(tiny_run, tiny_config):
    run = partial(snakemake, config=tiny_config)
    table = RESULTS / "features" / "main" / "seed_0" / "spatial" / "contrast.parquet"
    figure = f"{FOLDER}/figures/seed_0/spatial/contrast_volcano.svg"
    content = table.read_bytes()
    whole = run("verify")
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert " 0 files damaged" in whole.stderr
    try:
        table.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        damaged = run("verify")
        reading = run("--forcerun", "plot_contrast_volcano", "--", figure)
    finally:
        table.write_bytes(content)
    for failed in (damaged, reading):
        assert failed.returncode != 0
        assert str(table.relative_to(ROOT)) in failed.stderr
    assert "(rm -r results/tiny/features" in damaged.stderr
    assert "run the experiment again" in damaged.stderr
    assert "run snakemake again, which makes" in reading.stderr
    # Snakemake has removed the outputs of the job that it began; all else is as it was.
    assert run("--", figure).returncode == 0
    assert run("verify").returncode == 0


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("layerz=[0]", ["layerz", "unknown key"]),
        ("seeds=none", ["seeds", "integer"]),
        ("layers=[]", ["layers", "at least 1"]),
    ],
)
def test_a_bad_setting_stops_before_anything_is_planned(setting, words):
    run = snakemake("-n", "--config", setting)
    assert run.returncode != 0
    output = run.stdout + run.stderr
    for word in [*words, "The configuration is not valid"]:
        assert word in output
    assert "Traceback" not in output


@pytest.mark.long
def test_a_job_trains_only_the_layer_that_is_not_kept(tiny_run, tiny_config):
    """One layer has lost its dictionary and the second name of it; the other one comes back as it was."""
    place = "dictionaries/base/seed_0"
    weights = {layer: RESULTS / place / f"layer_{layer}" / "sae_weights.safetensors" for layer in (0, 1)}
    before = {layer: file.read_bytes() for layer, file in weights.items()}
    weights[1].unlink()
    shutil.rmtree(RESULTS / "finished" / place / "layer_1")
    run = snakemake("--", str(weights[1].relative_to(ROOT)), config=tiny_config)
    assert run.returncode == 0, run.stdout + run.stderr
    assert {layer: file.read_bytes() for layer, file in weights.items()} == before
    log = (RESULTS / "logs/train_dictionary/base/seed_0/layers_0_1.log").read_text()
    assert log.count("layer_0 was trained before") == 1 and "layer_1 was trained" not in log
    assert len(set(re.findall(r"step (\d+)/", log))) == log.count(": loss") > 0
    # Whatever reads them is brought up to date, and comes out as it was.
    assert snakemake(*TARGETS, config=tiny_config).returncode == 0
