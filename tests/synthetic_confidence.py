"""Synthetic tables about how sure findings are, strong or none, for figures and summary."""

from __future__ import annotations

import numpy as np
import pandas as pd
from synthetic_tables import CONTROL, LAYERS, TARGET, Story, effect_rows, keep

from vlmdiff.figures.ground_truth import RULES
from vlmdiff.interventions.selection_rules import RULES as SELECTION_RULES
from vlmdiff.tables import causal, features, labels, world
from vlmdiff.world.sample_labels import CATEGORIES

SEEDS = (0, 1)


def holds(story: Story) -> bool:
    """Whether the story's effects are real."""
    return story.separated


def comparisons(story: Story) -> pd.DataFrame:
    """The main comparison, a control, one that was never tuned, and one that finds nothing."""
    found = {"main": 100, "shuffled_images": 2 if holds(story) else 80, "continued_text": 0}
    found |= {"never_tuned": 3 if holds(story) else 70}
    rows = []
    for name, final in found.items():
        rows.append(
            {
                "comparison": name,
                "about": name.replace("_", " "),
                "seed": 0,
                "concept": "spatial",
                "untuned": name == "never_tuned",
                "visual": 900,
                "adapted_percentile": 400,
                "adapted_calibrated": 5 * final,
                "adapted": 5 * final,
                "null_rate": 0.01,
                "contrast": 2 * final,
                "final": final,
                "final_uncalibrated": final // 4,
                "final_clustered": final,
                "jaccard": 0.5,
                "matched": 0.4,
                "size": 10 if final else 0,
            }
        )
        if final:
            ends = {"target_margin": -2.0, "target_margin_low": -2.5, "target_margin_high": -1.5}
            rows[-1] |= ends | {"random_margin": -0.4, "control_margin": -0.1}
            rows[-1] |= {"target_accuracy": -0.1, "target_low": -0.12, "target_high": -0.08}
            rows[-1] |= {"control_accuracy": 0.0, "control_low": -0.01, "control_high": 0.01}
    return keep(pd.DataFrame(rows), features.COMPARISONS)


def arms(story: Story, names: list[tuple[dict, float]], seed: int = 0) -> pd.DataFrame:
    """One row a data set for each arm and its fall of accuracy."""
    rng = np.random.default_rng(seed)
    rows = []
    for values, fall in names:
        for row in effect_rows(rng, (fall, story.control_fall), 10):
            if row["group"] == "all":
                rows.append({**values, **row})
    return pd.DataFrame(rows)


SIZES = [10]
RULES_BY_COMPARISON = {"main": list(SELECTION_RULES), "scratch": ["full"]}


def selection(story: Story) -> pd.DataFrame:
    """Draws of every rule, of a from-scratch dictionary and of random features; one gives few, one none."""
    names = []
    for rule in SELECTION_RULES[1:]:
        given = 7 if rule == "full" else 50
        values = {"comparison": "main", "rule": rule, "available": given, "size": min(given, 10)}
        names += [({**values, "draw": draw}, story.fall) for draw in range(1 if given < 10 else 4)]
    values = {"comparison": "scratch", "rule": "full", "available": 50, "size": 10}
    names += [({**values, "draw": draw}, 0.0) for draw in range(4)]
    values = {"comparison": "main", "rule": "random", "available": 0}
    names += [({**values, "size": size, "draw": draw}, 0.0) for size in (7, 10) for draw in range(4)]
    names = [({**values, "concept": "spatial", "features": "L1F1"}, fall) for values, fall in names]
    return keep(arms(story, names), causal.SELECTION)


def transfer(story: Story) -> pd.DataFrame:
    """The same set in three models, beside random sets."""
    names = []
    for order, model in enumerate(("base_lm", "vlm_50", "vlm")):
        values = {"concept": "spatial", "model": model, "order": order, "size": 5, "features": "L1F1"}
        names.append(
            ({**values, "arm": "selected", "draw": 0, "transfer_margin": order / 2}, story.fall * order / 2)
        )
        names += [
            ({**values, "arm": "random", "draw": draw, "transfer_margin": 1.0}, 0.0) for draw in range(3)
        ]
    return keep(arms(story, names), causal.TRANSFER)


def steering(story: Story) -> pd.DataFrame:
    """Four arms at three strengths, the best of them marked, and the best of each of 20 random pools."""
    gain = 0.1 if holds(story) else -0.02
    names = []
    for arm in ("caa", "caa_middle", "feature", "caa_feature"):
        for strength in (-0.5, 0.25, 1.0):
            chosen = strength == 0.25
            values = {"arm": arm, "draw": 0, "strength": strength, "chosen": chosen}
            values |= {"winner": chosen and arm == "feature", "validation_accuracy": 0.1 if chosen else 0.0}
            names.append((values, gain if chosen else -0.01))
    for draw in range(20):
        values = {"arm": "random", "draw": draw, "strength": (-0.5, 0.25)[draw % 2], "chosen": True}
        names.append((values | {"winner": True, "validation_accuracy": 0.02}, -0.001 * draw))
    place = {"concept": "spatial", "model": "vlm_25", "layer": 1, "feature": -1, "name": "L1"}
    found = [({**place, **values, "validation_margin": 0.1}, fall) for values, fall in names]
    return keep(arms(story, found), causal.STEERING)


