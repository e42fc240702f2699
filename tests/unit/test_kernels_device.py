"""Triton's loops, by its interpreter: each against torch, and whole steps against the compiled loops."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_activations import write_sparse_shards
from torch import Tensor

from vlmdiff.activations.store import ActivationStore
from vlmdiff.dictionaries import loops as which
from vlmdiff.dictionaries.initial import common_threshold
from vlmdiff.dictionaries.loops import DEVICE_LOOPS, disagreement
from vlmdiff.dictionaries.loss import fraction_unexplained
from vlmdiff.dictionaries.matryoshka import MatryoshkaDictionary
from vlmdiff.dictionaries.modules import Dictionary, JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.optimiser import DictionaryAdam
from vlmdiff.dictionaries.pairs import Pairs, by_feature, nonzero_pairs, totals_by_feature, weight_gradients
from vlmdiff.dictionaries.topk import more_than, topk_pairs
from vlmdiff.kernels import device

D_MODEL, D_SAE, K, N = 20, 50, 4, 12
CPU = torch.device("cpu")


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def on_device(monkeypatch):
    """Triton's loops in the place of the compiled ones."""
    monkeypatch.setattr(which, "DEVICE", "cpu")
    DEVICE_LOOPS.open(CPU)
    assert DEVICE_LOOPS.module is device
    yield device
    DEVICE_LOOPS.module = None


SHAPES = [(1, 1), (64, 3), (1000, 50), (1500, 7), (2500, 1024)]


@pytest.mark.parametrize(("width", "k"), SHAPES)
def test_selection_is_exact(width, k):
    rows, bias = normal(1, 3, width), normal(2, width)
    values, columns = device.largest_of_rows(rows, bias, k)
    expected = torch.topk(rows + bias, k, dim=1)
    assert torch.equal(columns, expected.indices.sort(dim=1).values)
    assert torch.equal(values, (rows + bias).gather(1, columns))


NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, math.inf, -math.inf, math.nan, 1e-40, 3e38])


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 40), st.data())
def test_selection_is_exact_whatever_the_row_holds(width, data):
    row = torch.tensor([data.draw(st.lists(NUMBERS, min_size=width, max_size=width))])
    k = data.draw(st.integers(1, width))
    values, columns = device.largest_of_rows(row, torch.zeros(width), k)
    assert columns[0].diff().gt(0).all()
    found = values[0].nan_to_num(nan=math.inf).sort().values
    expected = torch.topk(row[0], k).values.nan_to_num(nan=math.inf).sort().values
    assert torch.equal(found, expected)


def test_of_equal_values_the_first_are_chosen_however_many_there_are():
    rows = torch.zeros(2, 3000)
    rows[0, 2500] = 1.0
    _, columns = device.largest_of_rows(rows, torch.zeros(3000), 3)
    assert columns.tolist() == [[0, 1, 2500], [0, 1, 2]]


def test_rows_in_sixteen_bits_are_added_up_in_float32():
    rows, bias = normal(1, 2, 300).bfloat16(), normal(2, 300)
    values, columns = device.largest_of_rows(rows, bias, 5)
    assert torch.equal(values, (rows.float() + bias).gather(1, columns))


def some_pairs(seed: int = 3) -> Pairs:
    """Pairs of which tokens have different numbers, some none."""
    z = normal(seed, N, D_SAE)
    z[z < 1.0] = 0.0
    z[5] = 0.0
    return nonzero_pairs(z)


def test_sums_over_pairs_are_those_of_torch():
    pairs, W_dec, b_dec = some_pairs(), normal(4, D_SAE, D_MODEL), normal(5, D_MODEL)
    pairs.values[::5] = 0.0
    dense = torch.zeros(N, D_SAE).index_put((pairs.tokens(), pairs.columns), pairs.values)
    x_hat = device.decode_pairs(pairs.begins, pairs.columns, pairs.values, W_dec, b_dec)
    torch.testing.assert_close(x_hat, dense @ W_dec + b_dec)
    left = normal(6, N, D_MODEL)
    products = device.pair_products(left, pairs.begins, pairs.columns, pairs.values, W_dec)
    expected = (left @ W_dec.T)[pairs.tokens(), pairs.columns] * (pairs.values > 0)
    torch.testing.assert_close(products, expected)


