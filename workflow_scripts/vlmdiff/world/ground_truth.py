"""Which features really tell what is where: scores against the built-in world's scene graphs.

A feature's activation on a sample is its largest on a text token. It *matches* a label if the area under
the ROC curve is farther from one half than the best match that shuffled samples give in 95 % of features;
it is *spatial* if its best match of all is a spatial label (world/sample_labels.py). The samples are held-out
test data, on which no feature was selected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.features.auroc import auroc, delong_interval
from vlmdiff.features.sample_maxima import join_samples, sample_maxima
from vlmdiff.interventions.selection_rules import decisions
from vlmdiff.runtime.seeds import derive_seed
from vlmdiff.tables.features import ADAPTED
from vlmdiff.tables.io import read_table, write_table
from vlmdiff.tables.world import GROUND_TRUTH, LABEL_SCORES, RULE_QUALITY
from vlmdiff.world.sample_labels import CATEGORIES, FEWEST, SPATIAL, Label, all_labels

PERMUTATIONS = 5
QUANTILE = 0.95
FEATURE = ["layer", "feature"]
ALL_LAYERS = -1


def areas(activations: np.ndarray, labels: Sequence[Label]) -> np.ndarray:
    """Return the area of every label and feature, each label among its own samples: (labels, features)."""
    found = np.empty((len(labels), activations.shape[1]))
    masks: dict[bytes, list[int]] = {}
    for i, label in enumerate(labels):
        masks.setdefault(label.among.tobytes(), []).append(i)
    for members in masks.values():
        among = labels[members[0]].among
        values = np.stack([labels[i].value[among] for i in members], axis=1)
        found[members] = auroc(activations[among], values)
    return found


def shuffled(activations: np.ndarray, datasets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the activations with samples in random order within each data set."""
    order = np.arange(len(activations))
    for dataset in np.unique(datasets):
        rows = np.flatnonzero(datasets == dataset)
        order[rows] = rng.permutation(rows)
    return activations[order]


def chance_level(
    activations: np.ndarray, labels: Sequence[Label], datasets: np.ndarray, live: np.ndarray, seed: int
) -> float:
    """Return what the best match of a live feature reaches by chance: a quantile over shuffled samples.

    Kinds of prompts go with data sets, within which samples are shuffled, so they are left out.
    """
    rng = np.random.default_rng(seed)
    tried = [label for label in labels if label.category != "kind"]
    best = [
        np.abs(areas(shuffled(activations, datasets, rng)[:, live], tried) - 0.5).max(0)
        for _ in range(PERMUTATIONS)
    ]
    return float(np.quantile(np.concatenate(best), QUANTILE))


