"""The candidates of the lexical filter, and the samples that each is tried on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from vlmdiff.features.sums import SampleSet, SampleSetError
from vlmdiff.tables.features import ADAPTED, CONTRAST, TOP_SAMPLES, TOTALS
from vlmdiff.tables.io import read_table, read_tables

FEATURE = ["layer", "feature"]


def find_candidates(
    adapted_file: str | Path, contrast_file: str | Path, unit: str, eps: float
) -> pd.DataFrame:
    """Return the visual features that the contrast selects by `unit`: layer, feature, sorted.

    Adapted or not: the filter is also judged by itself, without the adapted filter before it.
    """
    adapted = read_table(adapted_file, ADAPTED, [*FEATURE, "visual_energy"])
    contrast = read_table(contrast_file, CONTRAST, [*FEATURE, "unit", "selected"])
    selected = contrast.loc[(contrast["unit"] == unit) & contrast["selected"], FEATURE]
    candidates = adapted.loc[adapted["visual_energy"] > eps, FEATURE].merge(selected, on=FEATURE)
    return candidates.sort_values(FEATURE, ignore_index=True)


def strongest_samples(
    top_files: Iterable[str | Path],
    totals_files: Sequence[str | Path],
    candidates: pd.DataFrame,
    target: SampleSet,
    count: int,
) -> pd.DataFrame:
    """Return each candidate's `count` strongest samples in the target set.

    The strongest of a union of groups are among the strongest of each group, so merging the groups'
    lists is exact.

    Args:
        top_files: TOP_SAMPLES tables of the target's data set, one a layer.
        totals_files: its TOTALS tables, which name all groups.
        candidates: layer, feature.
        target: the concept's samples.
        count: samples of each feature.

    Returns:
        layer, feature, sample_id, activation (under the sample's own question).

    Raises:
        SampleSetError: a candidate has no sample.
    """
    groups = target.choose(set(read_tables(totals_files, TOTALS, ["group"])["group"]))
    rows = pc.field("group").isin(sorted(groups)) & pc.field("feature").isin(
        pa.array(candidates["feature"], pa.int64())
    )
    columns = [*FEATURE, "group", "rank", "sample_id", "activation"]
    parts = [read_table(path, TOP_SAMPLES, columns, rows).merge(candidates, on=FEATURE) for path in top_files]
    merged = pd.concat(parts, ignore_index=True)
    # Group and rank settle ties the same way on every run.
    merged = merged.sort_values(
        [*FEATURE, "activation", "group", "rank"], ascending=[True, True, False, True, True]
    )
    chosen = merged.groupby(FEATURE, sort=False).head(count)
    if missing := len(candidates) - len(chosen[FEATURE].drop_duplicates()):
        raise SampleSetError(
            f"{missing} candidates have no sample in data set '{target.dataset}', though the contrast saw "
            "them fire; remake the statistics"
        )
    return chosen[[*FEATURE, "sample_id", "activation"]].reset_index(drop=True)
