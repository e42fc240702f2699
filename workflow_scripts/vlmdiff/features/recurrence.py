"""Do findings recur? Features of dictionaries that were trained with other seeds, matched by decoder rows.

A whole dictionary is never in memory: the rows that are looked for are, and those that they are compared
with pass by in blocks, once for all seeds that ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vlmdiff.dictionaries.partial_reads import feature_rows
from vlmdiff.dictionaries.weights import DictionaryError
from vlmdiff.features.candidates import FEATURE
from vlmdiff.tables.features import ADAPTED, FINAL_FEATURES, RECURRENCE
from vlmdiff.tables.io import read_table, write_table

Array = np.ndarray
BLOCK = 2048  # rows read, and rows asked for, at once
DRAWS = 9999  # random exchanges of the test
DRAWS_AT_ONCE = 500
KEY = ["seed", "layer", "feature"]
# Rates of a feature and its control differ by 10 % at most. Where features that fire often are more often
# final, controls further off fire less than what they stand for, and labels that are random otherwise
# recurred in 12 % of simulations (3 to 4 % with this limit; tests/unit/test_simulation_features.py).
MOST_APART = 0.1


@dataclass(frozen=True)
class SeedFiles:
    """What is read of one seed.

    Attributes:
        dictionaries: folder of the adapted dictionary at each layer.
        adapted: table ADAPTED.
        final: table FINAL_FEATURES.
    """

    dictionaries: Mapping[int, str | Path]
    adapted: str | Path
    final: str | Path


def unit(rows: Array) -> Array:
    """Return rows at unit norm."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def rows_at(folder: str | Path, features: Iterable[int]) -> Array:
    """Return the decoder rows of some features of a dictionary at unit norm, float32 (n, d_model)."""
    with feature_rows(folder) as file:
        found = [file.decoder(index, index + 1) for index in map(int, features)]
        return unit(np.concatenate(found)) if found else np.zeros((0, file.shape[1]), np.float32)


def nearest(rows: Array, folder: str | Path) -> tuple[Array, Array]:
    """Return for each of some rows the most similar feature of a dictionary, and their cosine.

    Args:
        rows: (n, d_model) of unit norm.
        folder: the dictionary.

    Raises:
        DictionaryError: the widths differ.
    """
    index, cosine = np.zeros(len(rows), np.int64), np.full(len(rows), -np.inf)
    with feature_rows(folder) as file:
        if rows.shape[1] != file.shape[1]:
            raise DictionaryError(
                f"found dictionaries of {rows.shape[1]} and {file.shape[1]} dimensions, expected one width; "
                "compare dictionaries of one model"
            )
        for start in range(0, file.shape[0], BLOCK):
            block = unit(file.decoder(start, min(start + BLOCK, file.shape[0])))
            for first in range(0, len(rows), BLOCK):
                asked = slice(first, first + BLOCK)
                cosines = rows[asked] @ block.T
                best = cosines.max(1)
                nearer = best > cosine[asked]
                index[asked][nearer] = start + cosines.argmax(1)[nearer]
                cosine[asked][nearer] = best[nearer]
    return index, cosine


def with_controls(final: pd.DataFrame, adapted: pd.DataFrame) -> pd.DataFrame:
    """Put a control beside each final feature: of its layer, live, not final, the nearest in firing rate.

    Features that fire often have directions that are found again more easily. The final features choose
    by falling rate, of which there are fewest alike; each control serves once. One whose rate differs by more
    than a tenth is no control.

    Args:
        final: layer and feature of the final features.
        adapted: layer, feature and visual_rate of all features.

    Returns:
        layer, feature, visual_rate, arm (final, control) and pair; some pairs lack a control where a layer
        has too few live features of their rate.
    """
    chosen = final[FEATURE].merge(adapted, on=FEATURE, how="left").assign(arm="final")
    chosen["pair"] = np.arange(len(chosen))
    places = pd.MultiIndex.from_frame(adapted[FEATURE])
    free = adapted[(adapted["visual_rate"] > 0) & ~places.isin(pd.MultiIndex.from_frame(chosen[FEATURE]))]
    parts = [chosen]
    for layer, part in chosen.groupby("layer"):
        pool = free[free["layer"] == layer].sort_values("feature")
        parts.append(nearest_in_rate(part, pool))
    return pd.concat(parts, ignore_index=True)


