"""The shipped checkpoints: made by this code and this configuration, and as good as they say."""

import json
from pathlib import Path

import pytest
import torch

from vlmdiff.config.world import WorldConfig, WorldDataset
from vlmdiff.world.checkpoints import load_vlm, training_code_digest
from vlmdiff.world.datasets import make_samples
from vlmdiff.world.draw import draw_image
from vlmdiff.world.evaluation import IMAGE, NO_IMAGE, SHUFFLED_IMAGE, Answerer, Question, score, shown_images
from vlmdiff.world.scenes import scene_splits
from vlmdiff.world.seeds import random_stream
from vlmdiff.world.sequences import encode, final_states
from vlmdiff.world.shipping import PROVENANCE, SHIPPED_MODELS
from vlmdiff.world.tuning import project_images

SHIPPED = Path(__file__).parents[2] / "resources" / "world"
CONFIG = WorldConfig()
STATEMENTS = WorldDataset(kind="spatial", scenes="test", samples=400, seed=17)


@pytest.fixture(scope="module")
def provenance() -> dict:
    return json.loads((SHIPPED / PROVENANCE).read_text())


@pytest.fixture(scope="module")
def statements() -> list[Question]:
    """Statements about test scenes that no shipped table has used."""
    scenes = scene_splits(CONFIG.scenes.model_dump(), CONFIG.seed)["test"]
    return [
        Question(s.prompt, s.exchange.answer, s.exchange.choices, s.exchange.group, draw_image(s.scene))
        for s in make_samples(STATEMENTS, scenes, CONFIG.seed)
    ]


def test_the_shipped_checkpoints_were_made_by_this_code(provenance):
    assert provenance["code_digest"] == training_code_digest(), (
        "the training code of the built-in world has changed: run `make ship-world`, which trains and "
        "ships the checkpoints anew"
    )


def test_the_shipped_checkpoints_were_made_with_the_default_settings(provenance):
    settings = {}
    for stage in ("language_model", "vision", "tuning"):
        settings |= CONFIG.stage_settings(stage)
    # Test scenes are drawn after those of the trainings, which do not depend on how many there are.
    recorded = {**provenance["settings"], "scenes": dict(provenance["settings"]["scenes"])}
    recorded["scenes"].pop("test", None)
    assert recorded == settings


def test_the_shipped_folder_is_complete_and_small(provenance):
    assert {folder.name for folder in SHIPPED.iterdir() if folder.is_dir()} == {
        *SHIPPED_MODELS,
        "training_logs",
    }
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 25e6


@pytest.mark.parametrize(
    ("condition", "low", "high"), [(IMAGE, 0.95, 1.0), (NO_IMAGE, 0.4, 0.6), (SHUFFLED_IMAGE, 0.4, 0.6)]
)
def test_the_shipped_vlm_judges_statements_by_their_image(statements, condition, low, high):
    images = shown_images(condition, statements, random_stream(0))
    accuracy = score(Answerer(SHIPPED / "vlm"), statements, images)["correct"].mean()
    assert low <= accuracy <= high


def test_the_shipped_base_lm_judges_statements_at_chance(statements):
    accuracy = score(Answerer(SHIPPED / "base_lm"), statements, None)["correct"].mean()
    assert 0.4 <= accuracy <= 0.6


@torch.no_grad()
def test_raw_pixels_give_the_logits_of_training():
    vlm, processor = load_vlm(SHIPPED / "vlm")
    vlm.eval()
    scenes = scene_splits(CONFIG.scenes.model_dump(), CONFIG.seed)["test"]
    samples = make_samples(STATEMENTS, scenes, CONFIG.seed)[:20]
    sequences = encode([sample.exchange for sample in samples], processor.tokenizer)
    projected = project_images(vlm, processor, [sample.scene for sample in samples])
    rows = torch.arange(len(samples))
    trained = vlm.lm_head(final_states(vlm, sequences.input_ids, projected))[rows, sequences.assistant]
    reread = Answerer(SHIPPED / "vlm").logits(
        [sample.prompt for sample in samples], [draw_image(sample.scene) for sample in samples]
    )
    torch.testing.assert_close(reread, trained, rtol=1e-4, atol=1e-4)