def test_pairs_above_and_near_thresholds():
    rows, bias = normal(7, 5, 2100), normal(8, 2100)
    threshold, half = normal(9, 2100).abs() + 0.5, 0.1
    begins, columns, values, near_begins, near = device.pairs_above(rows, bias, threshold, half)
    pre = rows + bias
    expected, close = pre > threshold, (pre - threshold).abs() < half
    assert begins.diff().tolist() == expected.sum(1).tolist()
    assert near_begins.diff().tolist() == close.sum(1).tolist()
    assert torch.equal(columns, expected.nonzero()[:, 1])
    assert torch.equal(values, pre[expected])
    assert torch.equal(near, close.nonzero()[:, 1])


def test_totals_by_feature_are_sums_in_the_order_of_pairs():
    pairs, values = some_pairs(), normal(1, len(some_pairs().values))
    expected = torch.zeros(D_SAE).index_add_(0, pairs.columns, values)
    assert torch.equal(totals_by_feature(values, by_feature(pairs, D_SAE)), expected)


def test_the_squared_norm_is_that_of_the_gradients_written_out():
    from vlmdiff.dictionaries.pairs import PairGradients

    pairs, x, gradient = some_pairs(), normal(1, N, D_MODEL), normal(2, N, D_MODEL)
    products, W_dec = normal(3, len(pairs.values)), torch.nn.functional.normalize(normal(4, D_SAE, D_MODEL))
    order, tokens, begins = by_feature(pairs, D_SAE)
    found = device.square_norms((begins, order, tokens), products, pairs.values, x, gradient, W_dec)
    encoder, bias, decoder, _ = weight_gradients(
        PairGradients(pairs, products, x, gradient), normal(5, D_MODEL, D_SAE), False
    )
    decoder -= (decoder * W_dec).sum(1, keepdim=True) * W_dec
    torch.testing.assert_close(found, encoder.square().sum(0) + bias.square() + decoder.square().sum(1))


