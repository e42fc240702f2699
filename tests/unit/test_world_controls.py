"""Control models: the real schedule, the missing thing really missing, resumption bit for bit."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from vlmdiff.config.world import WorldConfig
from vlmdiff.world import controls
from vlmdiff.world.checkpoints import load_base_lm, load_vlm
from vlmdiff.world.controls import Schedule, ScheduleError, TunedControl, train_control, untuned_vlm
from vlmdiff.world.curriculum import JUDGE, LOCATE, SETTLE
from vlmdiff.world.language import GENERAL_KINDS
from vlmdiff.world.scenes import draw_scene
from vlmdiff.world.tuning import tuning_data

WORLD = Path(__file__).parents[2] / "resources" / "world"
LOG = WORLD / "training_logs" / "vlm.csv"
SMALL = WorldConfig(
    scenes={"train": 60, "validation": 60, "test": 50},
    language_model={"batch_size": 4},
    tuning={"batch_size": 8, "check_every": 3, "validation_samples": 8},
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def short_log(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("log") / "vlm.csv"
    path.write_text("step,phase\n2,locate\n4,judge\n6,settle\n")
    return path


def test_the_schedule_is_that_of_the_real_tuning():
    schedule = Schedule.read(LOG)
    assert schedule.steps == 1438
    assert schedule.curriculum(SMALL, 50).phase is LOCATE
    assert schedule.curriculum(SMALL, 900).phase is JUDGE
    settle = schedule.curriculum(SMALL, 1200)
    assert settle.phase is SETTLE
    assert settle.total_steps == 1438
    # The learning rates of the log itself.
    default = WorldConfig()
    assert schedule.curriculum(default, 1200).learning_rate(1200) == pytest.approx(0.00165972, rel=1e-5)
    assert schedule.curriculum(default, 700).learning_rate(700) == 0.002


@pytest.mark.parametrize(("text", "words"), [("step,phase\n", "no rows"), ("step,phase\n1,dance\n", "dance")])
def test_a_log_that_cannot_be_followed_is_refused(tmp_path, text, words):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ScheduleError, match=words):
        Schedule.read(tmp_path / "log.csv")


@pytest.fixture(scope="module")
def untuned():
    return untuned_vlm(WORLD / "vlm", WORLD / "base_lm")


def test_controls_start_where_the_real_tuning_did(untuned):
    """Tower and projector of the real VLM, words of the base language model."""
    model, _ = untuned
    base, real = load_base_lm(WORLD / "base_lm").model.state_dict(), load_vlm(WORLD / "vlm")[0].state_dict()
    for name, value in model.model.language_model.state_dict().items():
        assert torch.equal(value, base[name])
    frozen = {n: v for n, v in model.state_dict().items() if "vision_tower" in n or "projector" in n}
    assert frozen
    assert all(torch.equal(value, real[name]) for name, value in frozen.items())
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert all("language_model" in name or "lm_head" in name for name in trained)


def control(untuned, kind: str) -> TunedControl:
    model, processor = untuned
    data = tuning_data(SMALL, model, processor)
    return TunedControl(SMALL, kind, model, processor.tokenizer, data, Schedule.read(LOG))


def test_no_spatial_question_is_ever_asked(untuned):
    trainer, rng = control(untuned, "no_spatial"), random.Random(0)
    exchanges = [trainer.draw(draw_scene(rng), step, rng) for step in (1, 200, 700, 1400) for _ in range(200)]
    kinds = Counter(exchange.kind for exchange in exchanges)
    assert set(kinds) == set(GENERAL_KINDS)
    words = {word for exchange in exchanges for word in exchange.text().split()}
    assert not words & {"left", "right", "above", "below", "row", "column", "leftmost", "top", "bottom"}


def test_shuffled_images_are_other_images(untuned, monkeypatch):
    shown = []
    real = controls.final_states
    monkeypatch.setattr(
        controls, "final_states", lambda vlm, ids, images: shown.append(images) or real(vlm, ids, images)
    )
    for kind in ("shuffled_images", "no_spatial"):
        trainer = control(untuned, kind)
        trainer.loss(5)
        rows = random.Random()
        rows = controls.random_stream(SMALL.seed, kind, 5).choices(range(len(trainer.data.scenes)), k=8)
        same = [torch.equal(one, trainer.data.images[row]) for one, row in zip(shown.pop(), rows)]
        assert all(same) if kind == "no_spatial" else sum(same) < 4


@pytest.mark.parametrize("kind", ["continued_text", "shuffled_images", "no_spatial"])
def test_an_interrupted_training_goes_on_where_it_stopped(kind, short_log, tmp_path, monkeypatch):
    folders = (WORLD / "base_lm", WORLD / "vlm")

    def train(name: str) -> dict[str, torch.Tensor]:
        out = tmp_path / name
        train_control(
            SMALL, kind, folders, short_log, out / "m", out / "log.csv", out / "checkpoints", "code"
        )
        assert not (out / "checkpoints").exists()
        load = load_base_lm if kind == "continued_text" else lambda folder: load_vlm(folder)[0]
        return load(out / "m").state_dict()

    whole = train("whole")
    taken = []

    def stop(steps):
        for step in steps:
            if step == 5 and not taken:
                taken.append(step)
                raise KeyboardInterrupt
            yield step

    plain = controls.progress
    monkeypatch.setattr(controls, "progress", lambda steps, what: stop(plain(steps, what)))
    with pytest.raises(KeyboardInterrupt):
        train("parts")
    parts = train("parts")
    assert taken
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    before = load_base_lm(WORLD / "base_lm").model.state_dict()["layers.0.mlp.up_proj.weight"]
    after = next(value for name, value in whole.items() if name.endswith("layers.0.mlp.up_proj.weight"))
    assert not torch.equal(before, after)
