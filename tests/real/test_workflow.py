"""The whole workflow on SmolLM2 and a LLaVA made of it, as a user runs it; what it says is right."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prepare import LLAVA, prepare

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).parent / "config.yaml"
RESULTS = ROOT / "results" / "real"


def snakemake(*arguments: str) -> None:
    """Run Snakemake; it must succeed."""
    command = [sys.executable, "-m", "snakemake", "--configfile", str(CONFIG), "--cores", "2", *arguments]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def run() -> Path:
    """Folder of the finished experiment; what was made before is brought up to date."""
    prepare(ROOT / "results" / "real_sources", ["smollm2", LLAVA])
    snakemake("results/real/summary.md", "results/real/activations/left_out.csv")
    return RESULTS


@pytest.fixture(scope="module")
def left_out(run) -> pd.DataFrame:
    return pd.read_csv(run / "activations" / "left_out.csv", keep_default_na=False, na_values=[""])


def rows(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


def test_the_attention_sink_is_told_and_left_out(left_out):
    sink = rows(left_out, model="base_lm", dataset="text_train", layer=20, kind="first").iloc[0]
    assert sink["n_tokens"] == 400 and sink["position_max"] == 0
    assert sink["variance_share"] > 0.95 and sink["mean_norm"] > 10_000
    kept = rows(left_out, model="base_lm", dataset="text_train", layer=20, kind="kept").iloc[0]
    assert kept["position_min"] == 1 and kept["mean_norm"] < 500 and kept["strongest_share"] < 0.5


def test_massive_word_pieces_are_told_with_their_place(left_out):
    massive = rows(left_out, model="base_lm", layer=20, kind="massive")
    assert len(massive) and massive["multiple_max"].min() > 10
    assert (massive["position_max"] <= 3).all()


def test_dictionaries_of_the_text_are_alive_and_explain_it(run):
    metrics = pd.concat(pd.read_csv(file) for file in metric_files(run))
    base = rows(metrics, dictionary="base", model="base_lm", dataset="text_val", tokens="text", snapshot=100)
    assert sorted(base["layer"]) == [8, 20]
    # With the sink left in, FVU was .006 and 94 % of the features were dead.
    assert base["fvu"].between(0.05, 0.6).all()
    np.testing.assert_allclose(base["l0"], 32, atol=0.5)
    assert (base["dead"] < 2304 / 2).all()


def metric_files(run: Path) -> Iterator[Path]:
    found = sorted((run / "dictionaries").rglob("metrics*.csv")) or sorted(run.rglob("*metrics*.csv"))
    assert found, "no table of metrics"
    yield from found


def final_features(run: Path, concept: str) -> int:
    funnel = pd.read_csv(run / "features" / "main" / "seed_0" / concept / "funnel.csv")
    return int(rows(funnel, stage="final", layer=-1)["features"].sum())


def test_nothing_passes_a_contrast_that_text_cannot_explain(run):
    assert final_features(run, "truth") == 0


def test_heads_are_patched_if_there_is_a_feature_to_trace(run):
    folder = run / "heads" / "seed_0" / "spatial"
    scores, patched = (pd.read_csv(folder / f"{name}.csv") for name in ("scores", "patching"))
    traced = final_features(run, "spatial") > 0
    assert (len(scores) > 0) == (len(patched) > 0) == traced
    assert np.isfinite(scores[["score_a", "score_b"]].to_numpy()).all()


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "file",
    [
        "activations/base_lm/text_val/layers_8_20/shard_0.h5",
        "dictionaries/base/seed_0/layer_8/sae_weights.safetensors",
    ],
)
def test_a_second_run_gives_the_same_bytes(run, file):
    before = digest(run / file)
    snakemake("--force", f"results/real/{file}")
    assert digest(run / file) == before


def test_the_summary_tells_of_the_models_that_ran(run):
    said = (run / "summary.md").read_text()
    assert "Tokens that are left out" in said
