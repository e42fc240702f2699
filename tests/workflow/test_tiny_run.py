"""The whole workflow, every rule executed, on the smallest experiment: models trained from nothing."""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = "tests/workflow/config.yaml"
RESULTS = ROOT / "results" / "tiny"
RULES = {
    name
    for file in sorted((ROOT / "rules").glob("*.smk"))
    for name in re.findall(r"^rule (\w+):", file.read_text(), flags=re.MULTILINE)
}

TARGETS = ("all", "world_models", "controls", "stages", "sensitivity")
# Targets, which have no job of their own, and the rule that needs an endpoint.
NO_JOB = {*TARGETS, "descriptions"}
# It makes nothing, and is run by a test of its own.
ASKED_FOR = {"describe_features", "verify"}
# Rules for published models and data, which tests/workflow/test_published_layouts.py runs.
SOURCES = {"fetch_model", "fetch_dictionary", "import_dictionary", "prepare_dataset"}

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


def snakemake(*arguments: str, config: str = CONFIG) -> subprocess.CompletedProcess[str]:
    """Run Snakemake as a user would and return what it printed."""
    command = [sys.executable, "-m", "snakemake", "--configfile", config, "--cores", "2", *arguments]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)


def planned(*arguments: str) -> set[str]:
    """Return the names of the rules that a dry run plans."""
    run = snakemake("-n", *arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    return set(re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):", run.stdout + run.stderr, re.MULTILINE))


@pytest.fixture(scope="module")
def tiny_run() -> subprocess.CompletedProcess[str]:
    """Run everything from nothing, once."""
    subprocess.run(["rm", "-rf", str(RESULTS)], check=True)
    run = snakemake(*TARGETS)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-6000:]
    return run


def test_every_rule_ran(tiny_run):
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


def test_a_second_run_does_nothing(tiny_run):
    assert planned(*TARGETS) == set()


class Endpoint(BaseHTTPRequestHandler):
    """Answers every chat request."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls += 1
        self.send_response(200)
        self.end_headers()
        answer = {"message": {"content": "a place"}, "finish_reason": "stop"}
        self.wfile.write(json.dumps({"choices": [answer], "model": "stub"}).encode())

    def log_message(self, *_):
        pass


def test_features_are_described_by_an_endpoint_and_nothing_else_runs(tiny_run):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.calls = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {"base_url": f"http://127.0.0.1:{server.server_port}/v1", "model": "m", "features": 2}
    try:
        run = snakemake("descriptions", "--config", f"labelling={json.dumps(settings)}")
    finally:
        server.shutdown()
        server.server_close()
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    ran = set(re.findall(r"^(?:local)?rule (\w+):", run.stdout + run.stderr, re.MULTILINE))
    assert ran == {"describe_features", "descriptions"}
    tables = sorted(RESULTS.rglob("descriptions.csv"))
    assert len(tables) == 2
    assert server.calls == sum(len(table.read_text().splitlines()) - 1 for table in tables) > 0


def test_report_is_made_offline(tiny_run, tmp_path):
    report = tmp_path / "report.html"
    run = snakemake("--report", str(report))
    assert run.returncode == 0, run.stderr
    assert report.stat().st_size > 100_000


def test_a_damaged_result_is_told_by_verify_and_refused_by_the_jobs_that_read_it(tiny_run):
    table = RESULTS / "features" / "main" / "seed_0" / "spatial" / "contrast.parquet"
    page, content = RESULTS / "features" / "main" / "seed_0" / "spatial" / "funnel.csv", table.read_bytes()
    whole = snakemake("verify")
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert " 0 files damaged" in whole.stderr
    try:
        table.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        damaged = snakemake("verify")
        reading = snakemake("--forcerun", "select_features", "--", str(page.relative_to(ROOT)))
    finally:
        table.write_bytes(content)
    for run in (damaged, reading):
        assert run.returncode != 0
        assert f"{table.relative_to(ROOT)}" in run.stderr
    assert "snakemake --cores all -- results/tiny/features" in damaged.stderr
    assert "run snakemake again, which makes" in reading.stderr
    # Snakemake has removed the outputs of the job that it began; all else is as it was.
    assert snakemake().returncode == 0
    assert snakemake("verify").returncode == 0


@pytest.mark.parametrize(
    ("file", "remade", "kept"),
    [
        ("figures/style.py", "plot_", "train_"),
        ("dictionaries/modules.py", "train_dictionary", "extract_activations"),
        ("features/contrast.py", "contrast_concept", "train_dictionary"),
    ],
)
def test_an_edit_remakes_what_depends_on_it(tiny_run, file, remade, kept):
    path = ROOT / "workflow_scripts" / "vlmdiff" / file
    text = path.read_text()
    try:
        path.write_text(text + "\nEDITED = True\n")
        rules = planned("all")
    finally:
        path.write_text(text)
    assert any(rule.startswith(remade) for rule in rules)
    assert not any(rule.startswith(kept) for rule in rules)


def test_a_comment_remakes_nothing(tiny_run):
    path = ROOT / "workflow_scripts" / "vlmdiff" / "dictionaries" / "modules.py"
    text = path.read_text()
    try:
        path.write_text(text + "\n# only a comment\n")
        assert planned("all") == set()
    finally:
        path.write_text(text)


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
