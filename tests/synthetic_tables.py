"""Plausible, seeded tables that keep every contract: a strong effect, none, or nothing at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from vlmdiff.heads.agreement import REFERENCE
from vlmdiff.tables import causal, explorer, features, models
from vlmdiff.tables.io import conform

LAYERS, FEATURES, HEADS = (0, 1, 2, 3), 256, 4
PROMPT = "the red circle is left of the blue square . true or false ?"
TARGET, CONTROL = "spatial_test", "general_test"
RELATIONS = ("above", "below", "left of", "right of")
KINDS = ("colour", "count", "existence", "shape", "size")
FINAL = ((1, 17), (1, 60), (2, 5), (2, 101), (2, 210), (3, 7), (3, 33), (3, 90), (3, 120), (3, 200), (3, 222))


@dataclass(frozen=True)
class Story:
    """What the synthetic run found."""

    accuracy: float = 0.99
    control_model: float = 0.5
    fall: float = -0.30
    control_fall: float = -0.01
    random_fall: float = -0.02
    agreement: float = 0.95
    separated: bool = True
    final: tuple[tuple[int, int], ...] = FINAL


STRONG = Story()
NONE = Story(accuracy=0.5, control_model=0.5, fall=-0.02, control_fall=-0.02, agreement=0.1, separated=False)
EMPTY = Story(final=())


def keep(frame: pd.DataFrame, schema: pa.Schema) -> pd.DataFrame:
    """Return the frame as the workflow would read it."""
    blank = {"string": "", "int64": 0, "bool": False, "double": float("nan")}
    told = {field.name: blank[str(field.type)] for field in schema if field.name not in frame}
    return conform(frame.assign(**told)[schema.names], schema, "synthetic table").to_pandas()


def name(place: tuple[int, int]) -> str:
    return f"L{place[0]}F{place[1]}"


def discordant(n: int, with_images: float, value: float, condition: str) -> dict[str, int]:
    """Count whose answers images change: those that are more, and twenty either way."""
    if condition == "image":
        return {"image_only": 0, "condition_only": 0}
    more = round(n * (with_images - value))
    return {"image_only": max(more, 0) + 20, "condition_only": max(-more, 0) + 20}


def accuracy(story: Story) -> pd.DataFrame:
    levels = {
        ("base_lm", "no_image"): story.control_model,
        ("vlm", "image"): story.accuracy,
        ("vlm", "no_image"): story.control_model,
        ("vlm", "shuffled_image"): story.control_model,
        **{(f"vlm_{p}", "image"): 0.5 + (story.accuracy - 0.5) * p / 100 for p in (25, 50, 75)},
    }
    rows = []
    for (model, condition), level in levels.items():
        for dataset, groups in ((TARGET, RELATIONS), (CONTROL, KINDS)):
            for i, group in enumerate(("all", *groups)):
                n = 1200 if group == "all" else 240
                value = min(1.0, max(0.0, level - 0.004 * i))
                half = 1.96 * np.sqrt(value * (1 - value) / n + 1e-6)
                rows.append(
                    {
                        "model": model,
                        "condition": condition,
                        "dataset": dataset,
                        "group": group,
                        "n": n,
                        "correct": round(n * value),
                        "accuracy": value,
                        "accuracy_vocabulary": value,
                        "ci_low": max(0, value - half),
                        "ci_high": min(1, value + half),
                        "chance": 0.5,
                        "guess": 0.5,
                        **discordant(n, story.accuracy - 0.004 * i, value, condition),
                    }
                )
    return keep(pd.DataFrame(rows), models.ACCURACY)


def dictionary_metrics(story: Story, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    runs = (
        ("base", "base_lm", "text_val", ("all", "text"), 0.12, (100,)),
        ("null_text", "base_lm", "text_val", ("all", "text"), 0.11, (100,)),
        ("base", "vlm", "general_val", ("all", "text", "image"), 0.5, (100,)),
        ("adapted", "vlm", "general_val", ("all", "text", "image"), 0.2, (25, 50, 75, 100)),
        ("scratch", "vlm", "general_val", ("all", "text", "image"), 0.24, (100,)),
    )
    rows = []
    for dictionary, model, dataset, tokens, level, snapshots in runs:
        for snapshot in snapshots:
            for layer in LAYERS:
                for kind in tokens:
                    fvu = level * (1 + 0.2 * layer) * (2.5 if kind == "image" else 1) * (1 + 15 / snapshot)
                    start = np.nan if dictionary == "scratch" else 1 - 0.0015 * snapshot
                    rows.append(
                        {
                            "dictionary": dictionary,
                            "seed": seed,
                            "layer": layer,
                            "snapshot": snapshot,
                            "model": model,
                            "dataset": dataset,
                            "tokens": kind,
                            "n_tokens": 20_000,
                            "fvu": fvu * rng.uniform(0.95, 1.05),
                            "l0": 8.0,
                            "dead": int(rng.integers(10, 90)),
                            "cos_initial": start,
                        }
                    )
    return keep(pd.DataFrame(rows), models.DICTIONARY_METRICS)


def adapted(story: Story, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n = len(LAYERS) * FEATURES
    frame = pd.DataFrame(
        {"layer": np.repeat(LAYERS, FEATURES), "feature": np.tile(range(FEATURES), len(LAYERS)), "seed": seed}
    )
    frame["null_cos_decoder"] = 1 - rng.beta(1.2, 30, n)
    frame["cos_decoder"] = 1 - rng.beta(2, 6, n) if story.separated else 1 - rng.beta(1.2, 30, n)
    # One in ten the null's text never fired; the others turned in both nulls, and where nothing was tuned.
    frame["calibrated"] = frame["check_calibrated"] = np.arange(n) % 10 != 7
    frame.loc[~frame["calibrated"], "null_cos_decoder"] = 1.0
    frame["check_cos_decoder"] = frame["null_cos_decoder"].to_numpy()[::-1]
    frame["untuned_cos_decoder"] = 1 - rng.beta(1.2, 20, n)
    frame["cos_encoder"], frame["null_cos_encoder"] = frame["cos_decoder"], frame["null_cos_decoder"]
    frame["similarity"], frame["null_similarity"] = frame["cos_decoder"], frame["null_cos_decoder"]
    frame["visual_energy"] = np.where(rng.random(n) < 0.1, 0.0, 10 ** rng.normal(-1.5, 1.2, n))
    frame["text_energy"], frame["visual_rate"] = 0.1, 0.02
    chosen = [layer * FEATURES + feature for layer, feature in story.final]
    frame.loc[chosen, ["cos_decoder", "visual_energy"]] = 0.55, 1.7
    visual = frame["visual_energy"] > 0.01
    for rule, tau in taus(frame).items():
        frame[f"adapted_{rule}"] = visual & (frame["cos_decoder"] <= tau)
    frame["adapted"] = frame["adapted_calibrated"]
    return keep(frame, features.ADAPTED)


def taus(frame: pd.DataFrame) -> dict[str, float]:
    return {
        "percentile": float(frame["cos_decoder"].quantile(0.25)),
        "calibrated": float(frame.loc[frame["calibrated"], "null_cos_decoder"].quantile(0.05)),
    }


def thresholds(story: Story, seed: int = 0) -> pd.DataFrame:
    frame = adapted(story, seed)
    visual, rows = frame["visual_energy"] > 0.01, []
    for rule, tau in taus(frame).items():
        for layer in (-1, *LAYERS):
            here = visual & (frame["layer"].eq(layer) | (layer < 0))
            known = here & frame["calibrated"]
            null, check, untuned = (
                frame[f"{name}_cos_decoder"] <= tau for name in ("null", "check", "untuned")
            )
            chosen = here & frame[f"adapted_{rule}"]
            rows.append(
                {
                    "seed": seed,
                    "rule": rule,
                    "layer": layer,
                    "tau": tau,
                    "eps": 0.01,
                    "features": len(frame) if layer < 0 else FEATURES,
                    "visual": int(here.sum()),
                    "visual_uncalibrated": int((here & ~known).sum()),
                    "adapted": int(chosen.sum()),
                    "adapted_uncalibrated": int((chosen & ~known).sum()),
                    "null_adapted": int((known & null).sum()),
                    "null_false_positive_rate": (known & null).sum() / known.sum(),
                    "check_visual": float(known.sum()),
                    "check_vlm_adapted": float((chosen & known).sum()),
                    "check_adapted": float((known & check).sum()),
                    "check_false_positive_rate": (known & check).sum() / known.sum(),
                    "check_low": 0.005,
                    "check_high": 0.09,
                    "check_p": 1e-20 if story.separated else 0.4,
                    "untuned_adapted": float((here & untuned).sum()),
                    "untuned_rate": (here & untuned).sum() / here.sum(),
                    "visual_textual": float((here & (frame["text_energy_before"] > 0.5)).sum()),
                    "adapted_textual": float((chosen & (frame["text_energy_before"] > 0.5)).sum()),
                    "adapted_also_untuned": float((chosen & untuned).sum()),
                }
            )
    return keep(pd.DataFrame(rows), features.THRESHOLDS)


def threshold_sweep(story: Story, seed: int = 0) -> pd.DataFrame:
    frame, rows = adapted(story, seed), []
    reference = frame["adapted_percentile"]
    for eps in (0.0001, 0.001, 0.01, 0.1, 1.0):
        for percentile in (5, 10, 15, 20, 25, 30, 40, 50):
            tau = frame["cos_decoder"].quantile(percentile / 100)
            chosen = (frame["visual_energy"] > eps) & (frame["cos_decoder"] <= tau)
            both = int((chosen & reference).sum())
            rows.append(
                {
                    "seed": seed,
                    "eps": eps,
                    "percentile": percentile,
                    "tau": tau,
                    "adapted": int(chosen.sum()),
                    "uncalibrated": int((chosen & ~frame["calibrated"]).sum()),
                    "jaccard": both / (chosen | reference).sum(),
                    "retention": both / reference.sum(),
                    "precision": both / max(1, chosen.sum()),
                    "layer_correlation": 0.9,
                }
            )
    return keep(pd.DataFrame(rows), features.THRESHOLD_SWEEP)


def contrast(story: Story, concept: str = "spatial") -> pd.DataFrame:
    rng = np.random.default_rng(1)
    parts = []
    for unit, scale in (("token", 150.0), ("sample", 25.0)):
        n = len(LAYERS) * FEATURES
        effect = rng.normal(0, 1, n)
        frame = pd.DataFrame(
            {"layer": np.repeat(LAYERS, FEATURES), "feature": np.tile(range(FEATURES), len(LAYERS))}
        )
        frame["odds_ratio"] = 2.0 ** (1.5 * effect)
        frame["log_p"] = -(np.clip(effect, 0, None) ** 2) * scale * rng.uniform(0.1, 1, n)
        chosen = [layer * FEATURES + feature for layer, feature in story.final]
        frame.loc[chosen, "odds_ratio"], frame.loc[chosen, "log_p"] = 2.0**5, -scale * 8
        frame.loc[[3, 40], "odds_ratio"] = np.inf
        frame.loc[[5, 41], "odds_ratio"] = 0.0
        frame.loc[6, ["odds_ratio", "log_p"]] = np.nan, 0.0
        frame["selected"] = (frame["odds_ratio"] >= 3) & (frame["log_p"] < -4)
        parts.append(frame.assign(concept=concept, unit=unit))
    table = pd.concat(parts).assign(
        fires_target=10,
        n_target=100,
        fires_baseline=5,
        n_baseline=100,
        freq_target=0.1,
        freq_baseline=0.05,
        freq_difference=0.05,
        log_p_adjusted=-3.0,
    )
    return keep(table, features.CONTRAST)


def funnel(story: Story, concept: str = "spatial", seed: int = 0) -> pd.DataFrame:
    shares = {"all": 1.0, "visual": 0.8, "adapted": 0.5, "contrast": 0.15, "adapted_and_contrast": 0.08}
    rows = []
    for stage, share in shares.items():
        counts = [int(FEATURES * share * (0.7 + 0.1 * layer)) for layer in LAYERS]
        rows += [(layer, stage, count) for layer, count in zip((-1, *LAYERS), (sum(counts), *counts))]
    finals = [sum(layer == place[0] for place in story.final) for layer in LAYERS]
    rows += [(layer, "final", count) for layer, count in zip((-1, *LAYERS), (sum(finals), *finals))]
    frame = pd.DataFrame(rows, columns=["layer", "stage", "features"]).assign(concept=concept, seed=seed)
    return keep(frame.assign(uncalibrated=frame["features"] // 5), features.FUNNEL)


def final_features(story: Story, concept: str = "spatial", seed: int = 0) -> pd.DataFrame:
    frame = pd.DataFrame(story.final, columns=["layer", "feature"]).assign(
        concept=concept,
        seed=seed,
        name=[name(place) for place in story.final],
        cos_decoder=0.55,
        calibrated=[(layer * FEATURES + feature) % 10 != 7 for layer, feature in story.final],
        visual_energy=1.7,
        visual_rate=0.03,
        odds_ratio=32.0,
        freq_target=0.2,
        freq_difference=0.19,
        log_p_adjusted=-900.0,
        sample_odds_ratio=30.0,
        sample_log_p_adjusted=-100.0,
        activation_neutral=0.8,
    )
    return keep(frame, features.FINAL_FEATURES)


def ranking(story: Story, concept: str = "spatial") -> pd.DataFrame:
    frame = pd.DataFrame(story.final, columns=["layer", "feature"]).assign(
        concept=concept,
        rank=range(len(story.final)),
        pool=-1,
        name=[name(place) for place in story.final],
        stands_for=[name(place) for place in story.final],
        rate=0.03,
        energy=0.5,
        scope="own_layer",
        target_estimate=-1.0,
        control_estimate=-0.1,
        target_delta_accuracy=-0.1,
        target_delta_margin=-1.2,
        control_delta_accuracy=0.0,
        control_delta_margin=-0.1,
        specificity=1.1,
    )
    return keep(frame, causal.RANKING)


def effect_rows(rng: np.random.Generator, falls: tuple[float, float], size: int) -> list[dict]:
    """One intervention's effect on all groups; larger sets do more."""
    rows = []
    for dataset, groups, fall in ((TARGET, RELATIONS, falls[0]), (CONTROL, KINDS, falls[1])):
        level = fall * min(1.0, 0.25 + 0.09 * size)
        for group in ("all", *groups):
            delta = level + rng.normal(0, 0.006 if group == "all" else 0.02)
            rows.append(
                {
                    "dataset": dataset,
                    "group": group,
                    "n": 600,
                    "clusters": 240,
                    "accuracy_clean": 0.98,
                    "accuracy": 0.98 + delta,
                    "delta_accuracy": delta,
                    "delta_low": delta - 0.025,
                    "delta_high": delta + 0.015,
                    "lost": max(0, round(-600 * delta)) + 2,
                    "gained": 2,
                    "mcnemar_p": 0.01 if delta < -0.03 else 0.6,
                    "delta_margin": 12 * delta,
                    "margin_low": 12 * delta - 0.3,
                    "margin_high": 12 * delta + 0.3,
                }
            )
    return rows


