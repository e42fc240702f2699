"""The gates, the learning rate and the relation skew of the tuning curriculum."""

from collections import Counter

import pytest

from vlmdiff.config.world import Tuning
from vlmdiff.world.curriculum import COMPARE, JUDGE, LOCATE, SETTLE, Curriculum, FirstGateClosedError
from vlmdiff.world.language import QUESTION_KINDS
from vlmdiff.world.scenes import draw_scene
from vlmdiff.world.seeds import random_stream

SETTINGS = Tuning(max_steps=2_000, patience=500)
PERFECT = dict.fromkeys(QUESTION_KINDS, 1.0)
POOR = dict.fromkeys(QUESTION_KINDS, 0.5)


def at_phase(index: int, start: int = 0) -> Curriculum:
    return Curriculum(SETTINGS, index, start)


def test_phases_open_one_by_one_when_their_kinds_are_learned():
    curriculum = at_phase(0)
    phases = []
    for step in (50, 100, 150, 200):
        phases.append(curriculum.phase)
        curriculum.update(step, PERFECT)
    assert phases == [LOCATE, COMPARE, JUDGE, SETTLE]


def test_a_closed_gate_keeps_the_phase():
    curriculum = at_phase(0)
    curriculum.update(50, {**PERFECT, "row": 0.9})
    assert curriculum.phase is LOCATE


def test_a_first_gate_that_stays_closed_is_an_error():
    with pytest.raises(FirstGateClosedError, match="'row': 0.5"):
        at_phase(0).update(500, POOR)


def test_time_running_out_starts_the_decay():
    curriculum = at_phase(2, 300)
    curriculum.update(1_600, POOR)
    assert curriculum.phase is SETTLE
    assert curriculum.total_steps == 2_000


def test_the_learning_rate_warms_up_and_decays_over_the_last_fifth():
    early, late = at_phase(0), at_phase(3, 800)
    assert early.learning_rate(25) == pytest.approx(SETTINGS.learning_rate / 2)
    assert early.learning_rate(700) == SETTINGS.learning_rate
    assert late.total_steps == 1_000
    assert late.learning_rate(801) == SETTINGS.learning_rate
    assert 0 < late.learning_rate(1_000) < SETTINGS.learning_rate / 100


def test_statements_are_not_asked_before_objects_are_located():
    rng = random_stream(0)
    kinds = Counter(at_phase(0).draw(draw_scene(rng), 1, rng).kind for _ in range(500))
    assert kinds["statement"] == 0
    assert kinds.most_common(1)[0][0] == "description"


def test_the_skew_favours_two_relations_and_fades():
    curriculum = at_phase(2, 100)
    rng = random_stream(0)
    drawn = [curriculum.draw(draw_scene(rng), 101, rng) for _ in range(2_000)]
    relations = Counter(exchange.group for exchange in drawn if exchange.kind == "statement")
    assert relations["left of"] + relations["above"] > 0.8 * relations.total()
    assert curriculum.skew(100 + SETTINGS.skew_steps) == 0
