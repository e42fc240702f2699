"""Two numbers of docs/understand/rank_features.md: how often pools let chance through, how the screen orders.

`PYTHONPATH=workflow_scripts:tests .venv/bin/python -m benchmarks.ranked_null [results/builtin]`. With the
results of the default experiment the screen is held against exact ablation too (some minutes).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from vlmdiff.interventions.activity import feature_activity
from vlmdiff.interventions.feature_ablation import unit_directions
from vlmdiff.interventions.inputs import ModelFiles, QuestionSets
from vlmdiff.interventions.matching import FEATURE, keys, pools
from vlmdiff.interventions.ranking import measure_alone, screen, shortlist, specificity

CANDIDATES, BEST, POOLS, REPETITIONS = 150, 10, 20, 1500
FEATURES, MEASURED, TOP = 300, 40, 10


def false_rate(controls: float, holding: bool, rng: np.random.Generator) -> float:
    """Return how often the best of candidates that are like all others beat 20 pools.

    Args:
        controls: random features for each candidate.
        holding: pools take one of each matched set, the candidate among them; else random features alone.
        rng: random numbers.
    """
    count, hits = int(controls * CANDIDATES), 0
    strata = [[i, *range(CANDIDATES + i, CANDIDATES + count, CANDIDATES)] for i in range(CANDIDATES)]
    for _ in range(REPETITIONS):
        effect = rng.exponential(size=CANDIDATES + count)
        if holding:
            drawn = [effect[one] for one in pools(strata, POOLS, rng)]
        else:
            drawn = [rng.choice(effect[CANDIDATES:], CANDIDATES, replace=False) for _ in range(POOLS)]
        best = [np.sort(one)[-BEST:].sum() for one in (effect[:CANDIDATES], *drawn)]
        hits += (1 + sum(one >= best[0] for one in best[1:])) / (1 + POOLS) <= 0.05
    return hits / REPETITIONS


def hold_screen_against_ablation(results: Path) -> None:
    """Print how estimates of random live features order them, beside what was measured."""
    names = ["spatial_val", "general_val"]
    files = [str(results / "world" / "data" / name / "samples.jsonl") for name in names]
    model = ModelFiles("vlm", {"family": "llava"}, "resources/world/vlm/config.json")
    folders = {layer: results / f"dictionaries/base/seed_0/layer_{layer}" for layer in range(4)}
    subject = model.load()
    questions = QuestionSets(*files, names, samples=100, batch_tokens=8192).evaluations(subject)
    activity = feature_activity(subject, questions[names[0]], folders, 10.0)
    features = sorted(keys(activity[activity["rate"] > 0].sample(FEATURES, random_state=0)[FEATURE]))
    directions = unit_directions(folders, features)
    for scope in ("all_layers", "own_layer"):
        estimated = screen(subject, questions, directions, scope, 8192)
        found = estimated.join(measure_alone(subject, questions, directions, features, scope))
        rank = found["target_estimate"].corr(found["target_delta_margin"], method="spearman")
        told, true = (
            specificity(*(found[f"{role}_{name}"].to_numpy() for role in ("target", "control")))
            for name in ("estimate", "delta_margin")
        )
        kept = len(set(shortlist(true, TOP)) & set(shortlist(told, MEASURED)))
        print(
            f"{scope}: Spearman {rank:.2f}; {kept} of the {TOP} most specific are among the first {MEASURED} "
            f"of {FEATURES}"
        )


if __name__ == "__main__":
    for ratio in (1.2, 2, 5):
        rate = false_rate(ratio, False, np.random.default_rng(0))
        print(f"{ratio} controls for each candidate, pools of controls alone: {100 * rate:.0f} % pass")
    for ratio in (2, 5):
        rate = false_rate(ratio, True, np.random.default_rng(0))
        print(f"{ratio} controls for each candidate, pools of matched sets: {100 * rate:.0f} %")
    if len(sys.argv) > 1:
        hold_screen_against_ablation(Path(sys.argv[1]))
