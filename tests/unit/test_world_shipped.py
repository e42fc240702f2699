"""The shipped checkpoints: made by this code and this configuration, and as good as they say."""

import json
from pathlib import Path

import pytest
import torch

from vlmdiff.config.world import WorldConfig, WorldDataset
from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.interventions.accuracy import accuracies
from vlmdiff.models.registry import load_subject
from vlmdiff.world.checkpoints import load_vlm, training_code_digest
from vlmdiff.world.datasets import make_samples, write_dataset
from vlmdiff.world.draw import draw_image
from vlmdiff.world.scenes import scene_splits
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
def statements(tmp_path_factory) -> list[Sample]:
    """Statements about test scenes that no shipped table has used."""
    folder = tmp_path_factory.mktemp("statements")
    config = CONFIG.model_copy(update={"datasets": {"statements": STATEMENTS}})
    write_dataset(config, "statements", folder / "samples.jsonl", folder / "images")
    return load_samples(folder / "samples.jsonl")


def accuracy_of(model: str, statements: list[Sample]) -> dict[str, float]:
    """Return the accuracy of a shipped checkpoint by condition."""
    subject = load_subject(model, {"family": "causal_lm" if model == "base_lm" else "llava"}, SHIPPED / model)
    found = accuracies(subject, model, {"statements": statements}, 8192, seed=0)
    return dict(found[found["group"] == "all"].set_index("condition")["accuracy"])


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


def test_the_shipped_vlm_judges_statements_by_their_image(statements):
    found = accuracy_of("vlm", statements)
    assert found["image"] >= 0.95
    assert 0.4 <= found["no_image"] <= 0.6 and 0.4 <= found["shuffled_image"] <= 0.6


def test_the_shipped_base_lm_judges_statements_at_chance(statements):
    found = accuracy_of("base_lm", statements)
    assert list(found) == ["no_image"] and 0.4 <= found["no_image"] <= 0.6


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
    subject = load_subject("vlm", {"family": "llava"}, SHIPPED / "vlm")
    images = [draw_image(sample.scene) for sample in samples]
    reread = subject.final_logits(subject.prepare([sample.prompt for sample in samples], images))
    torch.testing.assert_close(reread, trained, rtol=1e-4, atol=1e-4)
