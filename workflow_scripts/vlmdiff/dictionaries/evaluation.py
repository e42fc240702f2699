"""Held-out quality of dictionaries, in one pass over the activations."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from vlmdiff.activations.paired import open_store
from vlmdiff.activations.store import ActivationStore
from vlmdiff.activations.tokens import TOKEN_TYPES
from vlmdiff.dictionaries.cosines import decoder_of, median_cosine
from vlmdiff.dictionaries.files import load_dictionary
from vlmdiff.dictionaries.modules import Dictionary
from vlmdiff.dictionaries.partial_reads import check_width
from vlmdiff.dictionaries.weights import DictionaryError
from vlmdiff.tables.io import write_table
from vlmdiff.tables.models import DICTIONARY_METRICS

log = logging.getLogger(__name__)
FINAL = 100
# Activations `(tokens, d_sae)` at once: a CPU's cache is small, an accelerator wants large products.
CHUNK_VALUES = MappingProxyType({"cpu": 2**23, "gpu": 2**26})


@dataclass
class Score:
    """Sums over scored tokens, in float64, from which the metrics follow.

    Sums of `x` are taken around a fixed `shift`, so that the variance does not cancel when the
    mean is large.
    """

    n: int
    total: Tensor
    squares: float
    errors: float
    active: int
    fired: Tensor

    @classmethod
    def of(cls, x: Tensor, shift: Tensor, x_hat: Tensor, firing: Tensor, d_sae: int) -> Score:
        """Score tokens `(n, d_model)` by their reconstructions; `firing` has the feature of each firing."""
        centred, error = (x - shift).double(), (x - x_hat).double()
        return cls(
            len(x),
            centred.sum(dim=0),
            float(centred.square().sum()),
            float(error.square().sum()),
            len(firing),
            torch.bincount(firing, minlength=d_sae) > 0,
        )

    def __add__(self, other: Score) -> Score:
        """Join two disjoint sets of tokens."""
        return Score(
            self.n + other.n,
            self.total + other.total,
            self.squares + other.squares,
            self.errors + other.errors,
            self.active + other.active,
            self.fired | other.fired,
        )

    def metrics(self) -> dict[str, int | float]:
        """Return FVU about the mean of exactly these tokens, mean L0 and dead features."""
        variance = self.squares - float(self.total.square().sum()) / self.n
        return {
            "n_tokens": self.n,
            "fvu": self.errors / variance if variance > 0 else float("nan"),
            "l0": self.active / self.n,
            "dead": int((~self.fired).sum()),
        }


@torch.no_grad()
def score_dictionaries(
    store: ActivationStore,
    dictionaries: Mapping[int, Dictionary],
    token_types: Sequence[str] = tuple(TOKEN_TYPES),
) -> dict[int, dict[str, Score]]:
    """Score several dictionaries of one layer on the same tokens, read once.

    Returns:
        for each key of `dictionaries` the scores of `text` and `image` tokens, and of `all` of them; a type
        without tokens has no score.
    """
    scores: dict[int, dict[str, Score]] = {key: {} for key in dictionaries}
    widest = max(dictionary.d_sae for dictionary in dictionaries.values())
    device = next(iter(dictionaries.values())).b_dec.device
    chunk_values = CHUNK_VALUES["cpu" if device.type == "cpu" else "gpu"]
    for chunk in store.chunks(token_types, max_tokens=max(256, chunk_values // widest)):
        values, token_type = chunk.values.to(device), chunk.token_type.to(device)
        for key, dictionary in dictionaries.items():
            pairs = dictionary.active_pairs(values)
            # Not `> 0`: a threshold below zero lets negative activations pass.
            x_hat, tokens, firing = dictionary.decode_pairs(pairs), pairs.tokens(), pairs.values != 0
            for name, code in TOKEN_TYPES.items():
                rows = token_type == code
                if rows.any():
                    own = pairs.columns[firing & rows[tokens]]
                    part = Score.of(values[rows], dictionary.b_dec, x_hat[rows], own, dictionary.d_sae)
                    check_error(part, store.layer, key)
                    add(scores[key], name, part)
                    add(scores[key], "all", part)
    return scores


def check_error(part: Score, layer: int, percent: int) -> None:
    """Refuse a reconstruction that is not finite.

    Raises:
        DictionaryError: naming the layer and the state of the training.
    """
    if not math.isfinite(part.errors):
        raise DictionaryError(
            f"layer {layer}, dictionary after {percent} % of its training: its squared error is "
            f"{part.errors}, expected a finite number; weights or residuals are too large for float32: train "
            "it with a lower learning_rate, or import it again"
        )


def add(scores: dict[str, Score], name: str, part: Score) -> None:
    """Add a part to a named score, which may be new."""
    scores[name] = scores[name] + part if name in scores else part


def snapshot_folders(folder: Path, snapshots: Sequence[int]) -> dict[int, Path]:
    """Return the folders of a dictionary's snapshots and, as 100, of its final state."""
    early = {percent: folder / "snapshots" / str(percent) for percent in snapshots if percent != FINAL}
    return {**early, FINAL: folder}


def layer_rows(
    folders: Mapping[int, Path], initial: Path | None, layer: int, sets: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one layer: for each evaluation set, snapshot and kind of token."""
    start = None if initial is None else decoder_of(initial)
    dictionaries, cosines = {}, {}
    for percent, folder in folders.items():
        item = load_dictionary(folder)
        cosines[percent] = (
            float("nan") if start is None else median_cosine(item.W_dec.detach().numpy(), start)
        )
        dictionaries[percent] = item.to("cuda" if torch.cuda.is_available() else "cpu")
    for entry in sets:
        store = open_store(entry["shards"][layer], layer)
        for percent, item in dictionaries.items():
            check_width(folders[percent], item.d_model, store.d_model)
        scores = score_dictionaries(store, dictionaries, entry["tokens"])
        for percent, by_tokens in scores.items():
            for tokens in ("all", *TOKEN_TYPES):
                if tokens in by_tokens:
                    yield {
                        "layer": layer,
                        "snapshot": percent,
                        "model": entry["model"],
                        "dataset": entry["dataset"],
                        "tokens": tokens,
                        **by_tokens[tokens].metrics(),
                        "cos_initial": cosines[percent],
                    }


def evaluate_dictionary(
    folders: Mapping[int, str | Path],
    initials: Mapping[int, str | Path],
    snapshots: Sequence[int],
    sets: Sequence[Mapping[str, Any]],
    dictionary: str,
    seed: int,
    output: str | Path,
) -> None:
    """Write the held-out metrics of a dictionary at all layers (contract DICTIONARY_METRICS).

    Args:
        folders: for each layer the dictionary's folder.
        initials: for each layer the folder of the dictionary that it started from; empty if random.
        snapshots: percentages of training at which copies were kept.
        sets: evaluation sets: `model`, `dataset`, `tokens` and, by layer, the paths of their `shards`; no
            rows without any.
        dictionary: stage, for the table.
        seed: index, for the table.
        output: CSV file.

    Raises:
        DictionaryError, ShardError: an input is missing or damaged.
    """
    rows = []
    for layer, folder in folders.items():
        initial = initials.get(layer)
        initial = None if initial is None else Path(initial)
        rows.extend(layer_rows(snapshot_folders(Path(folder), snapshots), initial, layer, sets))
        log.info("layer %d scored on %s", layer, [entry["dataset"] for entry in sets])
    frame = pd.DataFrame(rows, columns=DICTIONARY_METRICS.names).assign(dictionary=dictionary, seed=seed)
    write_table(frame, DICTIONARY_METRICS, output)
