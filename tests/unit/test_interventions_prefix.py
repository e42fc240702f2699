"""What stands before the first edited token does not run again."""

import logging
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from causal_files import answered
from family_checks import check_prefix, random_direction

from vlmdiff.activations.tokens import IMAGE
from vlmdiff.data.samples import load_samples
from vlmdiff.heads.mean_ablation import HeadAblation
from vlmdiff.interventions.evaluation import Evaluation
from vlmdiff.interventions.feature_ablation import plan_ablation
from vlmdiff.interventions.steering import Direction, Steering
from vlmdiff.models import prefix as module
from vlmdiff.models.prefix import Prefix, read_prefix
from vlmdiff.models.registry import load_subject


@pytest.fixture(scope="module")
def subject(tiny_vlm_path):
    return load_subject("vlm", {"family": "llava"}, tiny_vlm_path)


@pytest.fixture(scope="module")
def samples(tiny_dataset):
    return load_samples(tiny_dataset / "samples.jsonl", limit=15)


def interventions(subject):
    """Return one of each kind, from the first block on and from a later one."""
    directions = {(layer, 0): random_direction(layer) for layer in range(3)}
    means = {layer: torch.ones(32) for layer in range(3)}
    return [
        plan_ablation(subject, directions, [(1, 0)], "own_layer"),
        plan_ablation(subject, directions, list(directions), "all_layers"),
        HeadAblation(subject, [(1, 2), (2, 0)], means),
        HeadAblation(subject, [(0, 1)], means),
        *(Steering(subject, Direction("caa", at, -1, 0, directions[at, 0]), 3.0) for at in range(3)),
    ]


@contextmanager
def tokens_run(subject):
    """Yield a list that receives how many tokens of each sample the last block is given."""
    widths = []
    handle = subject.block(2).register_forward_pre_hook(
        lambda _m, args, kwargs: widths.append((args[0] if args else kwargs["hidden_states"]).shape[1]),
        with_kwargs=True,
    )
    yield widths
    handle.remove()


@pytest.mark.parametrize("number", range(7))
def test_only_tokens_from_the_first_edited_one_run_again(subject, samples, number):
    intervention = interventions(subject)[number]
    evaluation = Evaluation(subject, samples, 256)
    first = evaluation.answers(intervention)
    with tokens_run(subject) as widths:
        again = evaluation.answers(intervention)
    expected = []
    for _, batch in evaluation.batches:
        image = (batch.token_type == IMAGE).nonzero()[:, 1]
        expected.append(batch.input_ids.shape[1] - int(image.max()) - 1)
    assert widths == expected
    plain = answered(subject, samples, intervention)
    assert np.allclose(first.margin, plain.margin, atol=1e-5) and np.array_equal(again.margin, first.margin)
    assert np.abs(plain.margin - evaluation.answers().margin).max() > 1e-3


@pytest.mark.parametrize("prefixes", [0, 0.5, 1])
def test_prefixes_take_what_memory_is_left(subject, samples, prefixes):
    plan = interventions(subject)[1]
    whole = Evaluation(subject, samples, 256)
    whole.answers(plan)
    needed = sum(prefix.nbytes for prefix in whole.prefixes.values())
    streams = 3 * whole._stream_bytes()
    some = Evaluation(subject, samples, 256, streams + int(prefixes * needed))
    assert np.array_equal(some.answers(plan).margin, whole.answers(plan).margin)
    kept = [prefix for prefix in some.prefixes.values() if prefix is not None]
    assert sum(prefix.nbytes for prefix in kept) <= prefixes * needed
    assert len(whole.batches) > 1 and (len(kept) == len(whole.batches)) == (prefixes == 1)


def test_few_tokens_before_the_first_edited_one_are_not_worth_it(subject, samples):
    text = [sample.model_copy(update={"image": None}) for sample in samples]
    evaluation = Evaluation(subject, text, 256)
    evaluation.answers(interventions(subject)[1])
    assert not evaluation.prefixes


@pytest.mark.parametrize("fault", ["values", "a little", "error"])
def test_a_decoder_that_does_not_go_on_from_a_prefix_runs_whole(subject, samples, fault, monkeypatch, caplog):
    def wrong(subject, batch, length):
        if fault == "error":
            raise AttributeError("no attribute 'keys'")
        prefix = read_prefix(subject, batch, length)
        by = 1.0 if fault == "values" else 0.02
        return Prefix(length, tuple((keys, values + by) for keys, values in prefix.blocks))

    plan = interventions(subject)[1]
    evaluation = Evaluation(subject, samples, 256)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(module, "read_prefix", wrong)
        found = evaluation.answers(plan)
    assert np.allclose(found.margin, answered(subject, samples, plan).margin, atol=1e-5)
    assert [record.message for record in caplog.records] == [
        "model 'vlm' runs all tokens each time: its earlier ones cannot be kept"
    ]


def test_a_prefix_goes_on_to_the_whole_run(subject, samples):
    batch = Evaluation(subject, samples, 256).batches[0][1]
    check_prefix(subject, batch)
