"""Checks that every family of models must pass, whatever its decoder: heads, patching, restart, ablation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vlmdiff.activations.precision import from_storage
from vlmdiff.activations.shards import open_shard
from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT
from vlmdiff.data.samples import Sample
from vlmdiff.extraction.blocks import extract_block
from vlmdiff.heads.attribution import attribute
from vlmdiff.heads.corruption import Run, clean_and_corrupt, mean_image
from vlmdiff.heads.head_values import feature_metric, head_values
from vlmdiff.heads.patching import patch_exactly
from vlmdiff.interventions.feature_ablation import plan_ablation
from vlmdiff.interventions.restart import restart
from vlmdiff.models.batch import Batch
from vlmdiff.models.describe import describe, rows_of
from vlmdiff.models.hooks import edit_input, edit_output, hooks
from vlmdiff.models.prefix import read_prefix
from vlmdiff.models.subject import Subject

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def random_direction(seed: int, width: int = 32) -> torch.Tensor:
    """Return a unit direction."""
    rows = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=0)


def check_padding_changes_nothing(subject: Subject, prompts, pictures) -> None:
    """A sample alone and in a padded batch has the same residuals and logits."""
    together = subject.prepare(prompts, pictures)
    assert (together.token_type == PADDING).any()
    layers = list(range(subject.n_layers))
    residuals, logits = subject.residuals(together, layers), subject.final_logits(together)
    for row in range(len(prompts)):
        alone = subject.prepare(prompts[row : row + 1], pictures[row : row + 1])
        length = alone.input_ids.shape[1]
        for layer, values in subject.residuals(alone, layers).items():
            torch.testing.assert_close(residuals[layer][row, :length], values[0], **CLOSE)
        torch.testing.assert_close(logits[row], subject.final_logits(alone)[0], **CLOSE)


def check_own_words(subject: Subject, batch: Batch, generated: list[list[int]]) -> None:
    """`describe` appends what transformers' greedy `generate` returned after each prompt."""
    longer = describe(subject, batch, len(generated[0]), ())
    eos = subject.tokenizer.eos_token_id
    for row, spoken in enumerate(generated):
        expected = spoken[: spoken.index(eos)] if eos in spoken else spoken
        assert expected
        assert rows_of(longer)[row] == rows_of(batch)[row] + expected
        assert longer.generated[row] == len(expected)


def check_generation(subject: Subject, batch: Batch, reference, inputs: list[dict]) -> None:
    """A model's own words are those of transformers' greedy generation, prompt by prompt."""
    spoken = []
    for one in inputs:
        made = reference.generate(**one, max_new_tokens=4, do_sample=False)[0].tolist()
        spoken.append(made[one["input_ids"].shape[1] :])
    check_own_words(subject, batch, spoken)


