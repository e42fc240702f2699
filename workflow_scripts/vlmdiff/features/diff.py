"""What fine-tuning did to each feature: by its method of diffing, and energies (method.md section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vlmdiff.config.comparisons import CROSSCODER, DRIFT
from vlmdiff.features.crosscoder import layer_models
from vlmdiff.features.rotation import DiffError, layer_rotation
from vlmdiff.features.sums import text_sums, text_totals
from vlmdiff.tables.features import BEFORE, BETAS, FEATURE_DIFF, LATENT_SCALING
from vlmdiff.tables.io import read_table, write_table

# Columns that some methods know nothing of.
UNKNOWN = ("relative_norm", *(name for name, *_ in (*BETAS, *BEFORE)))


@dataclass(frozen=True)
class StatisticsFiles:
    """STATISTICS and TOTALS tables of some data sets at all layers, in any order."""

    statistics: Sequence[str | Path]
    totals: Sequence[str | Path]


def mean_over_tokens(features: pd.DataFrame, files: StatisticsFiles, sums: Sequence[str]) -> pd.DataFrame:
    """Return sums divided by the text tokens of the layer, 0 for features that never fired.

    Raises:
        DiffError: there are no text tokens at a layer.
    """
    index = pd.MultiIndex.from_frame(features[["layer", "feature"]])
    totals = text_totals(files.totals)
    if empty := sorted(set(features["layer"]) - set(totals.index[totals["n_tokens"] > 0])):
        raise DiffError(
            f"layers {empty}: the statistics hold no text tokens; check diff.*_datasets in the config"
        )
    tokens = totals["n_tokens"].reindex(features["layer"]).to_numpy()
    table = text_sums(files.statistics)[list(sums)].reindex(index, fill_value=0)
    return table.reset_index(drop=True).div(tokens, axis=0)


def energy_overlap(before: pd.Series, after: pd.Series) -> pd.Series:
    """Return how much of a feature's energy two models have in common, from 0 to 1; NaN where it has none.

    Twice the smaller energy by the sum of both: 1 if nothing changed, 0 if only one of the two fires it.
    """
    both = before + after
    return 2 * np.minimum(before, after) / both.where(both > 0)


def drifted(
    frame: pd.DataFrame, before: StatisticsFiles, visual: StatisticsFiles, tuned_on_text: StatisticsFiles
) -> pd.DataFrame:
    """Let features go by what they fire in the models of a drift; arguments as of `diff_features`."""
    energies = [
        mean_over_tokens(frame, one, ["sum_squares"])["sum_squares"]
        for one in (before, visual, tuned_on_text)
    ]
    null = energy_overlap(energies[0], energies[2])
    return frame.assign(
        similarity=energy_overlap(energies[0], energies[1]), null_similarity=null, calibrated=null.notna()
    )


def diff_features(
    layers: Sequence[int],
    method: str,
    base: Sequence[str | Path],
    adapted: Sequence[str | Path],
    null: Sequence[str | Path],
    visual: StatisticsFiles,
    text: StatisticsFiles,
    seed: int,
    output: str | Path,
    check: Sequence[str | Path] = (),
    untuned: Sequence[str | Path] = (),
    before: StatisticsFiles | None = None,
    tuned_on_text: StatisticsFiles | None = None,
    scaling: str | Path | None = None,
) -> None:
    """Write the diff of all layers.

    Args:
        layers: decoder blocks.
        method: `rotation`, `drift` or `crosscoder`.
        base: folders of the dictionaries before fine-tuning, one a layer.
        adapted: folders of those after it, with the same index; of crosscoders, which are their own base.
        null: folders of those fine-tuned on more of the same text, with the same index; of crosscoders of a
            model tuned on text; none for a drift.
        visual: the adapted dictionary's statistics on data sets with images.
        text: its statistics on data sets without images.
        seed: index of the seed.
        output: path of the table FEATURE_DIFF.
        check: folders of a second null, if there is one.
        untuned: folders of the dictionaries of a model that was never tuned, if there are.
        before: drift: the base dictionary's statistics on `visual`, in the model before tuning.
        tuned_on_text: drift: the same in a model that was tuned on text alone.
        scaling: the table LATENT_SCALING, if it was measured.
    """
    stages = {"base": base, "adapted": adapted}
    further = (("null", null), ("check", check), ("untuned", untuned))
    stages |= {name: found for name, found in further if found}
    compared = layer_models if method == CROSSCODER else layer_rotation
    parts = [
        compared(layer, dict(zip(stages, folders)))
        for layer, *folders in zip(layers, *stages.values(), strict=True)
    ]
    frame = pd.concat(parts, ignore_index=True)
    if method == DRIFT:
        frame = drifted(frame, before, visual, tuned_on_text)
    on_images = mean_over_tokens(frame, visual, ["sum_squares", "fires"])
    frame["seed"] = seed
    frame["visual_energy"], frame["visual_rate"] = on_images["sum_squares"], on_images["fires"]
    if scaling is not None:
        frame = frame.merge(read_table(scaling, LATENT_SCALING), on=["layer", "feature"], validate="1:1")
    for name in UNKNOWN:
        if name not in frame:
            frame[name] = np.nan
    frame["text_energy"] = mean_over_tokens(frame, text, ["sum_squares"])["sum_squares"]
    write_table(frame, FEATURE_DIFF, output)
