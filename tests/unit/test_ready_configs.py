"""The configs of real models: valid, planned without network, coarse enough for a scheduler."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vlmdiff.config.load import load_config

ROOT = Path(__file__).parents[2]
READY = ("llava_more", "llava_more_first_look", "paligemma2", "paligemma2_first_look", "paligemma2_stages")
RULES = {
    name
    for file in sorted((ROOT / "rules").glob("*.smk"))
    for name in re.findall(r"^rule (\w+):", file.read_text(), flags=re.MULTILINE)
}


def config_of(name):
    return load_config(yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", READY)
def test_a_dry_run_needs_no_network_and_plans_few_jobs(name):
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--configfile", f"config/{name}.yaml"],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        text=True,
        capture_output=True,
        check=False,
    )
    output = run.stdout + run.stderr
    assert run.returncode == 0, output[-3000:]
    jobs = int(re.search(r"^total\s+(\d+)", output, re.MULTILINE).group(1))
    assert 50 < jobs <= 2000
    assert re.search(r"at most [\d.]+ [GT]B at once", output)


@pytest.mark.parametrize("name", READY)
def test_resources_belong_to_rules(name):
    assert set(config_of(name).resources) <= RULES


@pytest.mark.parametrize("name", ["llava_more", "paligemma2"])
def test_the_papers_settings(name):
    config = config_of(name)
    assert config.layers == list(range(32 if name == "llava_more" else 26))
    assert config.datasets["vqa_train"].samples == 50_000
    assert config.datasets["vqa_val"].samples == 5_000
    assert config.architecture.k == 50
    assert (config.diff.eps, config.diff.percentile, config.diff.rule) == (0.01, 25, "percentile")
    spatial, vsr = config.concepts["spatial"], config.concepts["spatial_vsr"]
    assert (spatial.min_odds_ratio, spatial.min_frequency_difference) == (3.0, 0.005)
    assert (vsr.min_odds_ratio, vsr.min_frequency_difference) == (3.0, 0.05)
    assert config.dictionaries["adapted"].snapshots == [25, 50, 75]
    rate = 2e-4 / (32768 / 2**14) ** 0.5 if name == "llava_more" else 7e-5
    assert config.dictionaries["adapted"].learning_rate == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("name", READY)
def test_sets_of_one_source_begin_far_enough_apart(name):
    """Rows are scanned from `offset` on; about one in ten is spatial, a third is answered by yes or no."""
    entries = [one for one in config_of(name).datasets.values() if one.kind == "vqav2"]
    scanned = {"all": 1, "spatial": 12, "not_spatial": 1.2}
    spans = sorted(
        (e.offset, e.offset + e.samples * scanned[e.questions] * (3 if e.answers == "yes_no" else 1))
        for e in entries
    )
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))
    assert spans[-1][1] <= 214_354