def nearest_in_rate(final: pd.DataFrame, pool: pd.DataFrame) -> pd.DataFrame:
    """Return the controls of one layer's final features, with their pairs; equally near by rising index."""
    rates = log_rate(pool["visual_rate"].to_numpy())
    places, pairs = [], []
    for row in final.sort_values("visual_rate", ascending=False, kind="stable").itertuples():
        distance = np.abs(rates - log_rate(row.visual_rate))
        distance[places] = np.inf
        if distance.min(initial=np.inf) <= MOST_APART:
            places.append(int(distance.argmin()))
            pairs.append(row.pair)
    return pool.iloc[places].assign(arm="control", pair=pairs)


def log_rate(rate: Array | float) -> Array:
    """Return log of firing rates: what fires on 1 % and on 2 % of tokens differs as 10 % and 20 % do."""
    return np.log(np.maximum(rate, np.finfo(float).tiny))


def match_layer(
    chosen: Sequence[pd.DataFrame], folders: Sequence[str | Path], final: Sequence[Array]
) -> Iterator[pd.DataFrame]:
    """Look for features of one layer of every seed in all other seeds; every dictionary passes by twice.

    Args:
        chosen: of each seed, features of the layer, with what is to be kept about them.
        folders: of each seed, its dictionary.
        final: of each seed, its final features.

    Yields:
        The rows of one seed in another: `chosen` with seed, other_seed, match, cosine, mutual, match_final.
    """
    seeds = range(len(folders))
    rows = [rows_at(folder, part["feature"]) for folder, part in zip(folders, chosen, strict=True)]
    found: dict[tuple[int, int], tuple[Array, Array]] = {}
    for theirs in seeds:
        asking = [mine for mine in seeds if mine != theirs]
        index, cosine = nearest(np.concatenate([rows[mine] for mine in asking]), folders[theirs])
        ends = np.cumsum([len(rows[mine]) for mine in asking])[:-1]
        parts = zip(np.split(index, ends), np.split(cosine, ends), strict=True)
        found |= {(mine, theirs): part for mine, part in zip(asking, parts, strict=True)}
    del rows
    for mine in seeds:
        others = [theirs for theirs in seeds if theirs != mine]
        matches = [rows_at(folders[theirs], found[mine, theirs][0]) for theirs in others]
        back, _ = nearest(np.concatenate(matches), folders[mine])
        for theirs, own in zip(others, np.split(back, len(others)), strict=True):
            index, cosine = found[mine, theirs]
            yield chosen[mine].assign(
                seed=mine,
                other_seed=theirs,
                match=index,
                cosine=cosine,
                mutual=own == chosen[mine]["feature"].to_numpy(),
                match_final=np.isin(index, final[theirs]),
            )


def match_seeds(concept: str, seeds: Sequence[SeedFiles], output: str | Path) -> None:
    """Look for the final features of every seed in all other seeds, and write the table RECURRENCE.

    Dictionaries of different seeds start from different random weights: an index means nothing
    across them, a direction does.

    Args:
        concept: its name.
        seeds: files of each seed, in order.
        output: path of the table.
    """
    final = [read_table(one.final, FINAL_FEATURES, FEATURE) for one in seeds]
    rates = (read_table(one.adapted, ADAPTED, [*FEATURE, "visual_rate"]) for one in seeds)
    chosen = [with_controls(*pair) for pair in zip(final, rates, strict=True)]
    layers = sorted({layer for part in chosen for layer in part["layer"]}) if len(seeds) > 1 else []
    frames = []
    for layer in layers:
        parts, finals = ([part[part["layer"] == layer] for part in each] for each in (chosen, final))
        folders = [one.dictionaries[layer] for one in seeds]
        frames += match_layer(parts, folders, [part["feature"].to_numpy() for part in finals])
    names = [name for name in RECURRENCE.names if name not in ("concept", "name")]
    table = pd.concat(frames, ignore_index=True) if frames else RECURRENCE.empty_table().to_pandas()[names]
    table = table.sort_values(["seed", "other_seed", "arm", "pair"], ascending=[True, True, False, True])
    table["name"] = "L" + table["layer"].astype(str) + "F" + table["feature"].astype(str)
    write_table(table.assign(concept=concept), RECURRENCE, output)