def check_heads(subject: Subject, batch: Batch, layer: int) -> None:
    """The input of `o_proj` is, head by head, eager attention weights times values."""
    attention, seen = subject.attention(layer), {}
    handles = [
        attention.register_forward_hook(lambda _m, _a, out: seen.update(weights=out[1])),
        attention.v_proj.register_forward_hook(lambda _m, _a, out: seen.update(values=out)),
    ]
    found = head_values(subject, batch, [layer], subject.embed(batch))[layer]
    for handle in handles:
        handle.remove()
    values = seen["values"].unflatten(-1, (-1, subject.d_head))
    shared = subject.n_heads // values.shape[2]
    assert found.shape[-1] == subject.n_heads * subject.d_head
    for head in range(subject.n_heads):
        expected = seen["weights"][:, head] @ values[:, :, head // shared]
        torch.testing.assert_close(found.unflatten(-1, (subject.n_heads, -1))[:, :, head], expected, **CLOSE)


def check_writers(subject: Subject, batch: Batch, layer: int) -> None:
    """A block adds to the residual stream what its writers write, and nothing else."""
    written = []
    with hooks(*(edit_output(part, lambda v: written.append(v) or v) for part in subject.writers(layer))):
        residual = subject.residuals(batch, [layer])[layer]
    expected = subject.entering(batch, [layer])[layer] + written[0] + written[1]
    torch.testing.assert_close(residual, expected, **CLOSE)


def check_restart(subject: Subject, batch: Batch) -> None:
    """A restart at any block gives the full run, bit for bit, residuals and logits."""
    layers = list(range(subject.n_layers))
    residuals, logits = subject.residuals(batch, layers), subject.final_logits(batch)
    streams = subject.entering(batch, layers)
    for layer in layers:
        with restart(subject, layer, streams[layer]) as embeds:
            again = subject.residuals(batch, layers[layer:], embeds=embeds)
            assert torch.equal(subject.final_logits(batch, embeds=embeds), logits)
        assert all(torch.equal(again[at], residuals[at]) for at in layers[layer:])


def check_prefix(subject: Subject, batch: Batch) -> None:
    """The tokens after a prefix give the full run's logits, at the end of the image and within it."""
    ends = [0, *(batch.token_type == IMAGE).nonzero()[:, 1].tolist()]
    logits = subject.final_logits(batch)
    for length in (1, min(ends) + 2, max(ends) + 1):
        prefix = read_prefix(subject, batch, length)
        for _ in range(2):
            torch.testing.assert_close(subject.final_logits(batch, past=prefix.past()), logits, **CLOSE)
    streams = subject.entering(batch, list(range(subject.n_layers)))
    for layer, entering in streams.items():
        with restart(subject, layer, entering[:, length:]) as embeds:
            found = subject.final_logits(batch, embeds, prefix.past())
        torch.testing.assert_close(found, logits, **CLOSE)


def check_ablation(subject: Subject, batch: Batch, layer: int) -> None:
    """An ablated direction is gone from text tokens; the others leave the block as they were."""
    direction = random_direction(7, subject.d_model)
    ablation = plan_ablation(subject, {(layer, 0): direction}, [(layer, 0)], "own_layer")
    clean = subject.residuals(batch, [layer])[layer]
    with ablation.at(ablation.tokens(batch)):
        ablated = subject.residuals(batch, [layer])[layer]
    text = batch.token_type == TEXT
    assert (clean[text] @ direction).abs().max() > 0.1
    assert (ablated[text] @ direction).abs().max() < 1e-4
    for kind in (IMAGE, BOS):
        others = batch.token_type == kind
        assert others.any()
        assert torch.equal(ablated[others], clean[others])


def runs_of(subject: Subject, samples: list[Sample]) -> list[Run]:
    """Return clean and corrupt batches, several of them and padded."""
    return clean_and_corrupt(subject, samples, mean_image(subject, samples, 256), 96)


def change_of(subject: Subject, run: Run, at: tuple[int, int], feature, direction) -> torch.Tensor:
    """Return what a plain hook that patches one head in a full run does to the metric."""
    layer, head = at
    source = head_values(subject, run.corrupt_batch, [layer], run.corrupt)[layer]

    def patch(values):
        parts = values.unflatten(-1, (subject.n_heads, -1)).clone()
        parts[:, :, head] = source.unflatten(-1, (subject.n_heads, -1))[:, :, head]
        return parts.flatten(-2)

    clean = subject.residuals(run.batch, [feature[0]], embeds=run.clean)[feature[0]]
    with edit_input(subject.attention_output(layer), patch):
        patched = subject.residuals(run.batch, [feature[0]], embeds=run.clean)[feature[0]]
    before = feature_metric(clean, direction, run.after_image)
    return feature_metric(patched, direction, run.after_image) - before


def check_patching(subject: Subject, runs: list[Run]) -> None:
    """Exact patching of every head is what a plain hook in a full run does."""
    feature = (subject.n_layers - 1, 0)
    direction = random_direction(3, subject.d_model)
    found = patch_exactly(subject, runs, {feature: direction})[feature]
    for layer in range(subject.n_layers):
        for head in range(subject.n_heads):
            changes = torch.cat([change_of(subject, run, (layer, head), feature, direction) for run in runs])
            np.testing.assert_allclose(found.exact[layer, head], changes.mean(), atol=2e-4, rtol=1e-3)
    assert np.abs(found.exact).max() > 1e-3


def towards_corrupt(run: Run, scale: float) -> Run:
    """Return the run with a corruption that is only a fraction of the whole, between blocks as well."""
    corrupt, seen = run.clean + scale * (run.corrupt - run.clean), run.corrupt_seen
    if seen is not None and seen.deepstack is not None:
        own = run.batch.seen.deepstack
        seen = replace(seen, deepstack=own + scale * (seen.deepstack - own))
    return replace(run, corrupt=corrupt, corrupt_seen=seen)


def check_attribution(subject: Subject, runs: list[Run]) -> None:
    """For a small corruption, signed attribution is the effect of exact patching, head by head."""
    small = [towards_corrupt(run, 2e-3) for run in runs]
    feature = (subject.n_layers - 1, 0)
    direction = random_direction(3, subject.d_model)
    exact = patch_exactly(subject, small, {feature: direction})[feature].exact
    signed = attribute(subject, small, feature[0], [direction])[0].signed
    assert np.abs(exact).max() > 1e-4
    np.testing.assert_allclose(signed, exact, atol=0.02 * np.abs(exact).max())


def question_samples(folder: Path, pictures) -> list[Sample]:
    """Write pictures and return one question about each, of different lengths."""
    samples = []
    for index, picture in enumerate(pictures):
        picture.save(folder / f"{index}.png")
        prompt = f"Is the following statement correct? The dog is {'left ' * index}of the car."
        samples.append(
            Sample(
                sample_id=f"s{index}",
                image=f"{index}.png",
                prompt=prompt,
                answer="Yes",
                choices=["Yes", "No"],
                group="left",
                folder=folder,
            )
        )
    return samples


def check_extraction(subject: Subject, samples: list[Sample], path: Path) -> None:
    """A shard holds the residuals of all tokens but the first, BOS and padding, in the samples' order."""
    layers = list(range(subject.n_layers))
    extract_block(
        subject, samples, path, dataset="d", block=0, shard_samples=8, layers=layers, batch_tokens=64
    )
    shard = open_shard(path)
    for index, sample in enumerate(samples):
        alone = subject.prepare([sample.prompt], [sample.open_image()], sample.chat)
        rows = slice(int(shard.offsets[index]), int(shard.offsets[index + 1]))
        kept = torch.isin(alone.token_type[0], torch.tensor([IMAGE, TEXT]))
        kept[0] = False
        assert shard.token_id[rows].tolist() == alone.input_ids[0, kept].tolist()
        assert shard.token_type[rows].tolist() == alone.token_type[0, kept].tolist()
        for layer, values in subject.residuals(alone, layers).items():
            stored = from_storage(shard.read(layer, rows.start, rows.stop)).float()
            torch.testing.assert_close(stored, values[0, kept], atol=2e-3, rtol=2e-3)
