"""The trainings of the built-in world, from nothing, at a small size."""

import csv
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from vlmdiff.config.world import WorldConfig, WorldDataset
from vlmdiff.tables.io import read_table
from vlmdiff.tables.models import ACCURACY
from vlmdiff.world import tuning
from vlmdiff.world.base_lm import train_base_lm
from vlmdiff.world.checkpoints import load_base_lm, load_vlm
from vlmdiff.world.curriculum import FirstGateClosedError
from vlmdiff.world.datasets import write_dataset
from vlmdiff.world.evaluation import evaluate_models
from vlmdiff.world.shipping import NotShippableError, provenance, ship
from vlmdiff.world.vision import train_vision

pytestmark = pytest.mark.slow
PERCENTAGES = {25: "vlm_25", 50: "vlm_50", 75: "vlm_75", 100: "vlm"}
TINY = WorldConfig(
    models="train",
    scenes={"train": 200, "validation": 60, "test": 100},
    language_model={"d_model": 32, "blocks": 2, "heads": 2, "d_mlp": 64, "steps": 20, "batch_size": 16},
    vision={"d_vision": 16, "blocks": 1, "heads": 2, "d_mlp": 32, "steps": 20, "projector_steps": 20},
    tuning={"batch_size": 16, "max_steps": 40, "check_every": 4, "validation_samples": 16, "patience": 100},
    datasets={"spatial_test": WorldDataset(kind="spatial", scenes="test", samples=16)},
)


def tune(config: WorldConfig, world: Path, aligned: Path) -> None:
    folders = {percent: world / "models" / name for percent, name in PERCENTAGES.items()}
    tuning.train_vlm(config, aligned, folders, world / "training_logs" / "vlm.csv", world / "checkpoints")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A world folder as the rules leave it."""
    folder = tmp_path_factory.mktemp("world")
    models, logs = folder / "models", folder / "training_logs"
    train_base_lm(TINY, models / "base_lm", logs / "base_lm.csv")
    train_vision(TINY, models / "base_lm", models / "vlm_0", logs / "vision.csv")
    tune(TINY, folder, models / "vlm_0")
    write_dataset(TINY, "spatial_test", folder / "data" / "samples.jsonl", folder / "data" / "images")
    evaluate_models(
        {name: models / name for name in ("base_lm", *PERCENTAGES.values())},
        {"spatial_test": folder / "data" / "samples.jsonl"},
        TINY.seed,
        folder / "accuracy_trained.csv",
    )
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_vlm(folder)[0].state_dict()


def test_the_vlm_starts_from_the_base_language_model(world: Path):
    base = load_base_lm(world / "models" / "base_lm").model.state_dict()
    aligned = load_vlm(world / "models" / "vlm_0")[0].model.language_model.state_dict()
    assert base.keys() == aligned.keys()
    assert all(torch.equal(base[name], aligned[name]) for name in base)


def test_tuning_changes_the_language_model_and_nothing_else(world: Path):
    before, after = weights(world / "models" / "vlm_0"), weights(world / "models" / "vlm")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("vision_tower" in name or "projector" in name for name in changed)


def test_snapshots_differ(world: Path):
    name = "model.language_model.norm.weight"
    values = [weights(world / "models" / folder)[name] for folder in PERCENTAGES.values()]
    assert all(not torch.equal(one, other) for one, other in zip(values, values[1:], strict=False))


def test_models_load_by_transformers_own_classes_with_tied_embeddings(world: Path):
    model = AutoModelForCausalLM.from_pretrained(world / "models" / "base_lm", dtype=torch.float32)
    assert model.get_input_embeddings().weight is model.lm_head.weight
    vlm, _ = load_vlm(world / "models" / "vlm")
    assert vlm.get_input_embeddings().weight is vlm.lm_head.weight


def test_the_logs_tell_phases_and_losses(world: Path):
    with (world / "training_logs" / "vlm.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(4, 41, 4))
    assert {row["phase"] for row in rows} == {"locate", "settle"}
    assert all(float(row["loss"]) > 0 for row in rows)


def test_an_interrupted_run_resumes_to_the_same_weights(world: Path, tmp_path: Path, monkeypatch):
    aligned = world / "models" / "vlm_0"
    step = tuning.TuningRun._step

    def interrupted(self, curriculum, number):
        if number == 18:
            raise KeyboardInterrupt
        return step(self, curriculum, number)

    with monkeypatch.context() as patch:
        patch.setattr(tuning.TuningRun, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(TINY, tmp_path, aligned)
    tune(TINY, tmp_path, aligned)
    whole, resumed = weights(world / "models" / "vlm"), weights(tmp_path / "models" / "vlm")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    whole_log, resumed_log = (folder / "training_logs" / "vlm.csv" for folder in (world, tmp_path))
    assert whole_log.read_text() == resumed_log.read_text()
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_that_learns_nothing_tries_another_seed_and_then_says_so(world: Path, tmp_path: Path, caplog):
    impatient = TINY.model_copy(update={"tuning": TINY.tuning.model_copy(update={"patience": 8})})
    with pytest.raises(FirstGateClosedError, match="after 8 steps"):
        tune(impatient, tmp_path, world / "models" / "vlm_0")
    assert "attempt 0 failed" in caplog.text


def test_accuracy_table_has_every_model_and_condition(world: Path):
    table = read_table(world / "accuracy_trained.csv", ACCURACY)
    conditions = {model: set(part.condition) for model, part in table.groupby("model")}
    assert conditions["base_lm"] == {"no_image"}
    assert all(conditions[name] == {"image", "no_image", "shuffled_image"} for name in PERCENTAGES.values())
    assert table.chance.eq(0.5).all()
    assert ((table.ci_low <= table.accuracy) & (table.accuracy <= table.ci_high)).all()


def test_shipping_copies_models_and_tells_where_they_come_from(world: Path, tmp_path: Path):
    table = world / "accuracy_trained.csv"
    ship(world / "models", world / "training_logs", table, tmp_path / "shipped")
    assert (tmp_path / "shipped" / "vlm" / "model.safetensors").is_file()
    origin = provenance(world / "models", table)
    assert origin["settings"]["tuning"] == TINY.stage_settings("tuning")["tuning"]
    assert origin["models"]["vlm"]["steps"] == 40
    assert str(tmp_path) not in (tmp_path / "shipped" / "provenance.json").read_text()


def test_models_of_different_code_are_not_shipped(world: Path, monkeypatch):
    monkeypatch.setattr("vlmdiff.world.shipping.read_record", _record_with_foreign_code)
    with pytest.raises(NotShippableError, match="code_digest"):
        provenance(world / "models", world / "accuracy_trained.csv")


def _record_with_foreign_code(folder: Path) -> dict:
    facts = {"code_digest": folder.name, "python": "3", "packages": {}, "settings": {}}
    return {"stage": "language_model", "steps": 1, "wall_s": 1.0, **facts}