def recurrence(story: Story) -> pd.DataFrame:
    """Matches of final features and of controls."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in SEEDS:
        for arm in ("final", "control"):
            real = holds(story) and arm == "final"
            # Without an effect final features recur as rarely as controls, or more rarely.
            chance = 0.0 if arm == "final" else 0.2
            for i in range(60):
                rows.append(
                    {
                        "concept": "spatial",
                        "seed": seed,
                        "layer": LAYERS[i % len(LAYERS)],
                        "feature": i if arm == "final" else 100 + i,
                        "name": f"L0F{i}",
                        "arm": arm,
                        "pair": i,
                        "visual_rate": 0.02,
                        "other_seed": 1 - seed,
                        "cosine": rng.uniform(0.6, 1) if real else rng.uniform(0.2, 0.6),
                        "mutual": real,
                        "match_final": bool(rng.random() < (0.7 if real else chance)),
                    }
                )
                # The same number in the other seed is final, one of 200 on is neither.
                rows[-1]["match"] = i if rows[-1]["match_final"] else 200 + i
    return keep(pd.DataFrame(rows), features.RECURRENCE)


def stage_grid(story: Story) -> pd.DataFrame:
    """Rotations along all edges."""
    rng, n = np.random.default_rng(0), 400
    frame = pd.DataFrame({"seed": 0, "layer": rng.choice(LAYERS, n), "feature": np.arange(n)})
    for name in features.STAGE_GRID.names[3:10]:
        frame[name] = 1 - rng.beta(1.2, 10, n)
    frame["adapted"] = np.arange(n) % 3 == 0
    frame["final"] = np.arange(n) % 9 == 0
    return keep(frame, features.STAGE_GRID)


def truth(story: Story) -> pd.DataFrame:
    """Every feature with a category; in a strong story the final ones are spatial."""
    rows = []
    for seed in SEEDS:
        for place in ((layer, feature) for layer in LAYERS for feature in range(256)):
            is_final = place in story.final
            category = "place" if is_final and holds(story) else CATEGORIES[place[1] % len(CATEGORIES)]
            rows.append(
                {
                    "seed": seed,
                    "layer": place[0],
                    "feature": place[1],
                    "live": True,
                    "label": "x",
                    "category": category,
                    "auroc": 0.9,
                    "auroc_low": 0.8,
                    "auroc_high": 0.95,
                    "chance": 0.1,
                    "matches": place[1] % 5 > 0 or is_final,
                    "spatial": category == "place",
                    "spatial_label": "y",
                    "spatial_auroc": 0.8,
                    "spatial_match": True,
                    **{f"best_{name}": 0.7 for name in CATEGORIES},
                }
            )
    return keep(pd.DataFrame(rows), world.GROUND_TRUTH)


def quality(story: Story) -> pd.DataFrame:
    """Precision and recall of every rule; high for the full rule in a strong story."""
    rows = []
    for seed in SEEDS:
        for rule in RULES:
            precision = 0.8 if rule == "full" and holds(story) else 0.1
            for definition in ("best match", "any match"):
                rows.append(
                    {
                        "concept": "spatial",
                        "seed": seed,
                        "rule": rule,
                        "layer": -1,
                        "definition": definition,
                        "selected": 50,
                        "spatial": 60,
                        "hits": round(50 * precision),
                        "precision": precision,
                        "precision_low": precision - 0.05,
                        "precision_high": precision + 0.05,
                        "recall": 0.4,
                        "recall_low": 0.3,
                        "recall_high": 0.5,
                        "f1": 0.3,
                    }
                )
    return keep(pd.DataFrame(rows), world.RULE_QUALITY)


def check(story: Story) -> pd.DataFrame:
    """Both tests of the contrast."""
    kept = 50 if holds(story) else 20
    row = {
        "concept": "spatial",
        "seed": 0,
        "unit": "token",
        "tested": 500,
        "selected": 90,
        "selected_clustered": kept,
    }
    row |= {"significant": 200, "significant_clustered": 150, "final": 50, "final_clustered": kept}
    row |= {"median_design_effect": 3.0, "median_log10_overstatement": 12.0}
    return keep(pd.DataFrame([row]), features.CONTRAST_CHECK)


def label_table(story: Story) -> pd.DataFrame:
    """Labels of some features."""
    rows = [
        {
            "concept": "spatial",
            "seed": 0,
            "layer": 0,
            "feature": i,
            "name": f"L0F{i}",
            "label": "x",
            "confidence": c,
        }
        | dict.fromkeys(("word", "trait", "promotes", "suppresses"), "w")
        for i, c in enumerate(("strong", "strong", "moderate", "none"))
    ]
    return keep(pd.DataFrame(rows), labels.LABELS)


def all_tables(story: Story) -> dict[str, pd.DataFrame]:
    """Everything that the section reads beside ablation and thresholds."""
    makers = {
        "recurrence": recurrence,
        "check": check,
        "quality": quality,
        "selection": selection,
        "steering": steering,
        "labels": label_table,
    }
    return {name: make(story) for name, make in makers.items()}


DATA = (TARGET, CONTROL)
