"""Features of the user's own in the place of a concept's final ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vlmdiff.config.chosen import chosen_features
from vlmdiff.tables.feature_names import feature_name
from vlmdiff.tables.features import FINAL_FEATURES
from vlmdiff.tables.io import write_table

NAME = "chosen"
# What is not known of a feature that no filter chose.
UNKNOWN = {"string": "", "int64": 0, "bool": False, "double": np.nan}


def read_chosen(path: str, layers: Sequence[int], output: str) -> None:
    """Write features of a CSV file as FINAL_FEATURES, in the order of the file.

    Args:
        path: see `chosen_features`.
        layers: decoder blocks that are studied.
        output: where the table goes.
    """
    features = chosen_features(path, layers)
    blank = {field.name: UNKNOWN[str(field.type)] for field in FINAL_FEATURES}
    table = pd.DataFrame(features, columns=["layer", "feature"]).assign(
        concept=NAME, name=[feature_name(feature) for feature in features]
    )
    write_table(
        pd.DataFrame(blank, index=table.index).assign(**table)[FINAL_FEATURES.names], FINAL_FEATURES, output
    )
