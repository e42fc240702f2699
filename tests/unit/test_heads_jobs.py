"""Head ablation, attention maps, and the jobs of the room on tiny files."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from causal_files import answered, filled, write_dictionaries

from vlmdiff.activations.tokens import IMAGE, TEXT
from vlmdiff.data.batching import prepare_batches
from vlmdiff.data.samples import load_samples
from vlmdiff.dictionaries.files import load_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.heads.aggregate import aggregate_heads
from vlmdiff.heads.attention import (
    AttentionError,
    attention_of,
    batch_peaks,
    map_attention,
    most_looking,
    patch_grid,
    strongest_peaks,
    top_head,
)
from vlmdiff.heads.head_arms import evaluate_head_ablation
from vlmdiff.heads.head_values import head_values, recorded_heads
from vlmdiff.heads.mean_ablation import HeadAblation, head_means
from vlmdiff.heads.tracing import TracedSamples, attribute_heads, patch_heads
from vlmdiff.interventions.evaluation import Evaluation
from vlmdiff.interventions.inputs import ModelFiles, QuestionSets
from vlmdiff.models.registry import load_subject
from vlmdiff.tables.causal import (
    HEAD_ABLATION,
    HEAD_AGREEMENT,
    HEAD_ATTENTION,
    HEAD_ATTRIBUTION,
    HEAD_PATCHING,
    HEAD_SCORES,
    RANKING,
)
from vlmdiff.tables.io import read_table, write_table

FEATURES = [(1, 0), (2, 4)]


@pytest.fixture(scope="module")
def subject(tiny_vlm_path):
    return load_subject("vlm", {"family": "llava"}, tiny_vlm_path)


@pytest.fixture(scope="module")
def samples(tiny_dataset):
    return load_samples(tiny_dataset / "samples.jsonl", limit=12)


def test_means_are_over_text_tokens(subject, samples):
    found = head_means(subject, samples, [0, 2], 128)
    values = []
    for _, batch in prepare_batches(subject, samples, 10_000):
        everything = head_values(subject, batch, [0, 1, 2], subject.embed(batch))
        values.append(everything[2][batch.token_type == TEXT])
    torch.testing.assert_close(found[2], torch.cat(values).mean(dim=0), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found[0], found[2])


def test_ablation_writes_the_mean_into_the_head_on_text_only(subject, samples):
    means = head_means(subject, samples, [0, 1, 2], 512)
    batch = next(prepare_batches(subject, samples, 512))[1]
    clean = head_values(subject, batch, [1], subject.embed(batch))[1]
    # The head of another block does not count here.
    heads = [(1, 2), (2, 0)]
    ablation = HeadAblation(subject, heads, means)
    with ablation.at(ablation.tokens(batch)), recorded_heads(subject, [1]) as edited:
        subject.residuals(batch, [1])
    text = batch.token_type == TEXT
    torch.testing.assert_close(edited[1][text][:, 16:24], means[1][16:24].expand(int(text.sum()), 8))
    assert torch.equal(edited[1][~text], clean[~text])
    assert torch.equal(edited[1][..., :16], clean[..., :16])
    assert torch.equal(edited[1][..., 24:], clean[..., 24:])


def test_ablation_skips_earlier_blocks_without_changing_the_answer(subject, samples):
    means = head_means(subject, samples, [0, 1, 2], 512)
    ablation = HeadAblation(subject, [(2, 1), (1, 0)], means)
    assert ablation.first_block == 1
    evaluation = Evaluation(subject, samples, 512)
    full, restarted = answered(subject, samples, ablation), evaluation.answers(ablation)
    assert (full.margin == restarted.margin).all()
    assert not np.allclose(full.margin, evaluation.answers().margin)


def test_attention_is_a_distribution_over_what_came_before(tiny_vlm_path, samples):
    eager = load_subject("vlm", {"family": "llava", "attention": "eager"}, tiny_vlm_path)
    batch = next(prepare_batches(eager, samples[:1], 1))[1]
    last = int(batch.last[0])
    weights = attention_of(eager, batch, (1, 3))[last - 1]
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert weights[last] == 0
    grid = patch_grid(weights, batch)
    assert grid.shape == (3, 3)
    assert grid.sum() < 1
    first = int((batch.token_type[0] == IMAGE).nonzero()[0, 0])
    assert grid[1, 2] == weights[first + 5]


def test_sdpa_has_no_weights_to_draw(subject, samples):
    batch = next(prepare_batches(subject, samples[:1], 1))[1]
    with pytest.raises(AttentionError, match="eager"):
        attention_of(subject, batch, (0, 0))


def test_the_token_that_looks_most_is_text_after_the_image(subject, samples):
    batch = next(prepare_batches(subject, samples[:1], 1))[1]
    image = batch.token_type[0] == IMAGE
    after = int(image.nonzero().max()) + 1
    weights = torch.zeros(len(image), len(image))
    weights[after + 2, image] = 0.05
    weights[after + 1, ~image] = 1.0
    weights[after - 1, image] = 0.1
    assert most_looking(weights, batch) == after + 2


def test_the_top_head_is_the_features_own():
    rows = [
        {"feature_layer": 1, "feature": feature, "layer": 0, "head": head, "method_a": a, "method_b": a}
        for feature, values in ((3, (0.1, 0.2, 0.3)), (8, (0.6, 0.3, 0.0)))
        for head, a in enumerate(values)
    ]
    table = filled(HEAD_ATTRIBUTION, rows)
    assert (top_head(table, (1, 3)), top_head(table, (1, 8))) == ((0, 2), (0, 0))


@torch.no_grad()
def test_peaks_lie_on_text_after_the_image_and_silent_samples_have_none(subject, samples):
    batch = next(prepare_batches(subject, samples[:2], 512))[1]
    dictionary = TopKDictionary(d_model=32, d_sae=2, k=2, subtract_decoder_bias=False)
    dictionary.W_enc.copy_(torch.eye(32)[:, :2])
    dictionary.b_enc.copy_(torch.tensor([0.0, -1e9]))
    residual = torch.zeros(*batch.token_type.shape, 32)
    residual[:, :, 0] = torch.arange(residual.shape[1], 0, -1)
    peaks = batch_peaks(residual, batch, dictionary, 0)
    after = [int((kinds == IMAGE).nonzero().max()) + 1 for kinds in batch.token_type]
    assert peaks.tolist() == [residual.shape[1] - place for place in after]
    found = strongest_peaks(subject, samples, dictionary, (1, 0), 3, 256)
    assert [peak.activation for peak in found] == sorted((peak.activation for peak in found), reverse=True)
    assert len(found) == 3
    assert strongest_peaks(subject, samples, dictionary, (1, 1), 3, 256) == []


def test_patches_follow_the_grid_of_the_picture(subject, samples):
    batch = next(prepare_batches(subject, samples[:1], 1))[1]
    wide = replace(batch, seen=replace(batch.seen, grids=torch.tensor([[1, 9]])))
    weights = torch.arange(float(batch.token_type.shape[1]))
    found = patch_grid(weights, batch)
    assert found.shape == (3, 3)
    assert found.flatten().tolist() == weights[batch.token_type[0] == IMAGE].tolist()
    with pytest.raises(AttentionError, match="9 image tokens are one row"):
        patch_grid(weights, wide)


@pytest.fixture(scope="module")
def job(tiny_vlm_path, tiny_dataset, tmp_path_factory):
    """Run all jobs once; the folder holds their tables."""
    folder = tmp_path_factory.mktemp("heads")
    run_jobs(folder, tiny_vlm_path, tiny_dataset, FEATURES)
    return folder


def run_jobs(folder, model_path, dataset, features):
    rows = [
        {"concept": "c", "rank": rank, "layer": layer, "feature": feature}
        for rank, (layer, feature) in enumerate(features)
    ]
    # One more is ranked than is traced.
    rows += [{"concept": "c", "rank": len(features), "layer": 0, "feature": 9}] if features else []
    path = {name: str(folder / f"{name}.csv") for name in (
        "ranking", "attribution", "scores", "patching", "agreement", "head_ablation", "attention"
    )}  # fmt: skip
    write_table(filled(RANKING, rows), RANKING, path["ranking"])
    dictionaries = write_dictionaries(folder / "dictionaries")
    model = ModelFiles("vlm", {"family": "llava"}, str(model_path / "config.json"))
    file = str(dataset / "samples.jsonl")
    traced = TracedSamples(file, samples=10, image_samples=30, batch_tokens=256)
    stage = {"layers": [0, 1, 2], "concept": "c", "features": 2}
    attribute_heads(model, traced, dictionaries, path["ranking"], path["attribution"], **stage)
    aggregate_heads(path["attribution"], path["scores"], concept="c")
    outputs = (path["patching"], path["agreement"])
    patch_heads(model, traced, dictionaries, path, *outputs, **stage, bootstrap=50)
    questions = QuestionSets(file, file, ["spatial", "general"], samples=20, batch_tokens=1024)
    sizes = {
        "averaged_samples": 20,
        "ablate_sizes": [1, 2, 40],
        "random_draws": 3,
        "bootstrap": 50,
        "seed": 0,
    }
    evaluate_head_ablation(
        model, questions, file, path["scores"], path["head_ablation"], concept="c", **sizes
    )
    shown = {"samples": 20, "images": 2, "batch_tokens": 256}
    map_attention(model, file, dictionaries, path, path["attention"], **stage, **shown)


def test_traced_heads_are_those_that_can_influence_the_feature(job):
    for name, schema in (("attribution", HEAD_ATTRIBUTION), ("patching", HEAD_PATCHING)):
        table = read_table(job / f"{name}.csv", schema)
        assert (table["layer"] <= table["feature_layer"]).all()
        assert table.groupby("name").size().to_dict() == {"L1F0": 8, "L2F4": 12}
    agreement = read_table(job / "agreement.csv", HEAD_AGREEMENT)
    assert len(agreement) == 12
    assert agreement["spearman"].between(-1, 1).all()
    # Two features are too few for an interval over features.
    assert agreement["spearman_low"].isna().all()
    attribution = read_table(job / "attribution.csv", HEAD_ATTRIBUTION)
    assert attribution.groupby("name")["score"].sum().tolist() == pytest.approx([1.0, 1.0])
    scores = read_table(job / "scores.csv", HEAD_SCORES).set_index(["layer", "head"])["score"]
    mean = attribution.groupby(["layer", "head"])["score"].mean()
    assert scores.sort_index().to_numpy() == pytest.approx(mean.sort_index().to_numpy())
    assert (read_table(job / "patching.csv", HEAD_PATCHING)["weight"] == 1).all()


def test_head_ablation_says_what_a_run_by_hand_says(job, subject, tiny_dataset):
    """The best head alone, over the first 20 samples; its mean over the first 20 of the mean's file."""
    table = read_table(job / "head_ablation.csv", HEAD_ABLATION)
    scores = read_table(job / "scores.csv", HEAD_SCORES)
    best = [(int(row.layer), int(row.head)) for row in scores.sort_values("rank").itertuples()][:2]
    samples = load_samples(tiny_dataset / "samples.jsonl", limit=20)
    means = head_means(subject, samples, [0, 1, 2], 1024)
    for size in (1, 2):
        ablated = Evaluation(subject, samples, 1024).answers(HeadAblation(subject, best[:size], means))
        clean = Evaluation(subject, samples, 1024).answers()
        rows = table[(table["arm"] == "top") & (table["size"] == size) & (table["dataset"] == "spatial")]
        assert set(rows["heads"]) == {";".join(f"L{layer}H{head}" for layer, head in best[:size])}
        for row in rows.itertuples():
            own = [row.group in ("all", sample.group) for sample in samples]
            assert row.n == sum(own)
            assert row.delta_margin == pytest.approx((ablated.margin - clean.margin)[own].mean(), abs=1e-5)
            assert row.accuracy_clean == pytest.approx(clean.correct[own].mean())
            assert row.accuracy == pytest.approx(ablated.correct[own].mean())


