"""Attribution and exact patching against naive computations, and against each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT
from vlmdiff.data.samples import load_samples
from vlmdiff.heads.attribution import attribute, corrupt_minus_clean
from vlmdiff.heads.corruption import (
    CorruptionError,
    Run,
    clean_and_corrupt,
    influenced,
    mean_image,
    with_images,
)
from vlmdiff.heads.head_values import feature_metric, head_values
from vlmdiff.heads.patching import patch_exactly
from vlmdiff.heads.tracing import TracedSamples, attribution_rows, patching_rows
from vlmdiff.models.batch import make_batch
from vlmdiff.models.hooks import edit_input
from vlmdiff.models.positions import text_after_image
from vlmdiff.models.registry import load_subject

FEATURES = [(1, 0), (2, 4), (2, 7)]


@pytest.fixture(scope="module")
def subject(tiny_vlm_path):
    return load_subject("vlm", {"family": "llava"}, tiny_vlm_path)


@pytest.fixture(scope="module")
def samples(tiny_dataset):
    return load_samples(tiny_dataset / "samples.jsonl", limit=12)


@pytest.fixture(scope="module")
def runs(subject, samples):
    return clean_and_corrupt(subject, samples, mean_image(subject, samples, 256), 128)


@pytest.fixture(scope="module")
def directions():
    rows = torch.randn(len(FEATURES), 32, generator=torch.Generator().manual_seed(0))
    return dict(zip(FEATURES, torch.nn.functional.normalize(rows, dim=1)))


def towards_corrupt(run: Run, scale: float) -> Run:
    """Return the run with a corruption that is only a fraction of the whole."""
    corrupt = run.clean + scale * (run.corrupt - run.clean)
    return replace(run, corrupt=corrupt)


def test_mean_image_is_the_mean_at_each_position(subject, samples, runs):
    mean = mean_image(subject, samples, 256)
    images = torch.cat([run.clean[run.batch.token_type == IMAGE].view(-1, 9, 32) for run in runs])
    torch.testing.assert_close(mean.positions[0], images.mean(dim=0))
    for run in runs:
        is_image = run.batch.token_type == IMAGE
        torch.testing.assert_close(run.corrupt[is_image].view(-1, 9, 32)[0], images.mean(dim=0))
        assert torch.equal(run.corrupt[~is_image], run.clean[~is_image])


def test_the_corrupt_batch_shows_the_mean_image_everywhere(subject, samples, runs):
    """Models that add images between their blocks read it off the batch."""
    mean = mean_image(subject, samples, 256).positions[0]
    for run in runs:
        shown = run.corrupt_batch.seen.features
        torch.testing.assert_close(shown, mean.repeat(len(run.batch), 1))
        assert not torch.allclose(shown, run.batch.seen.features)
        assert replace(run, corrupt_seen=None).corrupt_batch is run.batch


def test_metric_covers_text_after_the_image_only(runs):
    for run in runs:
        for i in range(len(run.batch)):
            types = run.batch.token_type[i].tolist()
            last = max(at for at, kind in enumerate(types) if kind == IMAGE)
            expected = [kind == TEXT and at > last for at, kind in enumerate(types)]
            assert text_after_image(run.batch)[i].tolist() == expected
            assert any(expected)


def test_metric_equals_a_loop():
    residual, direction = torch.randn(2, 3, 4), torch.randn(4)
    where = torch.tensor([[True, False, True], [False, False, True]])
    expected = [sum(residual[i, t] @ direction for t in range(3) if where[i, t]) for i in range(2)]
    torch.testing.assert_close(feature_metric(residual, direction, where), torch.stack(expected))


def naive_exact(subject, runs, feature, direction, layer, head):
    """Patch one head in a full run, sample by sample."""
    changes = []
    for run in runs:
        source = head_values(subject, run.batch, [layer], run.corrupt)[layer]
        place = slice(head * 8, head * 8 + 8)

        def patch(values, source=source, place=place):
            return torch.cat(
                [values[..., : place.start], source[..., place], values[..., place.stop :]], dim=-1
            )

        clean = subject.residuals(run.batch, [feature[0]], embeds=run.clean)[feature[0]]
        with edit_input(subject.attention_output(layer), patch):
            patched = subject.residuals(run.batch, [feature[0]], embeds=run.clean)[feature[0]]
        delta = (patched - clean) @ direction
        changes += (delta * run.after_image).sum(dim=1).tolist()
    return np.array(changes)


def test_exact_patching_equals_full_runs(subject, runs, directions):
    found = patch_exactly(subject, runs, directions)
    for feature, layer, head in [((1, 0), 0, 2), ((1, 0), 1, 1), ((2, 4), 2, 3), ((2, 7), 1, 0)]:
        changes = naive_exact(subject, runs, feature, directions[feature], layer, head)
        assert found[feature].exact[layer, head] == pytest.approx(changes.mean(), abs=1e-4)
        assert found[feature].exact_abs[layer, head] == pytest.approx(np.abs(changes).mean(), abs=1e-4)
    assert found[1, 0].exact.shape == (2, 4)
    assert found[2, 4].exact.shape == (3, 4)


def test_a_head_that_is_the_last_step_is_patched_linearly(subject, runs, directions):
    """Heads of the feature's block reach it through `o_proj` and the MLP; without MLP all is linear."""
    block = subject.block(2)
    handle = block.mlp.register_forward_hook(lambda _module, _args, output: torch.zeros_like(output))
    try:
        exact = patch_exactly(subject, runs, {(2, 4): directions[2, 4]})[2, 4]
        signed = attribute(subject, runs, 2, [directions[2, 4]])[0].signed
    finally:
        handle.remove()
    np.testing.assert_allclose(signed[2], exact.exact[2], atol=1e-4, rtol=1e-3)
    assert not np.allclose(signed[:2], exact.exact[:2], rtol=1e-2)


