"""Projection ablation: exact, idempotent, only at text tokens, equal to a naive edited forward."""

import pytest
import torch
from causal_files import answered

from vlmdiff.activations.tokens import TEXT
from vlmdiff.data.batching import prepare_batches
from vlmdiff.data.samples import load_samples
from vlmdiff.interventions.evaluation import Evaluation
from vlmdiff.interventions.feature_ablation import (
    AblationError,
    orthonormal_basis,
    plan_ablation,
    remove_span,
    unit_directions,
)
from vlmdiff.interventions.restart import restart
from vlmdiff.models.hooks import edit_output, record_outputs
from vlmdiff.models.registry import load_subject


@pytest.fixture(scope="module")
def subject(tiny_vlm_path):
    return load_subject("vlm", {"family": "llava"}, tiny_vlm_path)


@pytest.fixture(scope="module")
def samples(tiny_dataset):
    return load_samples(tiny_dataset / "samples.jsonl", limit=20)


@pytest.fixture(scope="module")
def batch(subject, samples):
    return next(prepare_batches(subject, samples, 4096))[1]


def directions(n, d_model=32, seed=0):
    values = torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed))
    return values / values.norm(dim=1, keepdim=True)


@pytest.fixture
def features():
    rows = directions(4)
    return dict(zip([(0, 3), (1, 5), (1, 7), (2, 2)], rows))


def test_span_is_removed_exactly_and_twice_is_once():
    rows = directions(3)
    values, everywhere = torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool)
    once = remove_span(values, orthonormal_basis(rows), everywhere)
    assert (once @ rows.T).abs().max() < 1e-5
    projector = torch.linalg.pinv(rows) @ rows
    torch.testing.assert_close(once, values - values @ projector, atol=1e-5, rtol=0)
    twice = remove_span(once, orthonormal_basis(rows), everywhere)
    torch.testing.assert_close(twice, once, atol=1e-5, rtol=0)


def test_one_after_another_would_not_remove_the_span():
    rows = directions(1).repeat(2, 1)
    rows[1] = torch.nn.functional.normalize(rows[0] + 0.5 * directions(1, seed=1)[0], dim=0)
    value = torch.randn(32)
    for row in rows:
        value = value - (value @ row) * row
    assert (value @ rows[0]).abs() > 1e-3


def test_dependent_directions_take_no_bystander_with_them():
    row = directions(1)
    basis = orthonormal_basis(torch.cat([row, row, -row]))
    assert basis.shape == (32, 1)


def test_unmarked_tokens_keep_their_bits():
    values, where = torch.randn(2, 5, 32), torch.rand(2, 5) < 0.5
    edited = remove_span(values, orthonormal_basis(directions(3)), where)
    assert torch.equal(edited[~where], values[~where])
    assert not torch.equal(edited[where], values[where])


def test_ablated_block_writes_nothing_along_the_direction_on_text_and_leaves_the_rest(
    subject, batch, features
):
    plan = plan_ablation(subject, features, [(1, 5)], "own_layer")
    parts = {0: subject.block(1), 1: subject.mlp(1), 2: subject.attention(1)}
    clean = subject.residuals(batch, [0, 1, 2])
    with plan.at(plan.tokens(batch)), record_outputs(parts) as outputs:
        edited = subject.residuals(batch, [0, 1, 2])
    text = batch.token_type == TEXT
    for output in outputs.values():
        assert (output[text] @ features[1, 5]).abs().max() < 1e-4
    assert torch.equal(edited[0], clean[0])
    # At the ablated block itself, image tokens and BOS come before any edit could reach them.
    assert torch.equal(edited[1][~text], clean[1][~text])
    assert not torch.allclose(edited[2], clean[2])


def naive_logits(subject, batch, by_layer):
    """Edit by hand, one hook a part, sequentially with a pseudo-inverse projector."""
    text = (batch.token_type == TEXT)[..., None]

    def removal(rows):
        projector = torch.linalg.pinv(rows) @ rows
        return lambda values: torch.where(text, values - values @ projector, values)

    from contextlib import ExitStack

    with ExitStack() as stack:
        for layer, rows in by_layer.items():
            for part in (subject.attention(layer), subject.mlp(layer), subject.block(layer)):
                stack.enter_context(edit_output(part, removal(rows)))
        return subject.final_logits(batch)


