"""What the data changed and what the model changed: dictionaries at the corners of the stage grid.

One dictionary S (base model, base data) is fine-tuned along two paths to F (new model, new data):
by D (base model, new data) and by M (new model, base data). See docs/understand/method.md section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from vlmdiff.dictionaries.partial_reads import feature_rows
from vlmdiff.features.candidates import FEATURE
from vlmdiff.features.rotation import BLOCK, check_shapes, row_cosines
from vlmdiff.tables.features import ADAPTED, FINAL_FEATURES, STAGE_GRID
from vlmdiff.tables.io import read_table, write_table

# Column, and the two corners whose decoder rows it compares.
EDGES = {
    "data_at_start": ("base", "data"),
    "model_at_start": ("base", "model"),
    "model_after_data": ("data", "data_then_model"),
    "data_after_model": ("model", "model_then_data"),
    "both_data_first": ("base", "data_then_model"),
    "both_model_first": ("base", "model_then_data"),
    "order_agreement": ("data_then_model", "model_then_data"),
}


def layer_edges(layer: int, folders: Mapping[str, str | Path]) -> pd.DataFrame:
    """Return the cosines of one layer's features along every edge, some features at a time.

    Args:
        layer: decoder block.
        folders: dictionary of each corner.
    """
    with ExitStack() as stack:
        files = {name: stack.enter_context(feature_rows(folder)) for name, folder in folders.items()}
        check_shapes(layer, {name: file.shape for name, file in files.items()})
        count, parts = files["base"].shape[0], []
        for start in range(0, count, BLOCK):
            rows = {name: file.decoder(start, min(start + BLOCK, count)) for name, file in files.items()}
            cosines = {edge: row_cosines(rows[a], rows[b]) for edge, (a, b) in EDGES.items()}
            parts.append(pd.DataFrame(cosines))
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(layer=layer, feature=np.arange(count))


def compare_stages(
    layers: Sequence[int],
    corners: Mapping[str, Sequence[str | Path]],
    adapted_file: str | Path,
    final_file: str | Path,
    seed: int,
    output: str | Path,
) -> None:
    """Write the rotations along all edges of the grid (contract STAGE_GRID).

    Args:
        layers: decoder blocks.
        corners: folders of `base`, `data`, `model`, `data_then_model` and `model_then_data`, one a layer.
        adapted_file: ADAPTED of the main comparison.
        final_file: FINAL_FEATURES of a concept in it.
        seed: index of the seed.
        output: path of the table.
    """
    frames = [
        layer_edges(layer, {name: folders[i] for name, folders in corners.items()})
        for i, layer in enumerate(layers)
    ]
    frame = pd.concat(frames, ignore_index=True)
    place = pd.MultiIndex.from_frame(frame[FEATURE])
    adapted = read_table(adapted_file, ADAPTED, [*FEATURE, "adapted"])
    for name, chosen in (
        ("adapted", adapted[adapted["adapted"]]),
        ("final", read_table(final_file, FINAL_FEATURES, FEATURE)),
    ):
        frame[name] = place.isin(pd.MultiIndex.from_frame(chosen[FEATURE]))
    write_table(frame.assign(seed=seed), STAGE_GRID, output)