def ablation(story: Story, concept: str = "spatial") -> pd.DataFrame:
    rng, rows = np.random.default_rng(2), []
    names = [name(place) for place in story.final]
    for scope in ("own_layer", "all_layers") if names else ():
        boost = 1.0 if scope == "own_layer" else 1.4
        chosen, random = (boost * story.fall, story.control_fall), (boost * story.random_fall,) * 2
        arms = [("selected", 1, rank, names[rank], chosen) for rank in range(min(10, len(names)))]
        arms += [("selected", size, 0, ";".join(names[:size]), chosen) for size in (3, 5, 10)]
        arms += [("random", size, draw, "L0F1", random) for size in (1, 3, 5, 10) for draw in range(20)]
        for arm, size, draw, members, falls in arms:
            common = {
                "concept": concept,
                "scope": scope,
                "arm": arm,
                "size": size,
                "draw": draw,
                "features": members,
                "rate": 0.025 if arm == "selected" else 0.021,
                "energy": 0.4,
                "removed": 0.002 * size,
            }
            rows += [{**common, **row} for row in effect_rows(rng, falls, size)]
    return keep(pd.DataFrame(rows, columns=causal.ABLATION.names), causal.ABLATION)


def head_attribution(story: Story, concept: str = "spatial") -> pd.DataFrame:
    rng, rows = np.random.default_rng(3), []
    for place in story.final[:6]:
        for layer in range(place[0] + 1):
            for head in range(HEADS):
                value = float(rng.lognormal(-2, 1)) + (2.0 if (layer, head) == (1, 2) else 0)
                rows.append(
                    {
                        "concept": concept,
                        "feature_layer": place[0],
                        "feature": place[1],
                        "name": name(place),
                        "layer": layer,
                        "head": head,
                        "method_a": value,
                        "method_b": value * rng.uniform(0.8, 1.2),
                        "score": value / 40,
                        "signed": value * rng.choice([-1, 1]),
                    }
                )
    return keep(pd.DataFrame(rows, columns=causal.HEAD_ATTRIBUTION.names), causal.HEAD_ATTRIBUTION)