def test_attribution_equals_exact_patching_to_first_order(subject, runs, directions):
    with torch.no_grad():
        model = subject.model.double()
    try:
        small = [
            Run(run.batch, run.clean.double(), run.corrupt.double(), run.after_image, run.real)
            for run in runs
        ]
        small = [towards_corrupt(run, 1e-3) for run in small]
        exact = patch_exactly(subject, small, directions)
        signed = attribute(subject, small, 2, [directions[2, 4], directions[2, 7]])
    finally:
        model.float()
    for feature, one in zip([(2, 4), (2, 7)], signed):
        scale = np.abs(exact[feature].exact).max()
        # The metric is summed in float32, which bounds the precision of small differences.
        np.testing.assert_allclose(one.signed, exact[feature].exact, atol=0.02 * scale)


def naive_methods(subject, run, feature, direction, layer, head):
    """Attribute one head with leaf tensors written by hand."""

    def value_and_gradient(embeds):
        kept = {}

        def keep(values):
            kept["a"] = values.detach().requires_grad_(True)
            return kept["a"]

        with edit_input(subject.attention_output(layer), keep):
            residual = subject.residuals(run.batch, [feature[0]], embeds=embeds)[feature[0]]
        feature_metric(residual, direction, run.after_image).sum().backward()
        place = slice(head * 8, head * 8 + 8)
        return kept["a"].detach()[..., place], kept["a"].grad[..., place]

    (clean, g_clean), (corrupt, g_corrupt) = value_and_gradient(run.clean), value_and_gradient(run.corrupt)
    difference = (corrupt - clean) * run.real[..., None]
    return (difference * g_clean).sum(-1), (difference * g_corrupt).sum(-1)


def test_methods_equal_a_naive_attribution(subject, runs, directions):
    found = attribute(subject, runs, 2, [directions[2, 4], directions[2, 7]])
    for feature, one in zip([(2, 4), (2, 7)], found):
        for layer, head in [(0, 1), (1, 3), (2, 0)]:
            parts = [naive_methods(subject, run, feature, directions[feature], layer, head) for run in runs]
            tokens = sum(int(run.real.sum()) for run in runs)
            samples = sum(len(run.batch) for run in runs)
            first, second = (sum(float(part[i].abs().sum()) for part in parts) for i in (0, 1))
            signed = sum(float(part[0].sum()) for part in parts)
            assert one.method_a[layer, head] == pytest.approx(first / tokens, rel=1e-3)
            assert one.method_b[layer, head] == pytest.approx(second / tokens, rel=1e-3)
            assert one.signed[layer, head] == pytest.approx(signed / samples, rel=1e-2, abs=1e-4)


