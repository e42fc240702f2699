"""Dictionary modules against naive loops, gradients against the published formulas."""

import pytest
import torch
from torch import Tensor, nn

from vlmdiff.dictionaries.modules import Dictionary, JumpReLUDictionary, TopKDictionary
from vlmdiff.dictionaries.pairs import Pairs, by_feature

D_MODEL, D_SAE, K = 12, 40, 5


def randomise(dictionary: Dictionary, seed: int = 0) -> Dictionary:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    dictionary.normalise_decoder()
    return dictionary


def tokens(n: int = 64, seed: int = 1) -> Tensor:
    return torch.randn(n, D_MODEL, generator=torch.Generator().manual_seed(seed)) + 0.5


@torch.no_grad()
def naive_pre(dictionary: Dictionary, token: Tensor, feature: int) -> float:
    pre = float(dictionary.b_enc[feature])
    for i in range(D_MODEL):
        offset = float(dictionary.b_dec[i]) if dictionary.subtract_decoder_bias else 0.0
        pre += (float(token[i]) - offset) * float(dictionary.W_enc[i, feature])
    return pre


@pytest.mark.parametrize("subtract", [True, False])
def test_topk_encodes_as_a_naive_loop(subtract):
    dictionary = randomise(TopKDictionary(D_MODEL, D_SAE, K, subtract))
    x = tokens(6)
    z = dictionary.encode(x)
    for row, token in enumerate(x):
        pre = [naive_pre(dictionary, token, feature) for feature in range(D_SAE)]
        kept = sorted(range(D_SAE), key=lambda feature: -pre[feature])[:K]
        expected = torch.tensor([max(pre[f], 0.0) if f in kept else 0.0 for f in range(D_SAE)])
        torch.testing.assert_close(z[row], expected, atol=1e-5, rtol=1e-5)


def test_topk_drops_negative_values_among_the_largest():
    dictionary = randomise(TopKDictionary(D_MODEL, D_SAE, D_SAE))
    assert ((dictionary.encode(tokens()) > 0).sum(dim=1) < D_SAE).all()


@pytest.mark.parametrize("subtract", [True, False])
def test_jumprelu_encodes_as_a_naive_loop(subtract):
    dictionary = randomise(JumpReLUDictionary(D_MODEL, D_SAE, 0.001, subtract))
    x = tokens(6)
    z = dictionary.encode(x)
    for row, token in enumerate(x):
        for feature in range(D_SAE):
            pre = naive_pre(dictionary, token, feature)
            expected = pre if pre > float(dictionary.threshold[feature]) else 0.0
            assert float(z[row, feature]) == pytest.approx(expected, abs=1e-5)


def test_decode_is_the_sum_of_active_directions():
    dictionary = randomise(TopKDictionary(D_MODEL, D_SAE, K))
    x = tokens(3)
    z = dictionary.encode(x)
    for row in range(3):
        expected = dictionary.b_dec.clone()
        for feature in range(D_SAE):
            expected = expected + z[row, feature] * dictionary.W_dec[feature]
        torch.testing.assert_close(dictionary(x)[row], expected, atol=1e-5, rtol=1e-5)