def head_scores(story: Story, concept: str = "spatial") -> pd.DataFrame:
    table = head_attribution(story)
    mean = table.groupby(["layer", "head"], as_index=False)[["method_a", "method_b"]].mean()
    mean = mean.rename(columns={"method_a": "score_a", "method_b": "score_b"})
    mean["score"] = (mean["score_a"] + mean["score_b"]) / 2
    mean = mean.sort_values("score", ascending=False).reset_index(drop=True)
    mean = mean.assign(concept=concept, rank=range(len(mean)), features=6)
    mean["name"] = "L" + mean["layer"].astype(str) + "H" + mean["head"].astype(str)
    return keep(mean, causal.HEAD_SCORES)


def head_patching(story: Story, concept: str = "spatial") -> pd.DataFrame:
    rng, table = np.random.default_rng(4), head_attribution(story)
    noise = rng.lognormal(-2, 1, len(table))
    size = story.agreement * table["method_a"] + (1 - story.agreement) * 3 * noise
    table = table.assign(
        exact=np.sign(table["signed"]) * size
        if story.agreement > 0.5
        else noise * rng.choice([-1, 1], len(table)),
        exact_abs=size,
        metric_clean=5.0,
        metric_corrupt=2.0,
        weight=np.where(table["head"] == 3, 4.0, 1.0),
    )
    return keep(table, causal.HEAD_PATCHING)