@pytest.mark.parametrize("scope", ["own_layer", "all_layers"])
def test_equals_a_naive_edited_forward(subject, batch, features, scope):
    chosen = [(1, 5), (1, 7), (2, 2)]
    if scope == "own_layer":
        naive = {1: torch.stack([features[1, 5], features[1, 7]]), 2: features[2, 2][None]}
    else:
        naive = dict.fromkeys(range(3), torch.stack([features[key] for key in chosen]))
    plan = plan_ablation(subject, features, chosen, scope)
    with plan.at(plan.tokens(batch)):
        found = subject.final_logits(batch)
    torch.testing.assert_close(found, naive_logits(subject, batch, naive), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, subject.final_logits(batch), atol=1e-2)


def test_no_features_is_the_clean_run_bit_for_bit(subject, samples):
    evaluation = Evaluation(subject, samples, 512)
    plan = plan_ablation(subject, {}, [], "all_layers")
    assert (evaluation.answers(plan).margin == evaluation.answers().margin).all()


def test_hooks_are_gone_afterwards(subject, batch, features):
    before = subject.final_logits(batch)
    plan = plan_ablation(subject, features, [(0, 3)], "all_layers")
    with pytest.raises(RuntimeError), plan.at(plan.tokens(batch)):
        raise RuntimeError
    assert torch.equal(before, subject.final_logits(batch))


def test_restart_equals_the_full_run_bit_for_bit(subject, batch):
    full = subject.final_logits(batch)
    entering = subject.residuals(batch, [0, 1])
    for layer in (1, 2):
        with restart(subject, layer, entering[layer - 1]) as embeds:
            assert torch.equal(subject.final_logits(batch, embeds=embeds), full)
    assert torch.equal(subject.final_logits(batch), full)


@pytest.mark.parametrize("cache_bytes", [0, 25 * 40 * 32 * 4, 2**30])
@pytest.mark.parametrize("scope", ["own_layer", "all_layers"])
def test_cached_evaluation_equals_a_plain_one(subject, samples, features, scope, cache_bytes):
    plan = plan_ablation(subject, features, [(1, 7), (2, 2)], scope)
    cached = Evaluation(subject, samples, 512, cache_bytes=cache_bytes)
    found = cached.answers(plan).margin
    assert (found == answered(subject, samples, plan).margin).all()


def test_unknown_scope_and_missing_dictionary_say_what_is_allowed(subject, tmp_path):
    with pytest.raises(AblationError, match="own_layer"):
        plan_ablation(subject, {}, [], "everywhere")
    with pytest.raises(AblationError, match="L1F0: its direction has 16 dimensions, .* 'vlm' has 32"):
        plan_ablation(subject, {(1, 0): torch.ones(16)}, [(1, 0)], "own_layer")
    with pytest.raises(AblationError, match="layer 2 has no dictionary"):
        unit_directions({0: tmp_path}, [(2, 1)])


def test_directions_are_unit_decoder_rows(tmp_path):
    from vlmdiff.dictionaries.files import save_dictionary
    from vlmdiff.dictionaries.modules import TopKDictionary

    dictionary = TopKDictionary(k=2, d_model=8, d_sae=4)
    with torch.no_grad():
        dictionary.W_dec[2] = 3.0 * torch.eye(8)[5]
    save_dictionary(dictionary, tmp_path, {})
    assert torch.equal(unit_directions({0: tmp_path}, [(0, 2)])[0, 2], torch.eye(8)[5])
    with pytest.raises(AblationError, match="L0F3"):
        unit_directions({0: tmp_path}, [(0, 3)])
    with pytest.raises(AblationError, match="L0F-2"):
        unit_directions({0: tmp_path}, [(0, -2)])
    with pytest.raises(AblationError, match="L0F9"):
        unit_directions({0: tmp_path}, [(0, 9)])
