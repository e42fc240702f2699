"""The lexical filter: candidates, samples, neutral runs on a tiny VLM, both variants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from feature_tables import write_decisions, write_statistics, write_top_samples

from vlmdiff.activations.tokens import TEXT
from vlmdiff.data.samples import load_samples
from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.features.candidates import find_candidates, strongest_samples
from vlmdiff.features.lexical import LexicalCriteria, NeutralRuns, judge, lexical_filter, look_up
from vlmdiff.features.neutral import OwnWords, measure, with_prompts
from vlmdiff.features.sums import SampleSet, SampleSetError
from vlmdiff.models.registry import load_subject
from vlmdiff.tables.features import LEXICAL
from vlmdiff.tables.io import read_table

PROMPTS = ["describe this image", "what is in the image ?"]
TARGET = {"dataset": "tiny", "groups": ["left of", "above"], "without": []}
SPEC = {"family": "llava", "dtype": "float32", "attention": "sdpa"}


def make_dictionary(seed: int) -> TopKDictionary:
    generator = torch.Generator().manual_seed(seed)
    dictionary = TopKDictionary(32, 24, k=4)
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.randn(32, 24, generator=generator))
        dictionary.W_dec.copy_(torch.nn.functional.normalize(dictionary.W_enc.T, dim=1))
    return dictionary


@pytest.fixture(scope="module")
def subject(tiny_vlm_path):
    return load_subject("vlm", SPEC, tiny_vlm_path)


@pytest.fixture(scope="module")
def samples(tiny_dataset):
    return load_samples(tiny_dataset / "samples.jsonl")


def test_neutral_prompts_keep_the_image(samples):
    shown = with_prompts(samples[:2], PROMPTS)
    assert [sample.prompt for sample in shown] == PROMPTS * 2
    assert [sample.image_file for sample in shown] == [samples[i].image_file for i in (0, 0, 1, 1)]


@torch.no_grad()
def test_measure_equals_one_by_one(subject, samples):
    dictionaries = {0: make_dictionary(0), 2: make_dictionary(2)}
    features = {0: [3, 17], 2: [0, 5, 9]}
    shown = samples[:7]
    found = measure(subject, shown, dictionaries, features, batch_tokens=60)
    for i, sample in enumerate(shown):
        batch = subject.prepare([sample.prompt], [sample.open_image()])
        for layer, columns in features.items():
            text = subject.residuals(batch, [layer])[layer][0][batch.token_type[0] == TEXT]
            expected = dictionaries[layer].encode(text)[:, columns].max(0).values
            np.testing.assert_allclose(found[layer][i], expected, rtol=1e-4, atol=1e-5)
    assert any((values > 0).any() for values in found.values())


def test_candidates_pass_both_filters(tmp_path):
    energies = {5: 0.5, 4: 0.11, 3: 0.1, 2: 0.05}
    adapted = [{"layer": 1, "feature": f, "visual_energy": energy} for f, energy in energies.items()]
    contrast = [
        {"layer": 1, "feature": f, "unit": unit, "selected": selected}
        for f, unit, selected in (
            (5, "token", True),
            (4, "token", False),
            (4, "sample", True),
            (3, "token", True),
            (2, "token", True),
            (5, "sample", True),
        )
    ]
    adapted_file, contrast_file, _ = write_decisions(tmp_path, adapted, contrast, [])
    by_token = find_candidates(adapted_file, contrast_file, "token", 0.1)
    assert by_token.to_numpy().tolist() == [[1, 5]]
    by_sample = find_candidates(adapted_file, contrast_file, "sample", 0.1)
    assert by_sample.to_numpy().tolist() == [[1, 4], [1, 5]]


def write_top(folder, rows):
    """Rows of (layer, feature, group, rank, sample_id, activation); totals name three groups."""
    keys = ("layer", "feature", "group", "rank", "sample_id", "activation")
    top = write_top_samples(folder / "top_samples.parquet", [dict(zip(keys, row)) for row in rows])
    groups = [{"group": name, "n_tokens": 1} for name in ("left of", "above", "colour")]
    return [top], [write_statistics(folder, [], groups)[1]]


def test_strongest_samples_merge_groups(tmp_path):
    files = write_top(
        tmp_path,
        [
            (0, 1, "left of", 0, "a", 3.0),
            (0, 1, "left of", 1, "b", 1.0),
            (0, 1, "above", 0, "c", 2.0),
            (0, 1, "colour", 0, "d", 9.0),
            (0, 2, "above", 0, "e", 9.0),
        ],
    )
    candidates = pd.DataFrame({"layer": [0, 0], "feature": [1, 2]})
    found = strongest_samples(*files, candidates, SampleSet.of(TARGET), 2)
    assert list(zip(found["feature"], found["sample_id"])) == [(1, "a"), (1, "c"), (2, "e")]
    missing = pd.DataFrame({"layer": [0, 0], "feature": [1, 7]})
    with pytest.raises(SampleSetError, match="1 candidates have no sample"):
        strongest_samples(*files, missing, SampleSet.of(TARGET), 2)


def judged(activations: list[list[float]], variant="strict", fraction=0.5) -> pd.Series:
    """Judge one feature by its activations, samples x prompts."""
    key = {"layer": 0, "feature": 0}
    neutral = [
        {**key, "sample_id": str(i), "prompt": j, "neutral": z}
        for i, row in enumerate(activations)
        for j, z in enumerate(row)
    ]
    tried = [{**key, "sample_id": str(i), "activation": 1.0 + i} for i in range(len(activations))]
    criteria = LexicalCriteria(0.01, fraction, variant)
    return judge(pd.DataFrame(tried), pd.DataFrame(neutral), criteria).iloc[0]


def test_judgement_by_hand():
    found = judged([[0.5, 0.0], [0.02, 0.3]])
    assert tuple(found[["samples", "pairs", "pairs_fired", "samples_fired"]]) == (2, 4, 3, 2)
    assert found["activation_concept"] == pytest.approx(1.5)
    assert found["activation_neutral"] == pytest.approx(0.82 / 4)
    assert found["invariant_strict"]
    assert found["invariant_loose"]
    assert found["invariant"]


def test_variants_differ():
    one_sample = [[0.5, 0.5], [0.0, 0.0]]
    assert not judged(one_sample)["invariant"]
    assert judged(one_sample, "loose", 0.5)["invariant"]
    assert not judged(one_sample, "loose", 0.6)["invariant"]
    # Half of the samples fire, a quarter of the pairs.
    assert not judged([[0.5, 0.0], [0.0, 0.0]], "loose", 0.5)["invariant"]
    assert judged([[0.5, 0.0], [0.0, 0.0]], "loose", 0.25)["invariant"]
    # At the threshold is not above it; a fraction of 0 turns the filter off.
    assert not judged([[0.01]], "strict")["invariant"]
    assert judged([[0.0]], "loose", 0.0)["invariant"]


def test_each_feature_is_looked_up_at_its_layer_sample_and_prompt():
    """Two layers with other features, samples in an order of their own; the value says where it stands."""
    tried = pd.DataFrame(
        [(0, 7, "b"), (0, 7, "a"), (0, 9, "c"), (4, 2, "a"), (4, 9, "c")],
        columns=["layer", "feature", "sample_id"],
    )
    wanted, features = ["a", "b", "c"], {0: [7, 9], 4: [2, 5, 9]}
    found = {
        layer: np.array(
            [[1000 * layer + 100 * s + 10 * p + f for f in own] for s in range(3) for p in range(2)]
        )
        for layer, own in features.items()
    }
    table = look_up(tried, wanted, features, found, 2)
    assert len(table) == 10
    for row in table.itertuples():
        place = 100 * wanted.index(row.sample_id) + 10 * row.prompt
        assert row.neutral == 1000 * row.layer + place + row.feature


@pytest.fixture
def world(tmp_path, tiny_vlm_path, tiny_dataset):
    """Everything that the filter reads: features 3 and 5 at layer 1 are candidates."""
    adapted = [{"layer": 1, "feature": f, "visual_energy": 1.0} for f in range(6)]
    contrast = [{"layer": 1, "feature": f, "unit": "token", "selected": f in (3, 5)} for f in range(6)]
    adapted_file, contrast_file, _ = write_decisions(tmp_path, adapted, contrast, [])
    rows = [(1, f, "left of", rank, f"sample_{5 * rank:04d}", 2.0 - rank) for f in (3, 5) for rank in (0, 1)]
    save_dictionary(make_dictionary(1), tmp_path / "layer_1", {})
    return {
        "tables": (adapted_file, contrast_file),
        "target_files": write_top(tmp_path, rows),
        "runs": NeutralRuns(
            "vlm",
            SPEC,
            tiny_vlm_path,
            {1: tmp_path / "layer_1"},
            tiny_dataset / "samples.jsonl",
            PROMPTS,
            200,
        ),
        "output": tmp_path / "lexical.parquet",
    }


def run_filter(world, **changes):
    values = {"criteria": LexicalCriteria(0.01, 0.01, "loose"), **world, **changes}
    lexical_filter("space", TARGET, "token", 0.01, 5, **values)
    return read_table(world["output"], LEXICAL)


@torch.no_grad()
def test_lexical_table(world, subject, samples):
    found = run_filter(world)
    assert found[["layer", "feature"]].to_numpy().tolist() == [[1, 3], [1, 5]]
    assert (found["samples"] == 2).all()
    assert (found["pairs"] == 4).all()
    assert found["activation_concept"].tolist() == pytest.approx([1.5, 1.5])
    shown = with_prompts([samples[0], samples[5]], PROMPTS)
    batch = subject.prepare([s.prompt for s in shown], [s.open_image() for s in shown])
    z = (
        make_dictionary(1)
        .encode(subject.residuals(batch, [1])[1].flatten(0, 1))
        .reshape(*batch.token_type.shape, -1)
    )
    z = z.masked_fill((batch.token_type != TEXT)[..., None], 0).amax(1)[:, [3, 5]]
    np.testing.assert_allclose(found["activation_neutral"], z.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found["pairs_fired"], (z > 0.01).sum(0))


def test_a_concept_without_the_filter_keeps_all_candidates_and_runs_nothing(world):
    missing = NeutralRuns("vlm", SPEC, "nowhere", {}, "nowhere", PROMPTS, 200)
    found = run_filter(world, runs=missing, criteria=LexicalCriteria(0.01, 0.01, "none"))
    assert found[["layer", "feature"]].to_numpy().tolist() == [[1, 3], [1, 5]]
    assert found["invariant"].all() and not found[["samples", "pairs"]].any(axis=None)


def test_the_model_goes_on_in_its_own_words(world, subject, samples):
    found = run_filter({**world, "runs": replace(world["runs"], describe_tokens=4, concept_words=("left",))})
    stop = {subject.tokenizer.convert_tokens_to_ids("left")}
    shown = with_prompts([samples[0], samples[5]], PROMPTS)
    said, silent = (
        measure(subject, shown, {1: make_dictionary(1)}, {1: [3, 5]}, 200, words)[1].mean(0)
        for words in (OwnWords(4, stop), OwnWords())
    )
    np.testing.assert_allclose(found["activation_neutral"], said, rtol=1e-4)
    assert not np.allclose(said, silent)


def test_no_candidates_give_an_empty_table(world, tmp_path):
    tables = write_decisions(tmp_path, [{"layer": 1, "feature": 3}], [], [])[:2]
    assert run_filter(world, tables=tables).empty


def test_samples_that_are_gone_are_explained(world, tmp_path):
    rows = [(1, f, "left of", 0, "gone", 1.0) for f in (3, 5)]
    with pytest.raises(SampleSetError, match="1 samples of the statistics are not there, e.g. 'gone'"):
        run_filter(world, target_files=write_top(tmp_path, rows))