def head_ablation(story: Story, concept: str = "spatial") -> pd.DataFrame:
    rng, rows = np.random.default_rng(5), []
    names = list(head_scores(story)["name"])
    chosen, random = (story.fall, story.control_fall), (story.random_fall, story.random_fall)
    for size in (1, 2, 3) if names else ():
        arms = [("top", 0, ";".join(names[:size]), chosen)]
        arms += [("random", draw, "L0H0", random) for draw in range(20)]
        for arm, draw, members, falls in arms:
            common = {"concept": concept, "arm": arm, "size": size, "draw": draw, "heads": members}
            rows += [{**common, **row} for row in effect_rows(rng, falls, 3 * size)]
    return keep(pd.DataFrame(rows, columns=causal.HEAD_ABLATION.names), causal.HEAD_ABLATION)


def head_agreement(story: Story, concept: str = "spatial") -> pd.DataFrame:
    names = [name(place) for place in story.final[:6]]
    rows = [
        {
            "concept": concept,
            "feature_layer": 1,
            "feature": 1,
            "name": item,
            "method": method,
            "reference": reference,
            "features": 6 if item == "pooled" else 1,
            "heads": 16,
            "spearman": story.agreement,
            "spearman_low": story.agreement - 0.2 if item == "pooled" else np.nan,
            "spearman_high": story.agreement + 0.04 if item == "pooled" else np.nan,
            "pearson": story.agreement,
        }
        for item in ([*names, "pooled"] if names else [])
        for method, reference in REFERENCE.items()
    ]
    return keep(pd.DataFrame(rows, columns=causal.HEAD_AGREEMENT.names), causal.HEAD_AGREEMENT)


