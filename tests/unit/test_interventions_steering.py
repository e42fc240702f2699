"""Steering: the vector is a difference of means, and what is added is what was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from causal_files import answered, filled, rank_tiny, write_dictionaries, write_tables
from tiny_models import build_tiny_dataset

from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT
from vlmdiff.interventions.feature_ablation import unit_directions
from vlmdiff.interventions.inputs import ModelFiles, QuestionSets, dictionary_folders
from vlmdiff.interventions.steering import (
    Direction,
    Dose,
    Steering,
    best_dose,
    caa_directions,
    caa_vector,
    evaluate_steering,
    feature_directions,
    named_doses,
    pool_residuals,
    pool_winners,
    random_pool,
    steered_tokens,
)
from vlmdiff.models.batch import Batch
from vlmdiff.models.hooks import record_inputs
from vlmdiff.models.positions import text_after_image
from vlmdiff.runtime.seeds import derive_seed
from vlmdiff.tables.causal import RANKING, STEERING
from vlmdiff.tables.io import read_table, write_table


@pytest.fixture(scope="module")
def model(tiny_vlm_path):
    return ModelFiles("vlm", {"family": "llava"}, str(tiny_vlm_path / "config.json"))


@pytest.fixture(scope="module")
def questions(tiny_dataset, tmp_path_factory):
    general = build_tiny_dataset(tmp_path_factory.mktemp("general") / "data", samples=20, seed=1)
    files = (str(tiny_dataset / "samples.jsonl"), str(general / "samples.jsonl"))
    return QuestionSets(*files, ["spatial", "general"], samples=20, batch_tokens=1024)


@pytest.fixture(scope="module")
def evaluation(model, questions):
    return questions.evaluations(model.load())["spatial"]


def test_residuals_are_pooled_over_text_after_the_image(evaluation):
    pooled, subject = pool_residuals(evaluation, [0, 2]), evaluation.subject
    norms = []
    for index, sample in enumerate(evaluation.samples):
        batch = subject.prepare([sample.prompt], [sample.open_image()])
        with torch.no_grad():
            residual = subject.residuals(batch, [2])[2][0]
        last = int(torch.nonzero(batch.token_type[0] == IMAGE).max())
        after = [i for i, kind in enumerate(batch.token_type[0]) if kind == TEXT and i > last]
        torch.testing.assert_close(pooled.means[2][index], residual[after].mean(0), rtol=1e-4, atol=1e-5)
        norms.append(residual[after].norm(dim=-1))
    assert pooled.norms[2] == pytest.approx(float(torch.cat(norms).mean()), rel=1e-4)


def test_without_an_image_all_text_is_steered(evaluation):
    subject, sample = evaluation.subject, evaluation.samples[0]
    batch = subject.prepare([sample.prompt, "red circle"], [sample.open_image(), None])
    found = steered_tokens(batch)
    assert found[0].tolist() == text_after_image(batch)[0].tolist()
    assert found[1].tolist() == (batch.token_type[1] == TEXT).tolist()
    assert found[1].any()


def test_text_before_an_image_is_not_steered():
    kinds = torch.tensor([[BOS, TEXT, IMAGE, TEXT], [BOS, TEXT, TEXT, PADDING]], dtype=torch.uint8)
    ids, last = torch.zeros(2, 4, dtype=torch.int64), torch.tensor([3, 2])
    batch = Batch(ids, (kinds != PADDING).long(), kinds, last, torch.zeros(2, dtype=torch.int64))
    expected = [[False, False, False, True], [False, True, True, False]]
    assert steered_tokens(batch).tolist() == expected


def test_the_vector_points_from_wrong_to_right():
    pooled = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    vector = caa_vector(pooled, np.array([True, True, False]))
    expected = torch.tensor([2.0, -5.0])
    torch.testing.assert_close(vector, expected / expected.norm())
    assert caa_vector(pooled, np.array([True] * 3)) is None
    assert caa_vector(pooled, np.array([False] * 3)) is None


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_exactly_what_was_asked_for_is_added(evaluation, layer):
    """Behind the block, and to nothing else; behind the last block as well (the tiny model has three)."""
    subject, sample = evaluation.subject, evaluation.samples[0]
    batch = subject.prepare([sample.prompt], [sample.open_image()])
    vector = torch.nn.functional.normalize(torch.arange(subject.d_model, dtype=torch.float32), dim=0)
    leaving = {layer: subject.block(layer + 1) if layer < 2 else subject.norm}
    found = []
    with torch.no_grad():
        for length in (0.0, 3.0):
            steering = Steering(subject, Direction("caa", layer, -1, 0, vector), length)
            with steering.at(steering.tokens(batch)), record_inputs(leaving) as recorded:
                subject.final_logits(batch)
            found.append(recorded[layer])
    moved = (found[1] - found[0])[0]
    is_text = batch.token_type[0] == TEXT
    is_text[: int(torch.nonzero(batch.token_type[0] == IMAGE).max())] = False
    torch.testing.assert_close(
        moved[is_text], (3.0 * vector).expand(int(is_text.sum()), -1), rtol=1e-4, atol=1e-5
    )
    assert moved[~is_text].abs().max() == 0


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_blocks_up_to_the_direction_are_skipped_without_changing_the_answer(evaluation, layer):
    vector = torch.nn.functional.normalize(torch.arange(evaluation.subject.d_model).float() - 7, dim=0)
    steering = Steering(evaluation.subject, Direction("caa", layer, -1, 0, vector), 4.0)
    assert steering.first_block == (1, 2, 2)[layer]
    every = answered(evaluation.subject, evaluation.samples, steering).margin
    assert np.abs(every - evaluation.answers().margin).max() > 1e-3
    np.testing.assert_allclose(evaluation.answers(steering).margin, every, atol=1e-5)


def test_nothing_added_changes_nothing(evaluation):
    vector = torch.ones(evaluation.subject.d_model)
    steering = Steering(evaluation.subject, Direction("caa", 1, -1, 0, vector), 0.0)
    np.testing.assert_allclose(evaluation.answers(steering).margin, evaluation.answers().margin, atol=1e-5)


def test_adding_what_raises_the_right_answer_raises_the_margin(evaluation):
    """A direction of the unembedding: the answer's row less the other choice's, for one question alone."""
    subject = evaluation.subject
    ids = subject.tokenizer.convert_tokens_to_ids(["true", "false"])
    weight = subject.model.lm_head.weight
    vector = torch.nn.functional.normalize(weight[ids[0]] - weight[ids[1]], dim=0).detach()
    steered = evaluation.answers(Steering(subject, Direction("feature", 2, 0, 0, vector), 5.0))
    change = steered.margin - evaluation.answers().margin
    answers = np.array([sample.answer for sample in evaluation.samples])
    assert change[answers == "true"].min() > 0
    assert change[answers == "false"].max() < 0


def test_a_pool_is_as_the_arms_are():
    """As many directions, at the same layers, of the same lengths; each its own, and repeatable."""
    vectors = (torch.full((32,), 1.0), torch.arange(32.0), torch.full((32,), 2.0))
    arms = [
        Direction(arm, layer, 5, 0, vector)
        for arm, layer, vector in zip(("caa", "feature", "caa_feature"), (0, 2, 2), vectors)
    ]
    pools = [random_pool(arms, draw, seed=3) for draw in range(4)]
    for draw, pool in enumerate(pools):
        assert [(one.arm, one.layer, one.feature, one.draw) for one in pool] == [
            ("random", 0, -1, draw), ("random", 2, -1, draw), ("random", 2, -1, draw)
        ]  # fmt: skip
        lengths = [float(one.vector.norm()) for one in pool]
        assert lengths == pytest.approx([32**0.5, (31 * 32 * 63 / 6) ** 0.5, 128**0.5], rel=1e-5)
    units = torch.stack([one.vector / one.vector.norm() for pool in pools for one in pool])
    assert (units @ units.T - torch.eye(12)).abs().max() < 0.8
    again = random_pool(arms, 2, seed=3)
    assert all(torch.equal(one.vector, other.vector) for one, other in zip(again, pools[2]))
    assert not torch.equal(random_pool(arms, 2, seed=4)[0].vector, pools[2][0].vector)


def doses(arm: str, name_layer: int, draw: int, *scores: tuple[float, float, float]) -> list[Dose]:
    """Doses of one direction: strength, accuracy and margin on validation data."""
    return [Dose(Direction(arm, name_layer, -1, draw, torch.ones(2)), *score) for score in scores]


def test_the_best_dose_is_the_most_accurate_then_the_surest_then_the_first():
    found = doses("caa", 1, 0, (1.0, 0.1, 0.0), (2.0, 0.1, 0.5), (-1.0, 0.0, 9.0), (3.0, 0.1, 0.5))
    assert best_dose(found).strength == 2.0


def test_each_arm_chooses_its_strength_and_the_claim_its_arm():
    found = [
        *doses("caa", 1, 0, (0.5, 0.02, 1.0), (1.0, 0.03, 0.0)),
        *doses("caa", 2, 0, (0.5, 0.05, -3.0), (1.0, 0.05, -2.0)),
        *doses("caa_middle", 2, 0, (0.5, 0.04, 7.0), (1.0, -0.5, 8.0)),
    ]
    named = named_doses(found)
    assert [dose.chosen for dose in named] == [False, True, False, True, True, False]
    assert [dose.winner for dose in named] == [False] * 3 + [True] + [False] * 2
    assert [(dose.direction.layer, dose.strength, dose.accuracy) for dose in named] == [
        (dose.direction.layer, dose.strength, dose.accuracy) for dose in found
    ]


def test_a_pool_sends_its_best_direction_at_its_best_strength():
    found = [
        *doses("random", 1, 0, (0.5, 0.02, 1.0), (1.0, 0.03, 0.0)),
        *doses("random", 2, 0, (0.5, 0.05, -3.0), (1.0, 0.05, -2.0)),
        *doses("random", 1, 1, (0.5, -0.02, 1.0), (1.0, -0.03, 0.0)),
        *doses("random", 2, 1, (0.5, -0.02, 0.9), (1.0, -0.9, 5.0)),
    ]
    winners = pool_winners(found)
    assert [(dose.direction.draw, dose.direction.layer, dose.strength) for dose in winners] == [
        (0, 2, 1.0), (1, 1, 0.5)
    ]  # fmt: skip
    assert all(dose.chosen and dose.winner for dose in winners)


def test_the_middle_layer_is_the_baseline_and_counts_once():
    vectors = {layer: torch.full((4,), float(layer)) for layer in (0, 1, 2)}
    found = [(one.arm, one.layer, float(one.vector[0])) for one in caa_directions(vectors, [0, 1, 2], 1)]
    assert found == [("caa_middle", 1, 1.0), ("caa", 0, 0.0), ("caa", 2, 2.0)]
    row = torch.arange(4.0)
    feature, both = feature_directions({(2, 7): row}, vectors)
    assert feature.vector.tolist() == row.tolist()
    assert (both.arm, both.name, both.vector.tolist()) == ("caa_feature", "L2F7", (row + 2).tolist())
    assert [one.arm for one in feature_directions({(2, 7): row}, {})] == ["feature"]


def test_the_table_says_what_runs_by_hand_say(model, questions, tmp_path):
    """Vectors, norms and strengths come from validation data, results from test data; each is its own."""
    files = [
        str(build_tiny_dataset(tmp_path / f"data_{seed}", samples=16, seed=seed) / "samples.jsonl")
        for seed in (2, 3)
    ]
    test = QuestionSets(*files, ["spatial", "general"], samples=12, batch_tokens=1024)
    dictionaries = write_dictionaries(tmp_path / "dictionaries")
    ranked = [(0, 3), (2, 1)]
    rows = [
        {"concept": "c", "layer": layer, "feature": i, "rank": rank} for rank, (layer, i) in enumerate(ranked)
    ]
    write_table(filled(RANKING, rows), RANKING, tmp_path / "ranking.csv")
    evaluate_steering(
        model, questions, test, dictionaries, str(tmp_path / "ranking.csv"), str(tmp_path / "s.csv"),
        layers=[0, 1, 2], concept="c", features=2, strengths=[-0.5, 1.0], random_draws=3, bootstrap=20,
        seed=0,
    )  # fmt: skip
    table = read_table(tmp_path / "s.csv", STEERING)
    subject = model.load()
    learned, tested = (sets.evaluations(subject) for sets in (questions, test))
    pooled, correct = pool_residuals(learned["spatial"], [0, 1, 2]), learned["spatial"].answers().correct
    rows = unit_directions(dictionary_folders(dictionaries, [0, 1, 2]), ranked)
    vectors = {layer: caa_vector(pooled.means[layer], correct) for layer in (0, 1, 2)}
    arms = {
        ("caa_middle", "L1"): (1, vectors[1]),
        ("caa", "L2"): (2, vectors[2]),
        ("feature", "L0F3"): (0, rows[0, 3]),
        ("caa_feature", "L2F1"): (2, vectors[2] + rows[2, 1]),
    }
    for (arm, name), (layer, vector) in arms.items():
        scores = {}
        for strength in (-0.5, 1.0):
            steering = Steering(subject, Direction(arm, layer, -1, 0, vector), strength * pooled.norms[layer])
            own = (table["arm"] == arm) & (table["name"] == name) & (table["strength"] == strength)
            for dataset, sets in (("spatial", tested), ("general", tested), ("validation", learned)):
                evaluation = sets["spatial" if dataset == "validation" else dataset]
                after, before = evaluation.answers(steering), evaluation.answers()
                change = after.correct.mean() - before.correct.mean(), (after.margin - before.margin).mean()
                part = table[own & (table["group"] == "all")].set_index("dataset")
                row = part.loc["spatial" if dataset == "validation" else dataset]
                kind = "validation_{}" if dataset == "validation" else "delta_{}"
                assert tuple(row[[kind.format("accuracy"), kind.format("margin")]]) == pytest.approx(
                    change, abs=1e-5
                )
                if dataset == "validation":
                    scores[strength] = change
            assert (table.loc[own, "chosen"] == table.loc[own, "chosen"].iloc[0]).all()
        best = max(scores, key=lambda strength: scores[strength])
        own = (table["arm"] == arm) & (table["name"] == name)
        assert set(table.loc[own & table["chosen"], "strength"]) == {best}
    named = table[(table["arm"] != "random") & (table["group"] == "all") & (table["dataset"] == "spatial")]
    order = ["validation_accuracy", "validation_margin"]
    first = named.sort_values(order, ascending=False, kind="stable").iloc[0]
    winner = table[table["winner"] & (table["arm"] != "random")]
    assert set(zip(winner["arm"], winner["name"], winner["strength"])) == {
        (first["arm"], first["name"], first["strength"])
    }
    # Each pool by hand: the six arms' layers and lengths, all at both strengths.
    rows = {key: row.float() for key, row in rows.items()}
    lengths = [(1, 1.0), (0, 1.0), (2, 1.0), (0, 1.0), (0, float((vectors[0] + rows[0, 3]).norm()))]
    lengths += [(2, 1.0), (2, float((vectors[2] + rows[2, 1]).norm()))]
    arms = [Direction("", layer, -1, 0, torch.ones(1) * length) for layer, length in lengths]
    assert len(named.groupby(["arm", "name"])) == len(arms)
    for draw in range(3):
        generator = torch.Generator().manual_seed(derive_seed(0, "steering", draw))
        found = []
        for arm in arms:
            vector = torch.randn(subject.d_model, generator=generator)
            vector = vector / vector.norm() * arm.vector.norm()
            for strength in (-0.5, 1.0):
                length = strength * pooled.norms[arm.layer]
                steering = Steering(subject, Direction("random", arm.layer, -1, draw, vector), length)
                after, before = map(learned["spatial"].answers, (steering, None))
                gain = after.correct.mean() - before.correct.mean(), (after.margin - before.margin).mean()
                found.append((gain, arm.layer, strength, steering))
        gain, layer, strength, steering = max(found, key=lambda item: item[0])
        mine = table[(table["arm"] == "random") & (table["draw"] == draw) & (table["group"] == "all")]
        assert len(mine) == 2 and mine["winner"].all() and mine["chosen"].all()
        assert set(zip(mine["layer"], mine["strength"])) == {(layer, strength)}
        np.testing.assert_allclose(mine[order].to_numpy(), [gain, gain], atol=1e-5)
        for dataset, row in mine.set_index("dataset").iterrows():
            after, before = map(tested[dataset].answers, (steering, None))
            assert row["delta_margin"] == pytest.approx((after.margin - before.margin).mean(), abs=1e-5)
            assert row["accuracy"] == pytest.approx(after.correct.mean())


def test_the_table(model, questions, tmp_path):
    dictionaries = write_dictionaries(tmp_path / "dictionaries")
    files = write_tables(tmp_path, [(0, 3), (2, 1), (1, 5)])
    ranking = rank_tiny(model, questions, dictionaries, files, tmp_path, scope="all_layers")["ranking"]
    output = tmp_path / "steering.csv"
    evaluate_steering(
        model, questions, questions, dictionaries, ranking, str(output), layers=[0, 1, 2], concept="c",
        features=2, strengths=[-0.5, 0.5], random_draws=4, bootstrap=50, seed=0,
    )  # fmt: skip
    found = read_table(output, STEERING)
    whole = found[(found["group"] == "all") & (found["dataset"] == "spatial")]
    assert set(whole["arm"]) == {"caa", "caa_middle", "feature", "caa_feature", "random"}
    named, random = whole[whole["arm"] != "random"], whole[whole["arm"] == "random"]
    assert (named.groupby(["arm", "name"]).size() == 2).all()
    assert (named.groupby(["arm", "name"])["chosen"].sum() == 1).all()
    assert named["winner"].sum() == 1 and named.loc[named["winner"], "chosen"].all()
    assert sorted(random["draw"]) == [0, 1, 2, 3] and random["winner"].all()
    # Validation and test data are the same files here, so both must say the same.
    np.testing.assert_allclose(whole["validation_margin"], whole["delta_margin"], atol=1e-6)
    assert set(whole["model"]) == {"vlm"}