def gradients(dictionary: Dictionary, x_hat: Tensor, x: Tensor) -> dict[str, Tensor]:
    dictionary.zero_grad()
    ((x - x_hat).square().sum() / (x - x.mean(dim=0)).square().sum()).backward()
    return {name: parameter.grad.clone() for name, parameter in dictionary.named_parameters()}


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("n, k", [(2, K), (7, 30), (600, K), (600, D_SAE)])
def test_sparse_reconstruction_equals_its_dense_twin(subtract, n, k):
    dictionary = randomise(TopKDictionary(D_MODEL, D_SAE, k, subtract))
    x = tokens(n)
    result = dictionary.reconstruct(x)
    torch.testing.assert_close(result.x_hat, dictionary(x), atol=1e-5, rtol=1e-5)
    sparse, dense = gradients(dictionary, result.x_hat, x), gradients(dictionary, dictionary(x), x)
    assert set(sparse) == {"W_enc", "b_enc", "W_dec", "b_dec"}
    for name in sparse:
        torch.testing.assert_close(sparse[name], dense[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [TopKDictionary, JumpReLUDictionary])
def test_counts_of_a_reconstruction(kind):
    dictionary = randomise(kind(D_MODEL, D_SAE, 5 if kind is TopKDictionary else 0.1))
    x = tokens()
    result, z = dictionary.reconstruct(x), dictionary.encode(x)
    assert torch.equal(result.firings, (z > 0).sum(dim=0))
    assert float(result.l0) == pytest.approx(float((z > 0).sum(dim=1).float().mean()))
    torch.testing.assert_close(result.x_hat, dictionary(x))


def test_jumprelu_gradients_follow_the_published_formula():
    bandwidth = 0.5
    dictionary = randomise(JumpReLUDictionary(D_MODEL, D_SAE, bandwidth))
    x = tokens()
    result = dictionary.reconstruct(x)
    outer = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    ((result.x_hat * outer).sum() + 3.0 * result.l0).backward()

    with torch.no_grad():
        pre, threshold = dictionary.pre_activations(x), dictionary.threshold
        g_z = outer @ dictionary.W_dec.T
        expected = torch.zeros(D_SAE)
        for token in range(len(x)):
            for f in range(D_SAE):
                inside = abs(float((pre[token, f] - threshold[f]) / bandwidth)) < 0.5
                if inside:
                    expected[f] -= float(threshold[f]) / bandwidth * float(g_z[token, f])
                    expected[f] -= 3.0 / len(x) / bandwidth
        expected *= threshold  # chain rule of exp(log_threshold)
        active = (pre > threshold).float()
        g_b_enc = (g_z * active).sum(dim=0)
    assert (expected != 0).sum() > 5
    torch.testing.assert_close(dictionary.log_threshold.grad, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dictionary.b_enc.grad, g_b_enc, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [TopKDictionary, JumpReLUDictionary])
def test_rescaling_is_exact_for_powers_of_two(kind):
    dictionary = randomise(kind(D_MODEL, D_SAE, 5 if kind is TopKDictionary else 0.1))
    x = tokens()
    before = dictionary(x).detach()
    dictionary.rescale_input(0.125)
    torch.testing.assert_close(dictionary(x * 0.125) * 8, before, atol=1e-6, rtol=1e-6)


def test_projected_gradient_has_no_part_along_unit_rows():
    dictionary = randomise(TopKDictionary(D_MODEL, D_SAE, K))
    x = tokens()
    before = gradients(dictionary, dictionary(x), x)["W_dec"]
    dictionary.project_decoder_gradient()
    along = (dictionary.W_dec.grad * dictionary.W_dec).sum(dim=1)
    assert (before * dictionary.W_dec).sum(dim=1).abs().max() > 1e-3
    assert along.abs().max() < 1e-6


def test_sorting_by_feature_covers_every_pair_once():
    pairs = Pairs(torch.tensor([0, 2, 4, 6]), torch.tensor([3, 0, 3, 1, 0, 4]), torch.ones(6))
    order, token, begins = by_feature(pairs, 6)
    assert sorted(order.tolist()) == list(range(6))
    assert [token[begins[f] : begins[f + 1]].tolist() for f in range(6)] == [[0, 2], [1], [], [0, 1], [2], []]


@pytest.mark.parametrize("k", [0, D_SAE + 1])
def test_impossible_k_is_refused(k):
    with pytest.raises(ValueError, match=f"found {k}"):
        TopKDictionary(D_MODEL, D_SAE, k)


def test_impossible_bandwidth_is_refused():
    with pytest.raises(ValueError, match="bandwidth"):
        JumpReLUDictionary(D_MODEL, D_SAE, 0.0)


def test_dictionaries_are_plain_modules():
    bases = {base.__module__.split(".")[0] for base in TopKDictionary.__mro__}
    assert bases <= {"vlmdiff", "torch", "abc", "builtins"} and issubclass(TopKDictionary, nn.Module)
