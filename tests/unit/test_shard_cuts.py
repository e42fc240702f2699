"""Where a series is cut into shards: tables and the batches of a training are the same, byte for byte."""

from itertools import islice

import numpy as np
import pytest
import torch
from sparse_activations import sparse_residuals

from vlmdiff.activations.format import ShardContent, ShardHeader
from vlmdiff.activations.store import ActivationStore
from vlmdiff.activations.tokens import IMAGE, TEXT
from vlmdiff.activations.writer import write_shard
from vlmdiff.data.samples import load_samples
from vlmdiff.dictionaries.evaluation import evaluate_dictionary
from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import JumpReLUDictionary, TopKDictionary
from vlmdiff.extraction.blocks import extract_block
from vlmdiff.features.labels import collect_responses
from vlmdiff.features.sample_maxima import sample_maxima
from vlmdiff.features.statistics import feature_statistics
from vlmdiff.models.registry import load_subject

SAMPLES, EACH, D_MODEL, D_SAE, VOCABULARY = 600, 20, 32, 128, 50
CUTS = {"whole": [600], "thirds": [200, 200, 200], "uneven": [399, 1, 200], "many": [60] * 10}
TYPES = ("text", "image")


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """The same samples, cut in several ways."""
    rng = np.random.default_rng(0)
    values = sparse_residuals(SAMPLES * EACH, D_MODEL, 64, 4, seed=0, scale=30.0).astype(np.float16)
    token_id = rng.integers(0, VOCABULARY, SAMPLES * EACH).astype(np.int32)
    found = {}
    for name, sizes in CUTS.items():
        folder, first, found[name] = tmp_path_factory.mktemp(name), 0, []
        for block, size in enumerate(sizes):
            rows = slice(first * EACH, (first + size) * EACH)
            content = ShardContent(
                residual={0: values[rows]},
                token_id=token_id[rows],
                position=np.tile(np.arange(EACH), size).astype(np.int32),
                token_type=np.tile(np.repeat([IMAGE, TEXT], [8, 12]), size).astype(np.uint8),
                offsets=np.arange(size + 1, dtype=np.int64) * EACH,
                sample_id=[f"sample {i}" for i in range(first, first + size)],
                group=["left" if i % 3 else "right" for i in range(first, first + size)],
            )
            header = ShardHeader("vlm", "questions", "feed", "beef", block, D_MODEL, (0,), "float16")
            found[name].append(folder / f"shard_{block}.h5")
            write_shard(found[name][-1], content, header)
            first += size
    return found


@pytest.fixture(scope="module", params=["topk", "jumprelu"])
def dictionary(request, tmp_path_factory):
    made = (
        TopKDictionary(D_MODEL, D_SAE, 4) if request.param == "topk" else JumpReLUDictionary(D_MODEL, D_SAE)
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        made.W_dec.copy_(torch.randn(D_SAE, D_MODEL, generator=generator))
        made.normalise_decoder()
        made.W_enc.copy_(made.W_dec.T)
        if request.param == "jumprelu":
            made.log_threshold.fill_(3.0)
    folder = tmp_path_factory.mktemp(request.param)
    save_dictionary(made, folder, {})
    return folder


def test_statistics_are_the_same(series, dictionary, tmp_path):
    def tables(name):
        outputs = [tmp_path / f"{name}_{part}.parquet" for part in ("statistics", "totals", "top")]
        feature_statistics(series[name], dictionary, 0, outputs, top=5)
        return [path.read_bytes() for path in outputs]

    expected = tables("whole")
    assert all(tables(name) == expected for name in CUTS)


def test_metrics_are_the_same(series, dictionary, tmp_path):
    def table(name):
        sets = [{"model": "vlm", "dataset": "questions", "tokens": TYPES, "shards": {0: series[name]}}]
        evaluate_dictionary({0: dictionary}, {}, [], sets, "base", 0, tmp_path / "metrics.csv")
        return (tmp_path / "metrics.csv").read_bytes()

    expected = table("whole")
    assert all(table(name) == expected for name in CUTS)


def test_what_labels_and_ground_truth_read_is_the_same(series, dictionary):
    def read(name):
        names, found = collect_responses(series[name], dictionary, 0, list(range(10)), VOCABULARY)
        strongest = sample_maxima(series[name], dictionary, 0).values
        return names, [found.strongest, found.fires, found.tokens, strongest.toarray()]

    expected_names, expected = read("whole")
    for name in CUTS:
        names, arrays = read(name)
        assert list(names) == list(expected_names)
        assert all(np.array_equal(a, b) for a, b in zip(arrays, expected, strict=True))


def test_training_sees_the_same_batches_wherever_shards_are_cut(series):
    steps = SAMPLES * EACH // 100
    seen = {
        name: torch.cat(list(islice(ActivationStore(paths, 0).batches(TYPES, 100, seed=0), steps)))
        for name, paths in series.items()
    }
    assert all(torch.equal(one, seen["whole"]) for one in seen.values())


def test_stored_values_hardly_depend_on_which_samples_run_together(tiny_vlm_path, tiny_dataset, tmp_path):
    """At most in the last bit of float16, where a library chooses its loops by the size of a product."""
    samples = load_samples(tiny_dataset / "samples.jsonl")
    subject = load_subject("vlm", {"family": "llava"}, tiny_vlm_path, "cpu")

    def stored(size):
        paths = []
        for block in range(-(-len(samples) // size)):
            paths.append(tmp_path / f"{size}_{block}.h5")
            extract_block(
                subject, samples, paths[-1], dataset="d", block=block, shard_samples=size, layers=[1]
            )
        return torch.cat([chunk.values for chunk in ActivationStore(paths, 1).chunks()])

    whole = stored(40)
    for size in (20, 7, 1):
        torch.testing.assert_close(stored(size), whole, rtol=2**-9, atol=1e-3)
