"""Interventions and heads at real size: 16-bit weights, several devices, bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from causal_files import filled, write_dictionaries
from safetensors.numpy import load_file, save_file
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from vlmdiff.data.samples import load_samples
from vlmdiff.dictionaries.weights import DictionaryError
from vlmdiff.heads.attribution import attribute, corrupt_minus_clean
from vlmdiff.heads.corruption import clean_and_corrupt, mean_image
from vlmdiff.heads.head_values import feature_metric
from vlmdiff.heads.mean_ablation import write_mean
from vlmdiff.heads.patching import patch_exactly
from vlmdiff.heads.tracing import TracedSamples, attribute_heads, patch_heads, top_and_random
from vlmdiff.interventions.evaluation import Evaluation, spaced_from_first, with_images_at
from vlmdiff.interventions.feature_ablation import (
    orthonormal_basis,
    plan_ablation,
    remove_span,
    unit_directions,
)
from vlmdiff.interventions.inputs import ModelFiles
from vlmdiff.models.causal_lm import CausalLM
from vlmdiff.models.logits import precise_logits
from vlmdiff.models.memory import gradient_tokens, graph_bytes
from vlmdiff.models.registry import load_subject
from vlmdiff.tables.causal import HEAD_AGREEMENT, HEAD_ATTRIBUTION, HEAD_PATCHING, RANKING
from vlmdiff.tables.io import read_table, write_table


def load(path, dtype="float32"):
    return load_subject("vlm", {"family": "llava", "dtype": dtype}, path, "cpu")


@pytest.fixture(scope="module")
def subject(tiny_vlm_path):
    return load(tiny_vlm_path)


@pytest.fixture(scope="module")
def samples(tiny_dataset):
    return load_samples(tiny_dataset / "samples.jsonl", limit=12)


@pytest.fixture(scope="module")
def directions():
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(2, 32, generator=generator), dim=1)
    return {(1, 0): rows[0], (2, 4): rows[1]}


def unit_rows(count, width, seed=0):
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_span_is_removed_from_16_bit_values_as_exactly_as_they_can_say(dtype):
    basis = orthonormal_basis(unit_rows(5, 256))
    values = (20 * torch.randn(2, 7, 256, generator=torch.Generator().manual_seed(1))).to(dtype)
    where = torch.rand(2, 7, generator=torch.Generator().manual_seed(2)) < 0.5
    found = remove_span(values, basis, where)
    exact = values.double() - values.double() @ basis.double() @ basis.double().T
    assert found.dtype == dtype
    assert torch.equal(found[~where], values[~where])
    # Half a step of the 16-bit type, and no more.
    step = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(found[where].double(), exact[where], rtol=1.01 * step, atol=1e-4)


def test_edits_follow_the_block_that_they_are_made_in():
    """Values on one device, marks and directions on another, as under a device map."""
    values = torch.empty(2, 5, 8, device="meta", dtype=torch.bfloat16)
    where, rows = torch.ones(2, 5, dtype=torch.bool), unit_rows(2, 8)
    with pytest.raises(RuntimeError, match="device"):
        values * where[..., None]
    for edited in (
        remove_span(values, orthonormal_basis(rows), where),
        write_mean(values, rows[0], [slice(0, 3)], where),
        corrupt_minus_clean(values, values, where),
    ):
        assert (edited.device.type, edited.shape) == ("meta", values.shape)
    assert feature_metric(values, rows[0], where).device.type == "meta"


def test_directions_read_nothing_but_their_rows(tmp_path):
    file = write_dictionaries(tmp_path)[1]
    weights = load_file(file)
    rows = weights["W_dec"].copy()
    weights["W_dec"][3] = np.nan
    save_file(weights, file)
    folders = {1: tmp_path / "layer_1"}
    found = unit_directions(folders, [(1, 2), (1, 40)])
    np.testing.assert_allclose(found[1, 40], rows[40], atol=1e-6)
    with pytest.raises(DictionaryError, match="W_dec holds NaN"):
        unit_directions(folders, [(1, 3)])


def test_logits_of_16_bit_heads_are_not_rounded_to_16_bits(monkeypatch):
    head = torch.nn.Linear(64, 100).to(torch.bfloat16)
    states = 30 * torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    exact = states.double() @ head.weight.double().T + head.bias.double()
    with torch.no_grad():
        found = precise_logits(head, states)
        monkeypatch.setattr("vlmdiff.models.logits.ROWS", 7)
        in_pieces = precise_logits(head, states)
        rounded = head(states)
        whole = head.float()
        assert torch.equal(precise_logits(whole, states.float()), whole(states.float()))
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(in_pieces, found, atol=1e-4, rtol=1e-5)
    assert (rounded.double() - exact).abs().max() > 0.01


@pytest.mark.parametrize(
    "count, expected", [(0, []), (1, [0]), (2, [0, 16]), (3, [0, 10, 21]), (32, list(range(32)))]
)
def test_numbers_are_spaced_evenly(count, expected):
    assert spaced_from_first(count, 32) == expected


@pytest.mark.parametrize("streams, kept", [(0, []), (1, [0]), (2, [0, 1]), (9, [0, 1, 2])])
def test_streams_are_kept_at_even_distances(subject, samples, streams, kept):
    tokens = sum(batch.input_ids.numel() for _, batch in Evaluation(subject, samples, 512, 0).batches)
    assert Evaluation(subject, samples, 512, streams * tokens * 32 * 4).kept == kept


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_kept_does_not_change_the_answers(tiny_vlm_path, samples, directions, dtype):
    subject = load(tiny_vlm_path, dtype)
    tokens = sum(batch.input_ids.numel() for _, batch in Evaluation(subject, samples, 512, 0).batches)
    one = tokens * 32 * subject.model.dtype.itemsize
    evaluations = [Evaluation(subject, samples, 512, streams * one) for streams in (0, 1, 2, 3)]
    for feature in directions:
        plan = plan_ablation(subject, directions, [feature], "own_layer")
        plain, *others = [evaluation.answers(plan).margin for evaluation in evaluations]
        for other in others:
            np.testing.assert_array_equal(other, plain)
        assert len(np.unique(plain)) == len(samples)


def test_16_bit_answers_are_those_of_the_model_up_to_rounding(tiny_vlm_path, samples, directions):
    found = {}
    for dtype in ("float32", "bfloat16"):
        subject = load(tiny_vlm_path, dtype)
        evaluation = Evaluation(subject, samples, 512)
        plan = plan_ablation(subject, directions, list(directions), "all_layers")
        found[dtype] = (evaluation.answers().margin, evaluation.answers(plan).margin)
    for exact, rounded in zip(found["float32"], found["bfloat16"]):
        assert np.corrcoef(exact, rounded)[0, 1] > 0.99
    assert not np.allclose(*found["bfloat16"])


def test_images_wait_apart_from_the_model(subject, samples):
    batch = Evaluation(subject, samples, 512, 0).batches[0][1]
    assert with_images_at(batch, "meta").seen.features.device.type == "meta"
    assert batch.seen.features.device.type == "cpu"
    assert with_images_at(batch, "meta").input_ids is batch.input_ids


@pytest.fixture(scope="module")
def runs(subject, samples):
    return clean_and_corrupt(subject, samples, mean_image(subject, samples, 256), 256)


def test_some_heads_are_patched_as_all_are(subject, runs, directions):
    heads = [(0, 1), (1, 3), (2, 0)]
    every, some = patch_exactly(subject, runs, directions), patch_exactly(subject, runs, directions, heads)
    for feature in directions:
        assert some[feature].metric_corrupt == every[feature].metric_corrupt
        for at in np.ndindex(every[feature].exact.shape):
            for name in ("exact", "exact_abs"):
                value = getattr(some[feature], name)[at]
                assert value == getattr(every[feature], name)[at] if at in heads else np.isnan(value)


def attributions(layers=3, heads=4):
    rng = np.random.default_rng(0)
    rows = [
        {"feature_layer": 2, "feature": 1, "layer": at, "head": i, "method_a": rng.random(), "method_b": 1.0}
        for at in range(layers)
        for i in range(heads)
    ]
    return filled(HEAD_ATTRIBUTION, rows)


def test_top_and_random_heads_are_different_ones():
    table = attributions()
    best = table.sort_values("method_a", ascending=False)[["layer", "head"]].head(3).to_numpy().tolist()
    weights = top_and_random(table, 3, seed=0)
    chosen = list(weights)
    assert [list(head) for head in chosen[:3]] == best
    assert len(set(chosen)) == 6
    assert top_and_random(table, 3, seed=0) == weights
    # The best are chosen for certain, the other three of nine: each stands for three.
    assert [weights[head] for head in chosen] == [1.0] * 3 + [3.0] * 3
    assert len({tuple(top_and_random(table, 3, seed))[3:] for seed in range(20)}) > 5
    # More are wanted than there are: all, and none by chance.
    for count in (6, 7, 11, 12, 100):
        assert list(top_and_random(table, count, seed=0).values()) == [1.0] * 12
    assert top_and_random(table, None, seed=0) is None


def test_the_job_patches_the_heads_that_it_is_told_to(tiny_vlm_path, tiny_dataset, tmp_path):
    rows = [{"concept": "c", "rank": 0, "layer": 1, "feature": 0}]
    names = ("ranking", "attribution", "patching", "agreement")
    path = {name: str(tmp_path / f"{name}.csv") for name in names}
    write_table(filled(RANKING, rows), RANKING, path["ranking"])
    dictionaries = write_dictionaries(tmp_path / "dictionaries")
    model = ModelFiles("vlm", {"family": "llava"}, str(tiny_vlm_path / "config.json"))
    traced = TracedSamples(str(tiny_dataset / "samples.jsonl"), samples=6, image_samples=8, batch_tokens=256)
    stage = {"layers": [0, 1, 2], "concept": "c", "features": 1}
    attribute_heads(model, traced, dictionaries, path["ranking"], path["attribution"], **stage)
    outputs = (path["patching"], path["agreement"])
    patch_heads(model, traced, dictionaries, path, *outputs, **stage, exact_heads=2, seed=5, bootstrap=50)
    patched = read_table(path["patching"], HEAD_PATCHING)
    heads = set(zip(patched["layer"], patched["head"]))
    assert len(patched) == 4
    weights = top_and_random(read_table(path["attribution"], HEAD_ATTRIBUTION), 2, 5)
    assert heads == set(weights)
    assert dict(zip(zip(patched["layer"], patched["head"]), patched["weight"])) == weights
    assert sorted(weights.values()) == [1.0, 1.0, 3.0, 3.0]
    assert set(read_table(path["agreement"], HEAD_AGREEMENT)["heads"]) == {4}


def test_16_bit_attribution_is_that_of_the_model_up_to_rounding(tiny_vlm_path, samples, directions):
    found = {}
    for dtype in ("float32", "bfloat16"):
        subject = load(tiny_vlm_path, dtype)
        runs = clean_and_corrupt(subject, samples, mean_image(subject, samples, 256), 256)
        found[dtype] = attribute(subject, runs, 2, [directions[2, 4]])[0]
    for name in ("method_a", "method_b", "signed"):
        exact, rounded = (getattr(found[dtype], name).ravel() for dtype in ("float32", "bfloat16"))
        assert np.corrcoef(exact, rounded)[0, 1] > 0.99


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 3,
    "vocab_size": 50,
}
MODELS = {
    "llama": lambda attention: (LlamaForCausalLM, LlamaConfig(**SMALL), attention),
    "gemma2": lambda _: (Gemma2ForCausalLM, Gemma2Config(**SMALL), "eager"),
}


def kept_for_backward(subject, batch_size, length):
    """Bytes that autograd holds of one token after a forward pass, weights aside."""
    model, held, alive = subject.model, {}, []
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}

    def keep(value):
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        alive.append(value)  # or its place is given to another
        return value

    embeds = torch.randn(batch_size, length, 64).to(model.dtype).requires_grad_(True)
    mask = torch.ones(batch_size, length, dtype=torch.int64)
    mask[0, -2:] = 0
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model.model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
    return sum(held.values()) / (batch_size * length)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("family, attention", [("llama", "sdpa"), ("llama", "eager"), ("gemma2", "eager")])
def test_the_size_of_a_graph_is_foreseen(family, attention, dtype):
    architecture, config, attention = MODELS[family](attention)
    with torch.random.fork_rng():
        model = architecture._from_config(config, attn_implementation=attention, dtype=dtype)
        subject = CausalLM(family, model, None, "")
        measured = kept_for_backward(subject, 3, 96)
    assert measured <= graph_bytes(subject, 96) < 2.5 * measured


def test_a_batch_with_gradients_fits_and_is_never_larger_than_others(subject, monkeypatch):
    assert gradient_tokens(subject, 50, 8192) == 8192
    monkeypatch.setattr("vlmdiff.models.memory.GRAPH_ON_CPU", 700 * graph_bytes(subject, 50))
    assert gradient_tokens(subject, 50, 8192) == 700
    monkeypatch.setattr("vlmdiff.models.memory.GRAPH_ON_CPU", 0)
    assert gradient_tokens(subject, 50, 8192) == 1


def test_traced_batches_shrink_for_gradients_and_keep_all_samples(subject, tiny_dataset, monkeypatch):
    traced = TracedSamples(str(tiny_dataset / "samples.jsonl"), samples=6, image_samples=8, batch_tokens=8192)
    monkeypatch.setattr("vlmdiff.models.memory.GRAPH_ON_CPU", 0)
    assert [len(run.batch) for run in traced.runs(subject, for_gradients=True)] == [1] * 6
    assert [len(run.batch) for run in traced.runs(subject)] == [6]
