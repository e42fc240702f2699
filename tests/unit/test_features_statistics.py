"""Streaming statistics against naive dense loops."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdiff.activations.format import ShardContent, ShardHeader
from vlmdiff.activations.tokens import IMAGE, TEXT
from vlmdiff.activations.writer import write_shard
from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import Dictionary, TopKDictionary
from vlmdiff.features import top_samples
from vlmdiff.features.statistics import StatisticsError, collect_statistics, feature_statistics
from vlmdiff.tables.features import STATISTICS, TOP_SAMPLES, TOTALS
from vlmdiff.tables.io import conform, read_table

GROUPS = ("above", "below", "count")
D_SAE, TOP = 5, 2


@dataclass
class FakeChunk:
    values: torch.Tensor
    token_type: np.ndarray
    token_id: np.ndarray
    position: np.ndarray
    sample: np.ndarray


class FakeDictionary:
    """Its activations are its inputs, rectified."""

    def __init__(self):
        self.W_enc, self.d_model, self.d_sae = torch.zeros(1), D_SAE, D_SAE

    active_pairs = Dictionary.active_pairs

    def encode(self, x):
        return x.relu()


class FakeStore:
    """Samples with few different whole activations, so that ties are common and sums exact."""

    def __init__(self, seed: int, lengths: list[int]):
        rng = np.random.default_rng(seed)
        self.d_model, tokens = D_SAE, sum(lengths)
        self.values = rng.integers(-3, 4, (tokens, D_SAE)).astype(np.float32)
        self.values[:, 0] = 0
        self.token_type = rng.choice([IMAGE, TEXT], tokens).astype(np.uint8)
        self.token_id = rng.integers(0, 50, tokens).astype(np.int32)
        self.position = np.concatenate([np.arange(1, n + 1) for n in [*lengths, 0]]).astype(np.int32)
        self.sample = np.repeat(np.arange(len(lengths)), lengths)
        self.token_types = ("image", "text")
        self.sample_ids = [f"s{i}" for i in range(len(lengths))]
        self.groups = list(rng.choice(GROUPS, len(lengths)))

    def chunks(self, token_types, max_tokens):
        columns = (self.token_type, self.token_id, self.position, self.sample)
        for start in range(0, len(self.sample), max_tokens):
            part = slice(start, start + max_tokens)
            yield FakeChunk(torch.from_numpy(self.values[part]), *(column[part] for column in columns))


def naive(store: FakeStore):
    """All three tables by loops over tokens and features."""
    sums = defaultdict(lambda: [0, 0.0, 0.0, Counter()])
    totals = defaultdict(lambda: [0, Counter()])
    best = {}
    for t, sample in enumerate(store.sample):
        group, kind = store.groups[sample], "text" if store.token_type[t] == TEXT else "image"
        totals[group, kind][0] += 1
        totals[group, kind][1][sample] += 1
        for f, z in enumerate(store.values[t]):
            if z <= 0:
                continue
            cell = sums[group, kind, f]
            cell[0] += 1
            cell[1] += float(z)
            cell[2] += float(z) ** 2
            cell[3][sample] += 1
            if kind == "text" and z > best.get((group, f, sample), (0,))[0]:
                best[group, f, sample] = (float(z), store.position[t], store.token_id[t])
    statistics = {
        (group, kind, f): (
            n,
            total,
            squares,
            len(fired),
            sum(x * x for x in fired.values()),
            sum(x * totals[group, kind][1][sample] for sample, x in fired.items()),
        )
        for (group, kind, f), (n, total, squares, fired) in sums.items()
    }
    ranked = defaultdict(list)
    for (group, f, sample), (z, position, token) in best.items():
        ranked[group, f].append((-z, sample, position, token))
    top = {
        (group, f, rank): (f"s{sample}", position, token, -z)
        for (group, f), rows in ranked.items()
        for rank, (z, sample, position, token) in enumerate(sorted(rows)[:TOP])
    }
    counted = {
        key: (n, len(tokens), sum(x * x for x in tokens.values())) for key, (n, tokens) in totals.items()
    }
    return statistics, counted, top


def as_dict(frame: pd.DataFrame, keys: list[str], values: list[str]) -> dict:
    return {
        tuple(row[: len(keys)]): tuple(row[len(keys) :])
        for row in frame[keys + values].itertuples(index=False)
    }


lengths = st.lists(st.integers(0, 9), min_size=1, max_size=25).filter(sum)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), lengths, st.integers(1, 30), st.sampled_from([0, 3, 2**18]))
def test_streaming_equals_dense_loops(seed, lengths, max_tokens, buffer):
    store = FakeStore(seed, lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top_samples, "BUFFER", buffer)
        running = collect_statistics(store, FakeDictionary(), TOP, max_tokens)
        top = running.top.table(3, running.groups, store.sample_ids)
    statistics, totals, best = naive(store)
    keys = ["group", "token_type"]
    assert (
        as_dict(
            running.statistics(3),
            [*keys, "feature"],
            [
                "fires",
                "sum_activation",
                "sum_squares",
                "samples_fired",
                "sum_fires_squares",
                "sum_fires_tokens",
            ],
        )
        == statistics
    )
    assert as_dict(running.totals(3), keys, ["n_tokens", "n_samples", "sum_tokens_squares"]) == totals
    found = as_dict(top, ["group", "feature", "rank"], ["sample_id", "position", "token_id", "activation"])
    assert found == best


def test_tables_keep_their_contracts():
    store = FakeStore(0, [4, 5, 6])
    running = collect_statistics(store, FakeDictionary(), TOP, 4)
    conform(running.statistics(3), STATISTICS, "statistics")
    conform(running.totals(3), TOTALS, "totals")
    conform(running.top.table(3, running.groups, store.sample_ids), TOP_SAMPLES, "top")


def test_memory_does_not_grow_with_samples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top_samples, "BUFFER", 100)
        running = collect_statistics(FakeStore(0, [2] * 5000), FakeDictionary(), TOP, 100)
    most = len(GROUPS) * D_SAE * TOP
    running.top.prune()
    assert len(running.top.kept) <= most
    assert running.top.n_waiting <= 100 + most
    assert len(running.open) == 0


def test_silent_features_have_no_rows():
    running = collect_statistics(FakeStore(1, [10] * 5), FakeDictionary(), TOP, 7)
    assert 0 not in set(running.statistics(3)["feature"])


def test_foreign_dictionary_is_refused():
    store = FakeStore(0, [3])
    store.d_model = 7
    with pytest.raises(StatisticsError, match="reads 5 dimensions, the activations have 7"):
        collect_statistics(store, FakeDictionary(), TOP, 8)


def write_series(folder, seed=0):
    """Two shards of random residuals of 8 dimensions."""
    rng, paths = np.random.default_rng(seed), []
    for block, counts in enumerate(([5, 0, 8], [6, 7, 9])):
        tokens = sum(counts)
        content = ShardContent(
            residual={2: rng.normal(size=(tokens, 8)).astype(np.float16)},
            token_id=rng.integers(0, 9, tokens).astype(np.int32),
            position=np.concatenate([np.arange(1, n + 1) for n in counts]).astype(np.int32),
            token_type=rng.choice([IMAGE, TEXT], tokens).astype(np.uint8),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            sample_id=[f"{block}/{i}" for i in range(len(counts))],
            group=["above", "below", "above"],
        )
        header = ShardHeader("vlm", "questions", "feed", "beef", block, 8, (2,), "float16")
        paths.append(folder / f"shard_{block}.h5")
        write_shard(paths[-1], content, header)
    return paths


def test_from_shards_to_tables(tmp_path):
    torch.manual_seed(0)
    dictionary = TopKDictionary(8, 12, k=3)
    with torch.no_grad():
        dictionary.W_enc.normal_()
        dictionary.W_dec.copy_(torch.nn.functional.normalize(dictionary.W_enc.T, dim=1))
    save_dictionary(dictionary, tmp_path / "layer_2", {})
    outputs = [tmp_path / name for name in ("statistics.parquet", "totals.parquet", "top_samples.parquet")]
    shards = write_series(tmp_path)
    feature_statistics(shards, tmp_path / "layer_2", 2, outputs, top=5)
    statistics, totals, top = (
        read_table(path, schema) for path, schema in zip(outputs, (STATISTICS, TOTALS, TOP_SAMPLES))
    )
    assert totals["n_tokens"].sum() == 35
    assert totals.groupby("token_type")["n_samples"].sum().max() == 5
    assert 0 < statistics["fires"].sum() <= 3 * 35
    text = statistics[statistics["token_type"] == "text"].set_index(["group", "feature"])
    kept = top.groupby(["group", "feature"])["rank"].size()
    # Five are kept and no group has more samples: the lists are as long as samples that fired.
    pd.testing.assert_series_equal(kept.sort_index(), text["samples_fired"].sort_index(), check_names=False)
    assert (top["activation"] > 0).all()
