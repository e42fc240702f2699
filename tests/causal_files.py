"""Files that the causal jobs read, for tests: random dictionaries and feature tables of the tiny VLM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from tiny_models import D_MODEL, N_LAYERS

from vlmdiff.tables.features import ADAPTED, CONTRAST, FINAL_FEATURES
from vlmdiff.tables.io import write_table

D_SAE = 48
SELECTED, DEAD = range(20, 30), 47
DEFAULTS = {"string": "token", "int64": 0, "double": 0.0, "bool": False}


def filled(schema: pa.Schema, rows: list[dict]) -> pd.DataFrame:
    """Return rows with every column of a contract, the missing ones filled."""
    values = {field.name: DEFAULTS[str(field.type)] for field in schema}
    return pd.DataFrame([{**values, **row} for row in rows], columns=schema.names)


def answered(subject, samples, intervention=None):
    """Answer questions once, with every block and token computed anew."""
    from vlmdiff.interventions.evaluation import Evaluation

    return Evaluation(subject, samples, 1024, cache_bytes=0).answers(intervention)


def write_dictionaries(folder: Path) -> list[str]:
    """Save a random TopK dictionary for each layer and return the weight files."""
    import torch

    from vlmdiff.dictionaries.files import save_dictionary
    from vlmdiff.dictionaries.modules import TopKDictionary

    for layer in range(N_LAYERS):
        torch.manual_seed(layer)
        dictionary = TopKDictionary(k=4, d_model=D_MODEL, d_sae=D_SAE)
        with torch.no_grad():
            dictionary.W_dec.copy_(torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL), dim=1))
            dictionary.W_enc.copy_(dictionary.W_dec.T)
        save_dictionary(dictionary, folder / f"layer_{layer}", {})
    return [str(folder / f"layer_{layer}" / "sae_weights.safetensors") for layer in range(N_LAYERS)]


def write_tables(folder: Path, final: list[tuple[int, int]]) -> dict[str, str]:
    """Write final_features, contrast and adapted tables in which `final` are the final features.

    The contrast selects `SELECTED` of each layer too, `DEAD` never fires, and no table is sorted by p.
    """
    rates = np.random.default_rng(0).uniform(0.01, 0.5, size=(N_LAYERS, D_SAE))
    rates[:, DEAD] = 0.0
    keys = [(layer, feature) for layer in range(N_LAYERS) for feature in range(D_SAE)]
    rows = [
        {
            "layer": at,
            "feature": i,
            "visual_rate": rates[at, i],
            "selected": (at, i) in final or (i in SELECTED and bool(final)),
        }
        for at, i in keys
    ]
    best = [
        {"concept": "c", "layer": at, "feature": i, "name": f"L{at}F{i}", "log_p_adjusted": -100.0 + order}
        for order, (at, i) in enumerate(final)
    ]
    tests = [{key: row[key] for key in ("layer", "feature", "selected")} for row in rows]
    diff = [{key: row[key] for key in ("layer", "feature", "visual_rate")} for row in rows]
    files = {
        name: str(folder / name) for name in ("final_features.csv", "contrast.parquet", "adapted.parquet")
    }
    write_table(filled(FINAL_FEATURES, best[::-1]), FINAL_FEATURES, files["final_features.csv"])
    write_table(filled(CONTRAST, tests), CONTRAST, files["contrast.parquet"])
    write_table(filled(ADAPTED, diff), ADAPTED, files["adapted.parquet"])
    return {Path(name).stem: path for name, path in files.items()}


def rank_tiny(model, questions, dictionaries, tables, folder: Path, **changes) -> dict[str, str]:
    """Rank the final features of `write_tables` beside 20 pools, and return all tables with both rankings."""
    from vlmdiff.interventions.ranking import rank_features

    outputs = {"ranking": str(folder / "ranking.csv"), "pools": str(folder / "random_pools.csv")}
    stage = {"layers": [0, 1, 2], "concept": "c", "scope": "own_layer", "candidates": 3, "verified": 3}
    stage |= {"random_draws": 20, "massive_ratio": 0.0, "seed": 4, **changes}
    rank_features(model, questions, dictionaries, tables, tuple(outputs.values()), **stage)
    return tables | outputs