@dataclass(frozen=True)
class RecurrenceTest:
    """Do final features meet final features more often than their controls do?

    Attributes:
        rows: RECURRENCE of the final features that have a control, and of these controls.
        by_seeds: for every ordered pair of seeds the share of final features whose match is final, less that
            of their controls.
        p: one-sided p of their sum over all pairs; 1 if there is nothing to compare.
    """

    rows: pd.DataFrame
    by_seeds: pd.Series
    p: float

    def share(self, arm: str) -> float:
        """Return how often the match of an arm's features is final."""
        return float(self.rows.loc[self.rows["arm"] == arm, "match_final"].mean())

    @property
    def features(self) -> int:
        """Final features of all seeds."""
        return len(self.rows.loc[self.rows["arm"] == "final"].drop_duplicates(KEY))


def exchange_test(table: pd.DataFrame, seed: int = 0) -> RecurrenceTest:
    """Test whether final features recur more often than their controls, by exchanging the two.

    If being final had nothing to do with what other seeds find, a final feature and its control could be
    exchanged. An exchange counts in every comparison in which the two take part: where they are looked for
    in the other seeds, and where features of the other seeds are looked for among them. So neither the
    same feature held against several seeds, nor the same two features found from both sides, count as
    independent evidence (McNemar's test on the rows would take them for that).

    Args:
        table: RECURRENCE of one concept.
        seed: seed of the random exchanges.

    Returns:
        The test; its p counts the observed labels as one of the draws (Phipson and Smyth 2010).
    """
    paired = table.groupby(["seed", "pair"])["arm"].transform("nunique") == 2
    rows = table[paired].copy()
    shares = rows.pivot_table(
        index=["seed", "other_seed"], columns="arm", values="match_final", aggfunc="mean"
    )
    if rows.empty:
        return RecurrenceTest(rows, pd.Series(dtype=float), 1.0)
    by_seeds = shares["final"] - shares["control"]
    return RecurrenceTest(rows, by_seeds, exchange_p(meetings(table, rows), seed))


def exchange_p(met: pd.DataFrame, seed: int) -> float:
    """Return the one-sided p of hits of final features less hits of controls; arguments as of `meetings`."""
    own, other, sign, known = (met[name].to_numpy() for name in ("own", "other", "sign", "by_final"))
    pairs = int(max(own.max(initial=0), other.max(initial=0))) + 1
    generator, observed, as_many = np.random.default_rng(seed), int(sign[known].sum()), 0
    for start in range(0, DRAWS, DRAWS_AT_ONCE):
        shape = (min(DRAWS_AT_ONCE, DRAWS - start), pairs)
        exchanged = generator.integers(0, 2, shape, dtype=np.int8).astype(bool)
        hits = known ^ (exchanged[:, other] & (other >= 0))
        signs = np.where(exchanged[:, own], -sign, sign)
        as_many += int(((signs * hits).sum(1) >= observed).sum())
    return (1 + as_many) / (1 + DRAWS)


def meetings(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose match is a final feature or a control of its seed.

    Args:
        table: RECURRENCE of one concept.
        rows: those of pairs that can be exchanged.

    Returns:
        sign (1 for a final feature, -1 for a control), own and other (numbers of the pairs of the feature
        and of its match, -1 for a match that cannot be exchanged), by_final (the match is final).
    """
    numbers = rows.drop_duplicates(["seed", "pair"])[["seed", "pair"]].reset_index(drop=True)
    numbers["own"] = numbers.index
    members = table.drop_duplicates(KEY)[[*KEY, "arm", "pair"]].merge(
        numbers, on=["seed", "pair"], how="left"
    )
    members = members.rename(
        columns={"seed": "other_seed", "feature": "match", "arm": "other_arm", "own": "other"}
    ).drop(columns="pair")
    met = rows.merge(numbers, on=["seed", "pair"]).merge(members, on=["other_seed", "layer", "match"])
    return pd.DataFrame(
        {
            "sign": np.where(met["arm"] == "final", 1, -1),
            "own": met["own"],
            "other": met["other"].fillna(-1).astype(int),
            "by_final": met["other_arm"] == "final",
        }
    )