def test_head_ablation_reports_both_arms(job):
    table = read_table(job / "head_ablation.csv", HEAD_ABLATION)
    counts = (
        table[(table["group"] == "all") & (table["dataset"] == "general")].groupby(["arm", "size"]).size()
    )
    # Of each block's four heads: three others beside one top head; three draws of the five or fifteen pairs.
    assert counts.to_dict() == {("top", 1): 1, ("top", 2): 1, ("random", 1): 3, ("random", 2): 3}
    for size in (1, 2):
        mine = table[table["size"] == size].drop_duplicates(["arm", "draw"]).set_index("arm")["heads"]
        blocks = {arm: sorted(re.findall(r"L\d+", heads)) for arm, heads in mine.items()}
        assert all(sorted(re.findall(r"L\d+", heads)) == blocks["top"] for heads in mine)


@torch.no_grad()
def test_attention_is_mapped_on_the_strongest_samples(job, subject, tiny_dataset):
    table = read_table(job / "attention.csv", HEAD_ATTENTION)
    assert set(table.groupby(["name", "sample_rank"]).size()) == {9}
    samples = load_samples(tiny_dataset / "samples.jsonl", limit=20)
    shown = table.drop_duplicates(["name", "sample_rank"])
    for (layer, feature), group in shown.groupby(["feature_layer", "feature"]):
        dictionary = load_dictionary(job / "dictionaries" / f"layer_{layer}")
        peaks = {}
        for sample in samples:
            batch = next(prepare_batches(subject, [sample], 1))[1]
            residual = subject.residuals(batch, [layer])[layer][0]
            activation = dictionary.encode(residual)[:, feature]
            last_image = int((batch.token_type[0] == IMAGE).nonzero().max())
            peaks[sample.sample_id] = float(activation[last_image + 1 :].max())
        best = sorted(peaks.values(), reverse=True)[: len(group)]
        np.testing.assert_allclose(group["activation"], best, rtol=1e-3)
        np.testing.assert_allclose([peaks[name] for name in group["sample_id"]], best, rtol=1e-3)


def test_without_ranked_features_all_tables_are_empty(tiny_vlm_path, tiny_dataset, tmp_path):
    run_jobs(tmp_path, tiny_vlm_path, tiny_dataset, [])
    for name in ("attribution", "patching", "agreement", "head_ablation", "attention", "scores"):
        assert pd.read_csv(tmp_path / f"{name}.csv").empty
