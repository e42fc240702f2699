"""The pipeline finds what was planted, at its size, and nothing where nothing was planted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import (
    ANSWER_GAIN,
    DICTIONARY_LAYER,
    GAIN,
    IDLE_FEATURE,
    PLANTED_FEATURE,
    PLANTED_HEAD,
    ROTATED_FEATURE,
    WORD_FEATURE,
    build_planted_dictionary,
    build_planted_vlm,
    planted_effect,
    shade_of,
    write_planted_data,
)

from vlmdiff.data.samples import load_samples
from vlmdiff.extraction.blocks import extract_block
from vlmdiff.features.adapted import select_adapted
from vlmdiff.features.contrast import contrast_concept
from vlmdiff.features.diff import StatisticsFiles, diff_features
from vlmdiff.features.funnel import select_features
from vlmdiff.features.lexical import LexicalCriteria, NeutralRuns, lexical_filter
from vlmdiff.features.statistics import feature_statistics
from vlmdiff.features.text_matched import write_text_matched
from vlmdiff.heads.aggregate import aggregate_heads
from vlmdiff.heads.head_arms import evaluate_head_ablation
from vlmdiff.heads.tracing import TracedSamples, attribute_heads, patch_heads
from vlmdiff.interventions.ablation_arms import evaluate_ablation
from vlmdiff.interventions.inputs import ModelFiles, QuestionSets
from vlmdiff.interventions.ranking import rank_features
from vlmdiff.models.registry import load_subject
from vlmdiff.tables.causal import ABLATION, HEAD_ABLATION, HEAD_PATCHING, HEAD_SCORES, RANKING
from vlmdiff.tables.features import ADAPTED, CONTRAST, FINAL_FEATURES, LEXICAL
from vlmdiff.tables.io import read_table

SPEC = {"family": "llava"}
CONCEPT, LAYER = "spatial", DICTIONARY_LAYER
SETS = {"spatial_val": (True, 160, 0), "general_val": (False, 160, 1), "spatial_test": (True, 160, 2)}
SETS |= {"general_test": (False, 80, 3)}


@dataclass(frozen=True)
class Run:
    """A finished analysis: its folder, model and data."""

    folder: Path
    model: Path
    samples: dict[str, Path]

    def table(self, name, schema):
        return read_table(self.folder / name, schema)


def questions(samples: dict[str, Path], use: str, count: int) -> QuestionSets:
    names = [f"spatial_{use}", f"general_{use}"]
    return QuestionSets(*(str(samples[name]) for name in names), names, count, 2048)


def find_features(run: Run, dictionaries: dict[str, Path]) -> None:
    """From the model to final features, as the rules do it."""
    out, subject = run.folder, load_subject("vlm", SPEC, run.model)
    files = {}
    for name in ("spatial_val", "general_val"):
        shard, samples = out / f"{name}.h5", load_samples(run.samples[name])
        extract_block(
            subject, samples, shard, dataset=name, block=0, shard_samples=len(samples), layers=[LAYER]
        )
        files[name] = [out / f"{name}_{kind}.parquet" for kind in ("statistics", "totals", "top_samples")]
        feature_statistics([shard], dictionaries["adapted"], LAYER, files[name], top=5)
    both = StatisticsFiles([files[n][0] for n in files], [files[n][1] for n in files])
    diff_features(
        [LAYER],
        "rotation",
        *([dictionaries[name]] for name in ("base", "adapted", "null")),
        visual=both,
        text=both,
        seed=0,
        output=out / "diff.parquet",
    )
    selected = [out / name for name in ("adapted.parquet", "thresholds.csv", "sweep.csv")]
    select_adapted(out / "diff.parquet", selected, 0.001, 25, 0.01, "calibrated", [0.001], [25])
    target = {"dataset": "spatial_val", "groups": None, "without": []}
    pair = [([files[name][0]], [files[name][1]]) for name in ("spatial_val", "general_val")]
    criteria = {"min_odds_ratio": 3.0, "min_frequency_difference": 0.005, "fdr": 0.05}
    contrast_concept(
        CONCEPT, target, {**target, "dataset": "general_val"}, *pair, 48, criteria, out / "contrast.parquet"
    )
    matched = {"label": "answer", "strata": "prompt", "within": None}
    matched |= {"min_effect_size": 0.8, "min_frequency": 0.02, "fdr": 0.05}
    write_text_matched(
        CONCEPT,
        load_samples(run.samples["spatial_val"]),
        {LAYER: [out / "spatial_val.h5"]},
        {LAYER: dictionaries["adapted"]},
        matched,
        out / "matched.parquet",
    )
    runs = NeutralRuns(
        "vlm", SPEC, run.model, {LAYER: dictionaries["adapted"]}, run.samples["spatial_val"],
        ["describe this image ."], 2048,
    )  # fmt: skip
    tables = (out / "adapted.parquet", out / "contrast.parquet")
    lexical_filter(
        CONCEPT, target, "token", 0.001, 5, tables, ([files["spatial_val"][2]], [files["spatial_val"][1]]),
        runs, LexicalCriteria(0.01, 0.01, "loose"), out / "lexical.parquet",
    )  # fmt: skip
    outputs = tuple(out / name for name in ("funnel.csv", "final_features.csv", "contrast_check.csv"))
    select_features(CONCEPT, 0, "token", 0.001, 0.05, (*tables, out / "lexical.parquet"), outputs)


def trace(run: Run, adapted: Path) -> None:
    """From final features to causes, as the rules do it."""
    out = run.folder
    model = ModelFiles("vlm", SPEC, str(run.model / "config.json"))
    weights = [str(adapted / "sae_weights.safetensors")]
    layers = {"layers": [LAYER], "concept": CONCEPT}
    found = {name: out / name for name in ("final_features.csv", "contrast.parquet")}
    ranked = out / "ranking.csv", out / "random_pools.csv"
    tables = {path.stem: path for path in found.values()}
    rank_features(
        model, questions(run.samples, "val", 80), weights, tables, ranked, **layers,
        scope="all_layers", candidates=10, verified=2, random_draws=20, massive_ratio=0.0, seed=0,
    )  # fmt: skip
    evaluate_ablation(
        model, questions(run.samples, "test", 160), weights, dict(zip(("ranking", "pools"), ranked)),
        out / "ablation.csv", **layers, scope="all_layers", single_features=2, set_sizes=[2], bootstrap=500,
        massive_ratio=0.0, seed=0,
    )  # fmt: skip
    traced = TracedSamples(str(run.samples["spatial_val"]), 64, 160, 2048)
    attribute_heads(
        model, traced, weights, out / "ranking.csv", out / "attribution.csv", **layers, features=1
    )
    aggregate_heads(out / "attribution.csv", out / "scores.csv", concept=CONCEPT)
    paths = {"ranking": out / "ranking.csv", "attribution": out / "attribution.csv"}
    patch_heads(
        model,
        traced,
        weights,
        paths,
        out / "patching.csv",
        out / "agreement.csv",
        **layers,
        features=1,
        bootstrap=50,
    )
    evaluate_head_ablation(
        model, questions(run.samples, "test", 80), str(run.samples["general_val"]), out / "scores.csv",
        out / "head_ablation.csv", concept=CONCEPT, averaged_samples=80, ablate_sizes=[1], random_draws=3,
        bootstrap=200, seed=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("planted_data")
    return {name: write_planted_data(folder / name, *how) for name, how in SETS.items()}


@pytest.fixture(scope="module")
def dictionaries(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("planted_dictionaries")
    return {stage: build_planted_dictionary(folder / stage, stage) for stage in ("base", "adapted", "null")}


@pytest.fixture(scope="module")
def planted(tmp_path_factory, samples, dictionaries) -> Run:
    folder = tmp_path_factory.mktemp("planted")
    run = Run(folder, build_planted_vlm(folder / "vlm"), samples)
    find_features(run, dictionaries)
    trace(run, dictionaries["adapted"])
    return run


@pytest.fixture(scope="module")
def unplanted(tmp_path_factory, samples, dictionaries) -> Run:
    """The same model, data and dictionaries, but neither head writes anything."""
    folder = tmp_path_factory.mktemp("unplanted")
    run = Run(folder, build_planted_vlm(folder / "vlm", gain=0.0), samples)
    find_features(run, dictionaries)
    return run


def effect(table: pd.DataFrame, dataset: str, **where) -> pd.Series:
    rows = table[(table["dataset"] == dataset) & (table["group"] == "all")]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def test_the_model_is_what_it_is_meant_to_be(planted):
    subject = load_subject("vlm", SPEC, planted.model)
    chosen = load_samples(planted.samples["spatial_test"])[:8]
    batch = subject.prepare([s.prompt for s in chosen], [s.open_image() for s in chosen])
    with torch.no_grad():
        residual = subject.residuals(batch, [LAYER])[LAYER]
    marked = residual[:, :, 3] > 0.5
    written = residual[..., 4][marked].numpy()
    shades = np.array([shade_of(s.image_file) for s in chosen])
    np.testing.assert_allclose(written, GAIN * shades, rtol=0.02, atol=0.02)
    assert residual[..., 4][~marked].abs().max() < 0.05


def test_only_the_planted_features_pass_every_filter(planted):
    final = planted.table("final_features.csv", FINAL_FEATURES)
    assert set(final["feature"]) == {PLANTED_FEATURE, IDLE_FEATURE}


def test_each_decoy_is_removed_by_its_own_filter(planted):
    adapted = planted.table("adapted.parquet", ADAPTED).set_index("feature")["adapted"]
    contrast = (
        planted.table("contrast.parquet", CONTRAST).query("unit == 'token'").set_index("feature")["selected"]
    )
    lexical = planted.table("lexical.parquet", LEXICAL).set_index("feature")["invariant"]
    # It fires on the words themselves, as it did before: contrast alone would take it.
    assert contrast[WORD_FEATURE]
    assert not adapted[WORD_FEATURE]
    assert not lexical[WORD_FEATURE]
    # It rotated, but it tells nothing about places.
    assert adapted[ROTATED_FEATURE]
    assert not contrast[ROTATED_FEATURE]


def test_within_equal_texts_what_sees_comes_first(planted, unplanted):
    """The shade is all that differs between images of one text, and it scales every activation a little."""
    found, without = (
        run.table("matched.parquet", CONTRAST).set_index("feature") for run in (planted, unplanted)
    )
    first, others = found["effect_size"].nlargest(2), found["effect_size"].nlargest(3).iloc[2]
    assert set(first.index) == {PLANTED_FEATURE, IDLE_FEATURE} and first.min() > 2 * others
    assert found.loc[first.index, "selected"].all()
    assert (found.loc[PLANTED_FEATURE, ["value", "level", "unit"]] == ["true", "", "sample"]).all()
    # Its activations differ between texts.
    assert not found.loc[WORD_FEATURE, "selected"]
    assert not without["selected"].reindex([PLANTED_FEATURE, IDLE_FEATURE], fill_value=False).any()


def test_the_planted_feature_ranks_first(planted):
    ranking = planted.table("ranking.csv", RANKING)
    assert list(ranking["feature"]) == [PLANTED_FEATURE, IDLE_FEATURE]
    assert ranking["specificity"].iloc[1] == pytest.approx(0, abs=0.02 * ranking["specificity"].iloc[0])


def test_the_planted_effect_is_recovered_within_its_interval(planted):
    ablation = planted.table("ablation.csv", ABLATION)
    expected = planted_effect(planted.samples["spatial_test"], 0.5).margin
    found = effect(ablation, "spatial_test", arm="selected", size=1, draw=0)
    assert found["margin_low"] <= expected <= found["margin_high"]
    assert found["delta_margin"] == pytest.approx(expected, rel=0.03)
    # The interval says something: it is far from 0 and from twice the effect.
    assert found["margin_high"] < expected / 3
    control = effect(ablation, "general_test", arm="selected", size=1, draw=0)
    assert control["delta_margin"] == pytest.approx(0, abs=0.02)


def test_pools_without_the_planted_feature_do_nothing(planted):
    """A pool may hold the candidate itself, in its own place; then it does what the candidate does."""
    ablation = planted.table("ablation.csv", ABLATION)
    whole = ablation[(ablation["arm"] == "random") & (ablation["group"] == "all")]
    holds = whole["features"].str.split(";").map(lambda names: f"L{LAYER}F{PLANTED_FEATURE}" in names)
    expected = abs(planted_effect(planted.samples["spatial_test"], 0.5).margin)
    assert whole.loc[~holds, "delta_margin"].abs().max() < 0.05 * expected
    assert (~holds).sum() > 20
    alike = whole[holds & whole["dataset"].eq("spatial_test")]["delta_margin"]
    assert (alike.abs() > 0.5 * expected).all()


def test_the_planted_head_ranks_first(planted):
    scores = planted.table("scores.csv", HEAD_SCORES)
    assert (scores["layer"].iloc[0], scores["head"].iloc[0]) == PLANTED_HEAD
    assert scores["score"].iloc[0] > 0.9


def test_exact_patching_recovers_the_planted_size(planted):
    patching = planted.table("patching.csv", HEAD_PATCHING).sort_values("exact_abs", ascending=False)
    assert (patching["layer"].iloc[0], patching["head"].iloc[0]) == PLANTED_HEAD
    file = planted.samples["spatial_val"]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    mean = float(np.mean([shade_of(file.parent / row["image"]) for row in rows]))
    part = file.parent / "first_64.jsonl"
    part.write_text("\n".join(json.dumps(row) for row in rows[:64]) + "\n")
    assert patching["exact_abs"].iloc[0] == pytest.approx(planted_effect(part, mean).patching, rel=0.03)
    assert patching["exact_abs"].iloc[1] < 0.05 * patching["exact_abs"].iloc[0]


def test_ablating_the_planted_head_hurts_statements_alone(planted):
    table = planted.table("head_ablation.csv", HEAD_ABLATION)
    target = effect(table, "spatial_test", arm="top")
    assert target["delta_accuracy"] < -0.4
    assert effect(table, "general_test", arm="top")["delta_accuracy"] == 0
    random = table[
        (table["arm"] == "random") & (table["group"] == "all") & (table["dataset"] == "spatial_test")
    ]
    others = random[random["heads"] != "L1H2"]
    assert len(others)
    # The mover, if drawn, carries the planted value and must hurt too; every other head does nothing.
    harmless = others[others["heads"] != "L2H1"]
    assert (harmless["delta_accuracy"] > -0.05).all()


def test_nothing_is_found_where_nothing_was_planted(unplanted):
    final = unplanted.table("final_features.csv", FINAL_FEATURES)
    assert PLANTED_FEATURE not in set(final["feature"])
    assert IDLE_FEATURE not in set(final["feature"])
    assert final.empty


def test_removing_the_planted_weights_costs_what_the_ablation_says(planted, unplanted):
    """The whole model without the heads loses as much margin as the ablation of the one direction."""
    sets = questions(planted.samples, "test", 160)
    margins = []
    for run in (planted, unplanted):
        subject = load_subject("vlm", SPEC, run.model)
        margins.append(sets.evaluations(subject)["spatial_test"].answers().margin)
    lost = float((margins[1] - margins[0]).mean())
    found = effect(planted.table("ablation.csv", ABLATION), "spatial_test", arm="selected", size=1, draw=0)
    assert found["delta_margin"] == pytest.approx(lost, rel=0.02)
    assert abs(lost) > ANSWER_GAIN * GAIN / 8
