"""What every causal job reads: the model, two sets of questions, ranked features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vlmdiff.data.held_out import held_out_samples
from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.interventions.evaluation import CACHE_BYTES, Evaluation
from vlmdiff.models.memory import spare_bytes
from vlmdiff.models.registry import load_subject
from vlmdiff.models.subject import Subject
from vlmdiff.tables.causal import RANKING
from vlmdiff.tables.io import read_table

Feature = tuple[int, int]


@dataclass(frozen=True)
class ModelFiles:
    """Where a model lies and how it is loaded.

    Attributes:
        name: name of the model in the config.
        values: its entry in the config.
        config: its config.json; the folder around it is the checkpoint.
    """

    name: str
    values: Mapping[str, Any]
    config: str

    def load(self, **changes: Any) -> Subject:
        """Load the model; `changes` replace values of its entry."""
        return load_subject(self.name, {**self.values, **changes}, Path(self.config).parent)


@dataclass(frozen=True)
class QuestionSets:
    """A concept's own questions beside general ones.

    Attributes:
        target, control: samples.jsonl of the data sets.
        names: names of both data sets, the target first.
        samples: how many samples of each, from the first on.
        batch_tokens: tokens in one forward pass, padding included.
        held_out: HELD_OUT of both data sets, if they are reported on: only samples that are kept count.
    """

    target: str
    control: str
    names: Sequence[str]
    samples: int
    batch_tokens: int
    held_out: Sequence[str] | None = None

    def chosen(self) -> dict[str, list[Sample]]:
        """Return the samples of both sets, by the name of the data set, the target first."""
        files = (self.target, self.control)
        if self.held_out is None:
            return {
                name: load_samples(file, limit=self.samples)
                for name, file in zip(self.names, files, strict=True)
            }
        return {
            name: held_out_samples(table, file, self.samples)
            for name, file, table in zip(self.names, files, self.held_out, strict=True)
        }

    def evaluations(self, subject: Subject) -> dict[str, Evaluation]:
        """Return both sets ready for evaluation, by the name of the data set, the target first."""
        chosen = self.chosen()
        cache = spare_bytes(subject.device, on_cpu=len(chosen) * CACHE_BYTES) // len(chosen)
        return {
            name: Evaluation(subject, samples, self.batch_tokens, cache) for name, samples in chosen.items()
        }


def dictionary_folders(files: Sequence[str | Path], layers: Sequence[int]) -> dict[int, Path]:
    """Return the folder of the dictionary of each layer, from their weight files in the same order."""
    return {layer: Path(file).parent for layer, file in zip(layers, files, strict=True)}


def ranked_features(ranking: str | Path, count: int) -> list[Feature]:
    """Return the `count` best features of ranking.csv, best first."""
    return best(read_table(ranking, RANKING), count)


def ranked_pools(pools: str | Path, count: int) -> list[list[Feature]]:
    """Return the `count` best features of each random pool of random_pools.csv, best first."""
    return [best(part, count) for _, part in read_table(pools, RANKING).groupby("pool")]


def best(ranking: pd.DataFrame, count: int) -> list[Feature]:
    """Return the first features of one ranking."""
    table = ranking.sort_values("rank").head(count)
    return list(zip(table["layer"].astype(int), table["feature"].astype(int)))


def table_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Return rows as a frame that has its columns even when there are no rows."""
    return pd.DataFrame(list(rows), columns=list(columns))
