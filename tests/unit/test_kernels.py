"""Compiled loops against plain twins: selection, sums over pairs, and whole training trajectories."""

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vlmdiff.dictionaries.jumprelu import chunk_pairs
from vlmdiff.dictionaries.loss import fraction_unexplained
from vlmdiff.dictionaries.modules import JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.optimiser import DictionaryAdam
from vlmdiff.dictionaries.pairs import Pairs, active_products, count_active, decode_active
from vlmdiff.kernels.adam import BLOCK
from vlmdiff.kernels.bits import count_masked
from vlmdiff.kernels.lanes import dot
from vlmdiff.kernels.largest import GROUP, kth_by_partition, kth_by_ranks, select_largest
from vlmdiff.kernels.pair_sums import decode_pairs, group_by_feature, pair_products
from vlmdiff.kernels.strongest import strongest_firings

LIBRARY = Path(__file__).parents[2] / "workflow_scripts"
D_MODEL, D_SAE, K, N = 24, 3 * BLOCK + 5, 6, 70


def selected(pre: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    values, columns = np.empty((len(pre), k), np.float32), np.full((len(pre), k), -1, np.int64)
    select_largest(pre.copy(), np.zeros(pre.shape[1], np.float32), values, columns)
    return values, columns


def test_the_bias_is_added_before_the_selection():
    pre, bias = np.random.default_rng(0).standard_normal((2, 67, 700)).astype(np.float32)
    values, columns = np.empty((67, 9), np.float32), np.empty((67, 9), np.int64)
    select_largest(pre.copy(), bias[0], values, columns)
    expected = torch.from_numpy(pre + bias[0]).topk(9)
    assert np.array_equal(np.sort(values)[:, ::-1], expected.values.numpy())
    assert np.array_equal(np.sort(columns), expected.indices.sort().values.numpy())


# From one group to many; with and without columns beyond the groups; k of one to all.
@pytest.mark.parametrize(
    "width, k",
    [
        (5, 5),
        (GROUP - 1, 3),
        (GROUP, 1),
        (10 * GROUP + 7, 5),
        (40 * GROUP, 20),
        (65 * GROUP + 31, 32),
        (97, 97),
    ],
)
def test_selection_is_exact(width, k):
    pre = np.random.default_rng(width).standard_normal((67, width)).astype(np.float32)
    values, columns = selected(pre, k)
    expected = torch.from_numpy(pre).topk(k)
    assert np.array_equal(np.sort(values)[:, ::-1], expected.values.numpy())
    assert np.array_equal(np.sort(columns), expected.indices.sort().values.numpy())
    assert np.array_equal(np.take_along_axis(pre, columns, 1), values)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.data())
def test_selection_is_exact_with_ties(seed, width, data):
    k = data.draw(st.integers(1, width))
    rng = np.random.default_rng(seed)
    pre = rng.integers(-3, 3, (3, width)).astype(np.float32)
    pre[rng.random(pre.shape) < 0.1] = -np.inf
    values, columns = selected(pre, k)
    assert np.array_equal(np.sort(values), np.sort(pre)[:, width - k :])
    assert all(len(set(row)) == k for row in columns.tolist())
    assert np.array_equal(np.take_along_axis(pre, columns, 1), values)


SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-45)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.data())
def test_selection_writes_every_slot_whatever_the_row_holds(seed, width, data):
    """NaN first, then numbers in falling order, infinities among them; no column twice."""
    k = data.draw(st.one_of(st.just(width), st.integers(1, width)))
    rng = np.random.default_rng(seed)
    pre = rng.choice(np.float32(data.draw(st.lists(st.sampled_from(SPECIAL), min_size=1))), (3, width))
    ordinary = rng.random(pre.shape) < data.draw(st.sampled_from([0, 0.1, 0.9]))
    pre[ordinary] = rng.standard_normal(ordinary.sum())
    values, columns = np.full((3, k), 7, np.float32), np.full((3, k), -1, np.int64)
    select_largest(pre.copy(), np.zeros(width, np.float32), values, columns)
    assert all(len(set(row)) == k for row in columns.tolist())
    assert np.array_equal(np.take_along_axis(pre, columns, 1), values, equal_nan=True)
    expected = [sorted(row, key=lambda value: (np.isnan(value), value))[width - k :] for row in pre]
    assert np.array_equal(np.sort(values), np.array(expected), equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=60), st.data())