def start(kind: str, subtract: bool = True) -> Dictionary:
    """Return a random dictionary that is active in places."""
    if kind == "topk":
        dictionary: Dictionary = TopKDictionary(D_MODEL, D_SAE, K, subtract)
    elif kind == "matryoshka":
        dictionary = MatryoshkaDictionary(D_MODEL, D_SAE, K, (5, D_SAE // 2, D_SAE), subtract)
    else:
        dictionary = JumpReLUDictionary(D_MODEL, D_SAE, 0.3, subtract)
    with torch.no_grad():
        dictionary.W_dec.copy_(normal(1, D_SAE, D_MODEL))
        dictionary.normalise_decoder()
        dictionary.W_enc.copy_(dictionary.W_dec.T + 0.1 * normal(2, D_MODEL, D_SAE))
        dictionary.b_dec.copy_(0.1 * normal(3, D_MODEL))
        if isinstance(dictionary, JumpReLUDictionary):
            dictionary.log_threshold.fill_(common_threshold(dictionary, normal(4, N, D_MODEL), 3).log())
    return dictionary


def trained(dictionary: Dictionary, **options) -> tuple[dict[str, Tensor], list[float]]:
    """Take some steps; return weights and moments, and the loss of each step."""
    adam, losses = DictionaryAdam(dictionary, 1e-2, **options), []
    for seed in range(4):
        x = normal(100 + seed, N, D_MODEL)
        adam.zero_grad()
        result = dictionary.reconstruct(x)
        several = [fraction_unexplained(x, x_hat) for x_hat in (*result.shorter, result.x_hat)]
        loss = torch.stack(several).mean()
        if dictionary.kind == "jumprelu":
            loss = loss + (result.l0 / K - 1).square()
        loss.backward()
        adam.step()
        assert adam.is_finite()
        losses.append(float(loss.detach()))
    state = {name: one.detach().clone() for name, one in dictionary.named_parameters()}
    moments = {
        f"{name} {key}": adam.state[one][key].clone()
        for name, one in dictionary.named_parameters()
        for key in ("exp_avg", "exp_avg_sq")
    }
    return state | moments, losses


CASES = [
    pytest.param("topk", True, {}, marks=pytest.mark.long),
    pytest.param("topk", False, {"clip_norm": 0.05}, marks=pytest.mark.long),
    ("topk", True, {"clip_norm": 0.05}),
    pytest.param("topk", True, {"clip_norm": 1e3}, marks=pytest.mark.long),
    pytest.param("topk", True, {"frozen_decoder": True}, marks=pytest.mark.long),
    pytest.param("jumprelu", True, {}, marks=pytest.mark.long),
    pytest.param("matryoshka", True, {"clip_norm": 0.05}, marks=pytest.mark.long),
    ("jumprelu", False, {"clip_norm": 0.05}),
]


@pytest.mark.parametrize(("kind", "subtract", "options"), CASES)
def test_steps_are_those_of_the_compiled_loops(kind, subtract, options, request):
    expected, losses = trained(start(kind, subtract), **options)
    request.getfixturevalue("on_device")
    found, own = trained(start(kind, subtract), **options)
    assert own == pytest.approx(losses, rel=1e-4)
    for name, one in found.items():
        torch.testing.assert_close(one, expected[name], rtol=2e-3, atol=2e-5, msg=name)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_two_runs_agree_in_every_bit(kind, on_device):
    first, second = trained(start(kind))[0], trained(start(kind))[0]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_that_are_no_numbers_are_noticed(on_device):
    dictionary = start("topk")
    adam = DictionaryAdam(dictionary, 1e-2)
    dictionary.reconstruct(normal(1, N, D_MODEL)).x_hat.mul(math.inf).sum().backward()
    adam.step()
    assert not adam.is_finite()


def test_candidates_of_bfloat16_are_chosen_in_float32(on_device):
    x, W_enc, b_enc = normal(1, N, 64), normal(2, 64, 900), normal(3, 900)
    exact = topk_pairs(x, W_enc, b_enc, 16)
    rescored = topk_pairs(x, W_enc, b_enc, 16, precision="bf16")
    same = exact.columns.view(N, 16) == rescored.columns.view(N, 16)
    assert same.all(dim=1).float().mean() > 0.9
    torch.testing.assert_close(
        exact.values.view(N, 16)[same], rescored.values.view(N, 16)[same], rtol=1e-4, atol=1e-4
    )
    assert more_than(50) == 62


def test_loops_that_are_off_are_not_used(monkeypatch, caplog):
    monkeypatch.setattr(which, "DEVICE", "cpu")
    monkeypatch.setattr(device, "decode_pairs", lambda *given: given[-2][:16, :] * 1.001)
    with caplog.at_level(logging.WARNING):
        DEVICE_LOOPS.open(CPU)
    assert DEVICE_LOOPS.module is None
    assert "off by" in caplog.text


def test_loops_that_choose_other_pairs_are_not_used(monkeypatch):
    right = device.largest_of_rows
    monkeypatch.setattr(
        device, "largest_of_rows", lambda rows, bias, k: right(rows, torch.zeros_like(bias), k)
    )
    assert disagreement(device, CPU) == math.inf


def test_loops_that_do_not_compile_are_not_used(monkeypatch, caplog):
    def refuse(*_):
        raise RuntimeError("no compiler for this card")

    monkeypatch.setattr(which, "DEVICE", "cpu")
    monkeypatch.setattr(device, "pair_products", refuse)
    DEVICE_LOOPS.open(CPU)
    assert DEVICE_LOOPS.module is None
    assert "no compiler for this card" in caplog.text


def test_without_triton_torch_does_the_sums(monkeypatch, caplog):
    monkeypatch.setattr(which, "DEVICE", "cpu")
    monkeypatch.setattr(which, "find_spec", lambda name: None)
    DEVICE_LOOPS.open(CPU)
    assert DEVICE_LOOPS.module is None
    assert "triton is not installed" in caplog.text


def test_a_processor_keeps_its_compiled_loops():
    DEVICE_LOOPS.open(CPU)
    assert DEVICE_LOOPS.module is None


def test_a_dictionary_in_double_precision_takes_the_plain_way(on_device):
    assert DEVICE_LOOPS.fitting(torch.zeros(1).double()) is None
    assert DEVICE_LOOPS.fitting(torch.zeros(1)) is device


def test_batches_come_in_the_bits_that_are_stored(tmp_path):
    store = ActivationStore(write_sparse_shards(tmp_path, scale=30.0), 0)
    rounded = next(store.stored_batches(["text"], 32, 1))
    assert rounded.dtype == torch.float16
    assert torch.equal(rounded.float(), next(store.batches(["text"], 32, 1)))
