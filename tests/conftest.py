"""Fixtures that all tests share: tiny checkpoints and data sets, made once a session."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

# Before torch is imported: sleeping threads, and no look at the network.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# Here Triton's loops run on a CPU, operation by operation.
os.environ["TRITON_INTERPRET"] = "1"
# `make` that a test starts says and does the same under `make test`.
os.environ.pop("MAKEFLAGS", None)
os.environ.pop("MAKELEVEL", None)

import pytest
from jaxtyping import install_import_hook
from tiny_models import build_tiny_dataset, build_tiny_lm, build_tiny_text_dataset, build_tiny_vlm

# Types and shapes of these rooms' annotations are checked at run time; before they are imported.
CHECKED_ROOMS = ("activations", "models", "data", "extraction", "dictionaries")
install_import_hook([f"vlmdiff.{room}" for room in CHECKED_ROOMS], "beartype.beartype")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of tests/workflow/test_staleness.py."""
    group = parser.getgroup("staleness")
    group.addoption("--reuse-run", action="store_true", help="bring the tiny experiment up to date only")
    group.addoption(
        "--every-change", action="store_true", help="try every change, not sixty of different kinds"
    )
    group.addoption("--write-staleness", action="store_true", help="write tests/workflow/staleness.yaml anew")


@pytest.fixture(autouse=True, scope="module")
def nothing_older_is_garbage() -> None:
    """Let the collector pass over what is there already: statsmodels calls it for each correction of p.

    With the modules of all tests it takes a second.
    """
    gc.freeze()


@pytest.fixture(autouse=True)
def usual_small_numbers() -> None:
    """Undo what a training in this process sets: numbers below 1e-38 count as zero."""
    import torch

    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def no_pause_after_parquet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the five seconds that `datasets` waits for Arrow's threads: this process does not end yet."""
    if "datasets" in sys.modules:
        monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture(scope="session")
def tiny_vlm_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random LLaVA: 3 blocks, 4 heads, d_model 32, 9 image tokens."""
    return build_tiny_vlm(tmp_path_factory.mktemp("models") / "tiny_vlm")


@pytest.fixture(scope="session")
def tiny_lm_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama with the same tokenizer and shape."""
    return build_tiny_lm(tmp_path_factory.mktemp("models") / "tiny_lm")


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 40 questions with images; groups are four relations and `colour`."""
    return build_tiny_dataset(tmp_path_factory.mktemp("datasets") / "tiny_questions")


@pytest.fixture(scope="session")
def tiny_text_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 40 raw documents without images."""
    return build_tiny_text_dataset(tmp_path_factory.mktemp("datasets") / "tiny_text")