def test_batches_do_not_change_the_attribution(subject, samples, runs, directions):
    single = clean_and_corrupt(subject, samples, mean_image(subject, samples, 256), 1)
    many, one = (attribute(subject, some, 1, [directions[1, 0]])[0] for some in (runs, single))
    for name in ("method_a", "method_b", "signed"):
        np.testing.assert_allclose(getattr(many, name), getattr(one, name), rtol=1e-3, atol=1e-5)


def test_rows_belong_to_their_features(subject, runs, directions):
    """Two features of one layer, one of another: each row says what a run for its feature alone says."""
    rows = {(r["name"], r["layer"], r["head"]): r for r in attribution_rows(subject, runs, directions)}
    exact = {
        (r["name"], r["layer"], r["head"]): r
        for r in patching_rows(subject, runs, directions, {(1, 2): 1.0, (2, 0): 5.0})
    }
    assert set(exact) == {
        ("L1F0", 1, 2),
        *((name, *head) for name in ("L2F4", "L2F7") for head in ((1, 2), (2, 0))),
    }
    for (layer, feature), direction in directions.items():
        name = f"L{layer}F{feature}"
        alone = attribute(subject, runs, layer, [direction])[0]
        for method in ("method_a", "method_b", "signed"):
            found = [[rows[name, at, head][method] for head in range(4)] for at in range(layer + 1)]
            np.testing.assert_allclose(found, getattr(alone, method), rtol=1e-4, atol=1e-6)
        clean, corrupt = (
            sum(
                float(metric_of(subject, run, batch, embeds, layer, direction).sum())
                for run, batch, embeds in part
            )
            / sum(len(run.batch) for run in runs)
            for part in (
                [(run, run.batch, run.clean) for run in runs],
                [(run, run.corrupt_batch, run.corrupt) for run in runs],
            )
        )
        assert abs(clean - corrupt) > 1e-3
        row = exact[name, 1, 2]
        assert (row["metric_clean"], row["metric_corrupt"]) == pytest.approx((clean, corrupt), rel=1e-4)


def metric_of(subject, run, batch, embeds, layer, direction):
    """Sum the products with a direction over the text tokens after the image, sample by sample."""
    with torch.no_grad():
        products = subject.residuals(batch, [layer], embeds=embeds)[layer] @ direction
    return torch.stack([row[mask].sum() for row, mask in zip(products, run.after_image)])


def test_16_bit_values_are_subtracted_in_32():
    """256 - 1.0078125 has no 16-bit value: the nearest is 255."""
    corrupt, clean = (torch.full((1, 2, 1), x, dtype=torch.bfloat16) for x in (256.0, 1.0078125))
    found = corrupt_minus_clean(corrupt, clean, torch.tensor([[True, False]]))
    assert found.flatten().tolist() == [254.9921875, 0.0]


def test_image_text_and_a_later_bos_are_influenced():
    bos, image = 1, 9
    batch = make_batch([[bos, image, 5], [image, bos, 5, 6]], 0, bos, image)
    assert batch.token_type.tolist() == [[BOS, IMAGE, TEXT, PADDING], [IMAGE, BOS, TEXT, TEXT]]
    assert influenced(batch).tolist() == [[False, True, True, False], [True] * 4]


@pytest.mark.parametrize(("traced", "averaged"), [(3, 8), (8, 3)])
def test_some_samples_are_traced_and_others_averaged(subject, samples, tiny_dataset, traced, averaged):
    found = TracedSamples(str(tiny_dataset / "samples.jsonl"), traced, averaged, 256).runs(subject)
    assert sum(len(run.batch) for run in found) == traced
    mean = mean_image(subject, samples[:averaged], 256)
    expected = clean_and_corrupt(subject, samples[:traced], mean, 256)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.corrupt, other.corrupt)


def test_no_gradient_reaches_the_weights(subject, runs, directions):
    attribute(subject, runs[:1], 1, [directions[1, 0]])
    assert all(weight.grad is None for weight in subject.model.parameters())


def test_samples_without_images_are_refused(samples):
    blind = [sample.model_copy(update={"image": None}) for sample in samples]
    with pytest.raises(CorruptionError, match="heads.dataset"):
        with_images(blind, 5)
    assert with_images([*blind[:2], *samples], 5) == samples[:5]