def test_kth_largest(values, data):
    k = data.draw(st.integers(1, len(values)))
    for find in (kth_by_ranks, kth_by_partition):
        assert find(np.array(values, np.float32), k) == sorted(values, reverse=True)[k - 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_strongest_firings_equal_a_loop(seed, firings):
    rng = np.random.default_rng(seed)
    sample, cell = np.sort(rng.integers(0, 6, firings)), rng.integers(0, 4, firings)
    activation, count = rng.integers(1, 4, firings).astype(float), rng.integers(1, 3, firings)
    places, counts = strongest_firings(sample, cell, activation, count, 4)
    expected = {}
    for i, key in enumerate(zip(sample, cell)):
        best, total = expected.get(key, (i, 0))
        expected[key] = (i if activation[i] > activation[best] else best, total + count[i])
    assert dict(zip(zip(sample[places], cell[places]), zip(places, counts))) == expected


@pytest.mark.parametrize("size", [0, 1, 63, 64, 200])
def test_inner_products_in_lanes(size):
    x, y = np.random.default_rng(size).standard_normal((2, size)).astype(np.float32)
    assert dot(x, y) == pytest.approx(float(x.astype(float) @ y.astype(float)), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("size", [0, 5, 70_000])
def test_masked_bits_are_counted(size):
    bits = np.random.default_rng(size).integers(0, 2**16, size).astype(np.uint16)
    mask = np.uint16(0x7C00)
    assert count_masked(bits, mask) == ((bits & mask) == mask).sum()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([(1, 1), (5, 5), (40, 3), (700, 7)]), st.integers(0, 2**32 - 1), st.data())
def test_no_input_breaks_a_step(shape, seed, data):
    """Whatever inputs and weights hold, a step ends; a pre-activation of NaN shows in the reconstruction."""
    d_sae, k = shape
    rng, dictionary = np.random.default_rng(seed), TopKDictionary(3, d_sae, k)
    places = [*dictionary.parameters(), x := torch.zeros(data.draw(st.integers(0, 4)), 3)]
    odd = np.float32(data.draw(st.lists(st.sampled_from(SPECIAL), min_size=1)))
    with torch.no_grad():
        for place in places:
            values = np.where(rng.random(place.shape) < 0.2, rng.choice(odd, place.shape), 1)
            place.copy_(torch.from_numpy(values))
    missing = dictionary.pre_activations(x).isnan().any(dim=1)
    adam = DictionaryAdam(dictionary, 1e-3)
    result = dictionary.reconstruct(x)
    fraction_unexplained(x, result.x_hat).backward()
    adam.step()
    pairs = dictionary.active_pairs(x)
    assert not result.x_hat[missing].isfinite().any()
    assert result.firings.min() >= 0 and result.firings.max() <= len(x)
    assert len(pairs.columns) == len(x) * k and set(pairs.columns.tolist()) <= set(range(d_sae))


def test_loss_and_its_gradient_equal_torchs_own():
    x, x_hat = batches(2)
    fast, slow = x_hat.clone().requires_grad_(), x_hat.double().requires_grad_()
    one, two = fraction_unexplained(x, fast), fraction_unexplained(x.double(), slow)
    one.backward(torch.tensor(3.0))
    two.backward(torch.tensor(3.0, dtype=torch.float64))
    assert one.item() == pytest.approx(two.item(), rel=1e-6)
    assert (fast.grad - slow.grad).abs().max() <= 1e-6 * slow.grad.abs().max()


def pairs_of(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Return begins, columns and values of pairs, between none and eight a token, some switched off."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 9, N)
    columns = np.concatenate([rng.permutation(D_SAE)[:count] for count in counts])
    values = np.maximum(rng.standard_normal(len(columns)), 0).astype(np.float32)
    return np.concatenate([[0], counts.cumsum()]), columns, values


def matrices() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(1)
    return tuple(rng.standard_normal((rows, D_MODEL)).astype(np.float32) for rows in (D_SAE, N))


def test_sums_over_pairs_equal_dense_products():
    (begins, columns, values), (W_dec, gradient) = pairs_of(), matrices()
    token = np.repeat(np.arange(N), np.diff(begins))
    z = np.zeros((N, D_SAE), np.float32)
    z[token, columns] = values
    b_dec, x_hat, products = W_dec[0].copy(), np.empty((N, D_MODEL), np.float32), np.empty_like(values)
    decode_pairs(begins, columns, values, W_dec, b_dec, x_hat)
    np.testing.assert_allclose(x_hat, z @ W_dec + b_dec, rtol=1e-5, atol=1e-5)
    pair_products(gradient, begins, columns, values, W_dec, products)
    expected = (gradient @ W_dec.T)[token, columns] * (values > 0)
    np.testing.assert_allclose(products, expected, rtol=1e-5, atol=1e-5)


def test_pairs_are_grouped_by_feature_and_token():
    begins, columns, values = pairs_of()
    token = np.repeat(np.arange(N), np.diff(begins))
    starts, pairs, tokens = group_by_feature(begins, columns, values, D_SAE)
    assert sorted(pairs) == np.flatnonzero(values > 0).tolist()
    assert np.array_equal(tokens, token[pairs])
    for f in range(D_SAE):
        mine = pairs[starts[f] : starts[f + 1]]
        assert (columns[mine] == f).all() and (np.diff(mine) > 0).all()


def test_compiled_sums_equal_torchs_own():
    begins, columns, values = map(torch.from_numpy, pairs_of())
    W_dec, gradient = map(torch.from_numpy, matrices())
    single, double = Pairs(begins, columns, values), Pairs(begins, columns, values.double())
    close = {"rtol": 1e-5, "atol": 1e-5}
    decoded = decode_active(double, W_dec.double(), W_dec[0].double())
    torch.testing.assert_close(decode_active(single, W_dec, W_dec[0]).double(), decoded, **close)
    products = active_products(gradient.double(), double, W_dec.double())
    torch.testing.assert_close(active_products(gradient, single, W_dec).double(), products, **close)
    assert torch.equal(count_active(single, D_SAE), count_active(double, D_SAE))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_pairs_above_and_near_thresholds(seed, width):
    rng = np.random.default_rng(seed)
    # Quarters are exact, so that values on a border are on it.
    pre = (rng.integers(-8, 9, (5, width)) / 4).astype(np.float32)
    threshold, half = (rng.integers(0, 8, width) / 4).astype(np.float32), np.float32(0.5)
    found = chunk_pairs(pre, threshold, half)
    for pairs, expected in ((found.active, pre > threshold), (found.near, abs(pre - threshold) < half)):
        assert np.array_equal(pairs.begins.diff(), expected.sum(1))
        assert np.array_equal(pairs.columns, np.nonzero(expected)[1])
    assert np.array_equal(found.active.values, pre[pre > threshold])


def test_no_threshold_hides_a_pre_activation_that_is_no_number():
    pre, threshold = np.full((2, 130), -1, np.float32), np.ones(130, np.float32)
    pre[0, 70] = pre[1, 129] = np.nan
    found = chunk_pairs(pre, threshold, np.float32(0.5))
    assert found.active.columns.tolist() == [70, 129] and found.active.begins.tolist() == [0, 1, 2]
    assert found.active.values.isnan().all() and not len(found.near.columns)


@pytest.mark.parametrize("subtract", [True, False])
def test_sparse_jumprelu_equals_its_dense_twin(subtract):
    torch.manual_seed(0)
    fast = JumpReLUDictionary(D_MODEL, D_SAE, bandwidth=0.5, subtract_decoder_bias=subtract)
    for parameter in fast.parameters():
        nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        fast.log_threshold.fill_(np.log(3.2))
    slow, x = copy.deepcopy(fast), batches(1)[0]
    results = fast.reconstruct(x), slow.reconstruct_densely(x)
    assert 0.5 < float(results[0].l0) < D_SAE / 16
    for result in results:
        (fraction_unexplained(x, result.x_hat) + 0.3 * result.l0.square()).backward()
    torch.testing.assert_close(results[0].x_hat, results[1].x_hat, rtol=1e-5, atol=1e-5)
    assert torch.equal(results[0].l0, results[1].l0) and torch.equal(results[0].firings, results[1].firings)
    for (name, one), (_, two) in zip(fast.named_parameters(), slow.named_parameters()):
        assert (one.grad - two.grad).abs().max() <= 1e-5 * two.grad.abs().max(), name
        assert two.grad.abs().max() > 0, name


def start(seed: int, subtract: bool) -> TopKDictionary:
    torch.manual_seed(seed)
    dictionary = TopKDictionary(D_MODEL, D_SAE, K, subtract)
    for parameter in dictionary.parameters():
        nn.init.normal_(parameter, std=0.3)
    dictionary.normalise_decoder()
    return dictionary


def batches(steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(N, D_MODEL, generator=generator) for _ in range(steps)]


def train_plainly(
    dictionary: TopKDictionary, steps: int, rate: float, clip_norm: float = math.inf
) -> TopKDictionary:
    """Dense reconstruction, autograd, and torch's Adam in float64: the slow twin."""
    dictionary = dictionary.double()
    adam = torch.optim.Adam(dictionary.parameters(), lr=rate)
    for x in batches(steps):
        x = x.double()
        adam.zero_grad()
        loss_of(x, dictionary(x)).backward()
        dictionary.project_decoder_gradient()
        norm = math.sqrt(sum(float(one.grad.square().sum()) for one in dictionary.parameters()))
        for one in dictionary.parameters():
            one.grad *= min(1.0, clip_norm / norm)
        adam.step()
        dictionary.normalise_decoder()
    return dictionary


def loss_of(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
    """A loss whose gradients differ in length from batch to batch, which Adam does not undo."""
    return fraction_unexplained(x, x_hat) * (1 + 30 * (x[0, 0] > 0))


@pytest.mark.parametrize("alone", [True, False], ids=["pairs", "written out"])
@pytest.mark.parametrize("clip_norm", [math.inf, 0.05], ids=["whole", "clipped"])
@pytest.mark.parametrize("subtract", [True, False])
def test_a_trajectory_equals_the_dense_twin(subtract, clip_norm, alone):
    fast, steps, rate = start(1, subtract), 12, 3e-3
    slow = train_plainly(start(1, subtract), steps, rate, clip_norm)
    adam = DictionaryAdam(fast, rate, alone=alone, clip_norm=None if clip_norm == math.inf else clip_norm)
    assert fast.defers == alone
    for x in batches(steps):
        adam.zero_grad()
        loss_of(x, fast.reconstruct(x).x_hat).backward()
        assert (fast.W_enc.grad is None and fast.W_dec.grad is None) == alone
        adam.step()
    if clip_norm < math.inf:
        unclipped = train_plainly(start(1, subtract), steps, rate)
        assert (slow.W_dec - unclipped.W_dec).norm() > 0.05 * (slow.W_dec - start(1, subtract).W_dec).norm()
    for name, expected in slow.named_parameters():
        moved = getattr(fast, name).double() - getattr(start(1, subtract), name).double()
        whole = expected - getattr(start(1, subtract), name).double()
        assert (moved - whole).norm() <= 1e-4 * whole.norm(), name


def test_gradients_of_pairs_equal_the_dense_ones_to_1e_5():
    """With beta1 = 0 the first moment is the gradient itself."""
    fast, slow, x = start(2, True), start(2, True).double(), batches(1)[0]
    adam = DictionaryAdam(fast, 1e-3, betas=(0.0, 0.999))
    fraction_unexplained(x, fast.reconstruct(x).x_hat).backward()
    adam.step()
    fraction_unexplained(x.double(), slow(x.double())).backward()
    slow.project_decoder_gradient()
    for name, parameter in slow.named_parameters():
        found = adam.state[getattr(fast, name)]["exp_avg"].double()
        assert (found - parameter.grad).abs().max() <= 1e-5 * parameter.grad.abs().max(), name


@pytest.mark.parametrize("clip_norm", [1e-3, 1e3], ids=["longer", "shorter"])
def test_the_gradient_of_a_step_has_the_length_that_it_is_cut_to(clip_norm):
    """JumpReLU's thresholds, whose gradients are written out, belong to the norm and are scaled too."""
    torch.manual_seed(0)
    fast = JumpReLUDictionary(D_MODEL, D_SAE, bandwidth=0.5)
    for parameter in fast.parameters():
        nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        fast.log_threshold.fill_(np.log(3.2))
        fast.normalise_decoder()
    slow, x = copy.deepcopy(fast).double(), batches(1)[0]
    adam = DictionaryAdam(fast, 1e-3, betas=(0.0, 0.999), clip_norm=clip_norm)
    for dictionary, values in ((fast, x), (slow, x.double())):
        result = dictionary.reconstruct(values)
        (fraction_unexplained(values, result.x_hat) + 0.3 * result.l0.square()).backward()
    slow.project_decoder_gradient()
    assert fast.W_enc.grad is None and fast.log_threshold.grad is not None
    adam.step()
    norm = math.sqrt(sum(float(one.grad.square().sum()) for one in slow.parameters()))
    assert 1e-3 < norm < 1e3 and slow.log_threshold.grad.norm() > 0.01 * norm
    for name, parameter in slow.named_parameters():
        # With beta1 = 0 the first moment is the gradient itself.
        found = adam.state[getattr(fast, name)]["exp_avg"].double()
        expected = parameter.grad * min(1.0, clip_norm / norm)
        assert (found - expected).abs().max() <= 2e-5 * expected.abs().max(), name


STEPS = """
import hashlib, torch
from vlmdiff.dictionaries.loss import fraction_unexplained
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.dictionaries.optimiser import DictionaryAdam
from vlmdiff.kernels.compiled import THREADED
torch.manual_seed(0)
torch.set_num_threads(2 if THREADED else 1)
dictionary = TopKDictionary(80, 300, 6)
for parameter in dictionary.parameters():
    torch.nn.init.normal_(parameter)
dictionary.normalise_decoder()
adam = DictionaryAdam(dictionary, 1e-3, clip_norm=0.01)
# Products of matrices are torch's own; here they are exact.
with torch.no_grad():
    dictionary.W_enc.copy_((dictionary.W_enc * 4).round())
    dictionary.b_dec.zero_()
    dictionary.b_enc.zero_()
x = torch.randint(-3, 4, (200, 80)).float()
fraction_unexplained(x, dictionary.reconstruct(x).x_hat).backward()
adam.step()
weights = [one.detach().contiguous().numpy().tobytes() for one in dictionary.parameters()]
print(THREADED, hashlib.sha256(b"".join(weights)).hexdigest())
"""


@pytest.mark.long
def test_one_thread_and_several_give_the_same_bits():
    results = {}
    for threads in ("1", "2"):
        environment = os.environ | {"NUMBA_NUM_THREADS": threads, "PYTHONPATH": str(LIBRARY)}
        run = subprocess.run(
            [sys.executable, "-c", STEPS], env=environment, capture_output=True, text=True, check=True
        )
        results[threads] = run.stdout.split()
    assert [results[threads][0] for threads in ("1", "2")] == ["False", "True"]
    assert results["1"][1] == results["2"][1]


TAILS = "from vlmdiff.hypergeometric.log_tail import log_tail\nlog_tail(*([3, 4],) * 4)"
LOSS = """
from vlmdiff.dictionaries.loss import fraction_unexplained
fraction_unexplained(torch.eye(80), torch.zeros(80, 80, requires_grad=True))"""


@pytest.mark.parametrize("loop", [TAILS, LOSS], ids=["tails", "loss"])
def test_starting_numbas_threads_leaves_torch_its_own_number(loop):
    ends = "from numba.np.ufunc import parallel\nprint(parallel._is_initialized, torch.get_num_threads())"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2", "PYTHONPATH": str(LIBRARY)}
    run = subprocess.run(
        [sys.executable, "-c", f"import torch\n{loop}\n{ends}"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["True", "1"]


def test_threads_change_no_bit():
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        dictionary = start(3, True)
        adam = DictionaryAdam(dictionary, 1e-3)
        x = batches(1)[0]
        fraction_unexplained(x, dictionary.reconstruct(x).x_hat).backward()
        adam.step()
        results.append(
            [one.detach().clone() for one in (dictionary.W_enc, dictionary.W_dec, dictionary.b_dec)]
        )
    torch.set_num_threads(1)
    assert all(torch.equal(one, two) for one, two in zip(*results))


def test_a_dictionary_in_double_precision_takes_the_plain_way():
    dictionary = start(4, True).double()
    adam = DictionaryAdam(dictionary, 1e-3)
    x = batches(1)[0].double()
    assert not dictionary.defers
    fraction_unexplained(x, dictionary.reconstruct(x).x_hat).backward()
    adam.step()
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(D_SAE, dtype=torch.float64))