def score_layer(
    activations: np.ndarray, labels: Sequence[Label], datasets: np.ndarray, seed: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """Score the features of one layer: a row each (contract GROUND_TRUTH, in part), and all areas."""
    live = (activations > 0).any(0)
    found = areas(activations, labels)
    strength = np.abs(found - 0.5)
    chance = chance_level(activations, labels, datasets, live, seed)
    best = strength.argmax(0)
    columns = {"feature": np.arange(activations.shape[1]), "live": live, "chance": chance}
    categories = np.array([label.category for label in labels])
    columns["label"] = np.array([label.name for label in labels], dtype=object)[best]
    columns["category"] = categories[best]
    columns["auroc"] = found[best, columns["feature"]]
    ends = [
        delong_interval(activations[labels[i].among, f], labels[i].value[labels[i].among])
        for f, i in enumerate(best)
    ]
    columns["auroc_low"], columns["auroc_high"] = np.array(ends).T
    for category in CATEGORIES:
        rows = np.flatnonzero(categories == category)
        columns[f"best_{category}"] = 0.5 + (strength[rows].max(0) if len(rows) else 0.0)
    columns["spatial_label"], columns["spatial_auroc"] = "", 0.5
    if len(spatial := np.flatnonzero(np.isin(categories, SPATIAL))):
        top = spatial[strength[spatial].argmax(0)]
        columns["spatial_label"] = np.array([label.name for label in labels], dtype=object)[top]
        columns["spatial_auroc"] = found[top, columns["feature"]]
    frame = pd.DataFrame(columns)
    frame["matches"] = live & (strength.max(0) > chance)
    frame["spatial"] = frame["matches"] & frame["category"].isin(SPATIAL)
    frame["spatial_match"] = live & (np.abs(frame["spatial_auroc"] - 0.5) > chance)
    return frame, found


def score_ground_truth(
    sample_files: Mapping[str, str | Path],
    shards: Mapping[str, Mapping[int, Sequence[str | Path]]],
    dictionaries: Mapping[int, str | Path],
    outputs: tuple[str | Path, str | Path],
    seed: int,
    job_seed: int,
) -> None:
    """Score every feature against every label on held-out scenes.

    Args:
        sample_files: samples.jsonl of each data set.
        shards: activations of each data set by layer.
        dictionaries: folder of the dictionary of each layer.
        outputs: paths of the tables GROUND_TRUTH and LABEL_SCORES.
        seed: index of the seed.
        job_seed: seed of the shuffles.

    Raises:
        ValueError: no label but the kind of prompt is common enough.
    """
    samples: list[Sample] = []
    for file in sample_files.values():
        samples += load_samples(Path(file))
    datasets = np.array([name for name, file in sample_files.items() for _ in load_samples(Path(file))])
    labels, frames, scores = all_labels(samples), [], []
    if all(label.category == "kind" for label in labels):
        raise ValueError(
            f"the {len(samples)} samples of {', '.join(sample_files)} are too few: no place, relation, "
            f"truth, word or attribute is found in {FEWEST} of them and missing in {FEWEST}; raise their "
            "`samples` in world.datasets"
        )
    for layer, folder in dictionaries.items():
        parts = [sample_maxima(shards[name][layer], folder, layer) for name in sample_files]
        activations = join_samples(parts).rows([sample.sample_id for sample in samples]).toarray()
        frame, found = score_layer(activations, labels, datasets, derive_seed(job_seed, layer))
        frames.append(frame.assign(layer=layer))
        scores.append(long_scores(found, labels, frame["live"].to_numpy(), layer))
    table = pd.concat(frames, ignore_index=True).assign(seed=seed)
    write_table(table, GROUND_TRUTH, outputs[0])
    write_table(pd.concat(scores, ignore_index=True).assign(seed=seed), LABEL_SCORES, outputs[1])


def long_scores(found: np.ndarray, labels: Sequence[Label], live: np.ndarray, layer: int) -> pd.DataFrame:
    """Return one row for each live feature and label (contract LABEL_SCORES, without the seed)."""
    features = np.flatnonzero(live)
    return pd.DataFrame(
        {
            "layer": layer,
            "feature": np.tile(features, len(labels)),
            "label": np.repeat([label.name for label in labels], len(features)),
            "category": np.repeat([label.category for label in labels], len(features)),
            "auroc": found[:, features].ravel(),
        }
    )


def selections(truth: pd.DataFrame, tables: Mapping[str, str], unit: str, eps: float) -> dict[str, pd.Series]:
    """Return which features each selection rule gives, as masks over the rows of `truth`.

    `full` takes adapted features by the rule that the config chose, `full_percentile` by the paper's,
    `full_calibrated` by that of the null.
    """
    place = pd.MultiIndex.from_frame(truth[FEATURE])
    columns = [*FEATURE, "visual_energy", "adapted", "adapted_percentile", "adapted_calibrated"]
    adapted = read_table(tables["adapted"], ADAPTED, columns).set_index(FEATURE).reindex(place)
    chosen = decisions(tables, unit, eps).set_index(FEATURE)
    contrast = pd.Series(place.isin(chosen.index))
    lexical = pd.Series(place.isin(chosen.index[chosen["invariant"]]))
    visual = pd.Series((adapted["visual_energy"] > eps).to_numpy())
    rotated, percentile, calibrated = (pd.Series(adapted[name].eq(True).to_numpy()) for name in columns[-3:])
    return {
        "live": truth["live"],
        "visual": visual,
        "adapted": rotated,
        "contrast": contrast,
        "contrast_visual": contrast & visual,
        "contrast_lexical": contrast & visual & lexical,
        "contrast_adapted": contrast & rotated,
        "full": contrast & rotated & lexical,
        "full_percentile": contrast & percentile & lexical,
        "full_calibrated": contrast & calibrated & lexical,
    }


def quality_row(selected: pd.Series, spatial: pd.Series) -> dict[str, float]:
    """Return precision and recall with Wilson intervals, and F1."""
    hits, given, real = int((selected & spatial).sum()), int(selected.sum()), int(spatial.sum())
    row: dict[str, float] = {"selected": given, "spatial": real, "hits": hits}
    for name, whole in (("precision", given), ("recall", real)):
        low, high = proportion_confint(hits, whole, method="wilson") if whole else (np.nan, np.nan)
        row |= {name: hits / whole if whole else np.nan, f"{name}_low": low, f"{name}_high": high}
    return row | {"f1": 2 * hits / (given + real) if given + real else np.nan}


def evaluate_rules(
    truth_file: str | Path,
    tables: Mapping[str, str],
    output: str | Path,
    concept: str,
    unit: str,
    eps: float,
    seed: int,
) -> None:
    """Write precision and recall of every selection rule (contract RULE_QUALITY).

    Args:
        truth_file: GROUND_TRUTH.
        tables: paths of `adapted`, `contrast` and `lexical`.
        output: path of the table.
        concept: name of the concept.
        unit: unit of the contrast that selects.
        eps: visual energy above which a feature counts as visual.
        seed: index of the seed.
    """
    truth = read_table(truth_file, GROUND_TRUTH)
    rows = []
    for rule, selected in selections(truth, tables, unit, eps).items():
        for layer in (ALL_LAYERS, *sorted(truth["layer"].unique())):
            here = truth["layer"].eq(layer) | (layer == ALL_LAYERS)
            for definition, column in (("best match", "spatial"), ("any match", "spatial_match")):
                row = quality_row(selected[here], truth.loc[here, column])
                rows.append({"rule": rule, "layer": layer, "definition": definition, **row})
    write_table(pd.DataFrame(rows).assign(concept=concept, seed=seed), RULE_QUALITY, output)