def head_attention(story: Story, concept: str = "spatial") -> pd.DataFrame:
    rng, rows = np.random.default_rng(6), []
    for place in story.final[:3]:
        for rank in range(5):
            weights = rng.dirichlet([0.4] * 9).reshape(3, 3)
            rows += [
                {
                    "concept": concept,
                    "feature_layer": place[0],
                    "feature": place[1],
                    "name": name(place),
                    "layer": 1,
                    "head": 2,
                    "head_name": "L1H2",
                    "sample_rank": rank,
                    "sample_id": f"s{rank}",
                    "position": 15,
                    "token": "left",
                    "activation": 9.0 - rank,
                    "row": row,
                    "col": col,
                    "weight": weights[row, col],
                    **{"left": 0.0, "top": 0.0, "right": 1.0, "bottom": 1.0},
                }
                for row in range(3)
                for col in range(3)
            ]
    return keep(pd.DataFrame(rows, columns=causal.HEAD_ATTENTION.names), causal.HEAD_ATTENTION)


def gallery(story: Story, images: list[str], concept: str = "spatial") -> pd.DataFrame:
    rows = [
        {
            "concept": concept,
            "seed": 0,
            "layer": place[0],
            "feature": place[1],
            "name": name(place),
            "rank": rank,
            "sample_id": f"s{rank}",
            "image": images[rank % len(images)],
            "prompt": PROMPT,
            "token": "left" if rank < 4 else "assistant",
            "token_start": 18 if rank < 4 else -1,
            "token_end": 22 if rank < 4 else -1,
            "activation": 12.3 - rank,
        }
        for place in story.final[:5]
        for rank in range(5)
    ]
    return keep(pd.DataFrame(rows, columns=features.GALLERY.names), features.GALLERY)


def gallery_of(story: Story, images: list[str]) -> list[pd.DataFrame]:
    """Return a gallery, and activations on four patches of each picture, of which one is silent."""
    rows = gallery(story, images)
    edges = ((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), (0, 0.5, 0.5, 1), (0.5, 0.5, 1, 1))
    parts = [
        rows.assign(**dict(zip(("left", "top", "right", "bottom"), map(float, box))), activation=4.0 * place)
        for place, box in enumerate(edges)
    ]
    patches = pd.concat(parts, ignore_index=True)[explorer.GALLERY_PATCHES.names]
    return [rows, keep(patches, explorer.GALLERY_PATCHES)]


def samples(images: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"sample_id": [f"s{i}" for i in range(5)], "image": images[:5], "prompt": PROMPT})
