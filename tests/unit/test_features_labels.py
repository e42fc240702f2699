"""Labels: tests against scipy, the logit lens against a plain product, hand-made features, noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from feature_tables import write
from scipy.stats import fisher_exact

from vlmdiff.activations.tokens import TEXT
from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.extraction.blocks import extract_block
from vlmdiff.features.labels import (
    NO_LABEL,
    LabelCriteria,
    Responses,
    best_first,
    compose,
    label_features,
    layer_evidence,
    lens_evidence,
    trait_evidence,
    word_evidence,
)
from vlmdiff.features.traits import sample_traits, trait_matrix
from vlmdiff.models.registry import load_subject
from vlmdiff.tables.features import FINAL_FEATURES
from vlmdiff.tables.io import read_table
from vlmdiff.tables.labels import LABEL_EVIDENCE, LABEL_SAMPLES, LABELS

CRITERIA = LabelCriteria(tokens=3, strong_samples=0.2, moderate=0.3, strong=0.6, fdr=0.05, shown=2, tested=3)


@pytest.fixture(scope="module")
def subject(tiny_vlm_path):
    return load_subject("vlm", {"family": "llava"}, tiny_vlm_path)


def test_words_are_tested_by_fisher():
    fires, tokens = np.array([[8, 0], [2, 5]]), np.array([10, 40])
    found = word_evidence(Responses(np.zeros((1, 2)), fires, tokens), ["left", "the"])
    row = found[(found["column"] == 0) & (found["what"] == "left")].iloc[0]
    expected = fisher_exact([[8, 2], [2, 38]], alternative="greater").pvalue
    assert np.exp(row["log_p"]) == pytest.approx(expected, rel=1e-9)
    assert row["effect"] == 0.8
    assert row["log_odds"] == pytest.approx(np.log(8.5 * 38.5 / (2.5 * 2.5)))
    assert len(found) == 3  # a token on which a feature never fires is no evidence


def test_traits_are_tested_by_fisher():
    strongest = np.array([[5.0], [4.0], [0.1], [0.0], [0.0], [0.0], [0.2], [0.3], [0.0], [0.0]])
    has = np.zeros((10, 1), bool)
    has[[0, 1, 2]] = True
    row = trait_evidence(strongest, ["left"], has, 0.2).iloc[0]
    assert row["log_odds"] == pytest.approx(np.log(2.5 * 7.5 / (0.5 * 1.5)))
    expected = fisher_exact([[2, 0], [1, 7]], alternative="greater").pvalue
    assert np.exp(row["log_p"]) == pytest.approx(expected, rel=1e-9)
    assert row["effect"] == pytest.approx(1.0 - 1 / 8)


def test_silent_samples_are_never_strong():
    strongest = np.zeros((20, 1))
    strongest[0] = 1.0
    has = np.zeros((20, 1), bool)
    has[0] = True
    row = trait_evidence(strongest, ["only"], has, 0.5).iloc[0]
    assert row["effect"] == 1.0


def test_the_logit_lens_is_norm_then_head(subject):
    rows = np.random.default_rng(0).normal(size=(2, subject.d_model)).astype(np.float32)
    promoted, suppressed = lens_evidence(subject, rows, 4)
    with torch.no_grad():
        x = torch.from_numpy(rows)
        x = x / x.pow(2).mean(-1, keepdim=True).sqrt() * subject.decoder.norm.weight
        logits = x @ subject.model.lm_head.weight.T
    logits = logits - logits.mean(-1, keepdim=True)
    for frame, order in ((promoted, logits.argsort(-1, descending=True)), (suppressed, logits.argsort(-1))):
        for column in (0, 1):
            part = frame[frame["column"] == column]
            expected = [subject.tokenizer.decode([i]) for i in order[column, :4]]
            assert list(part["what"]) == expected
            np.testing.assert_allclose(part["effect"], logits[column][order[column, :4]], rtol=1e-3)


def test_traits_come_from_all_metadata(tiny_dataset):
    sample = load_samples(tiny_dataset / "samples.jsonl")[0]
    scene = {"objects": [{"colour": "red", "row": 0}, {"colour": "blue", "row": 2}]}
    found = sample_traits(sample.model_copy(update={"scene": scene}))
    assert {"group=left of", "relation=left of", "answer=true"} <= found
    extra = type(sample)(**{**sample.model_dump(), "scene": scene})
    assert {"scene.objects.colour=red", "scene.objects.row=2"} <= sample_traits(extra)
    assert not any(
        trait.startswith(("prompt", "image", "sample_id", "caption")) for trait in sample_traits(extra)
    )


def test_rare_and_common_traits_are_left_out(tiny_dataset):
    samples = load_samples(tiny_dataset / "samples.jsonl")
    names, has = trait_matrix(samples)
    counts = has.sum(0)
    assert len(names)
    assert (counts >= 10).all()
    assert (counts <= len(samples) - 10).all()


def test_a_trait_is_kept_if_ten_have_it_and_ten_lack_it():
    def sample(number: int) -> Sample:
        extra = {"few": number < 9, "some": number < 10, "most": number < 20, "nearly": number < 21}
        return Sample(sample_id=str(number), prompt="p", group="g", **extra)

    names, has = trait_matrix([sample(number) for number in range(30)])
    assert names == ["most=False", "most=True", "some=False", "some=True"]
    assert has.sum(0).tolist() == [10, 20, 20, 10]


def evidence_of(effects: dict[str, tuple[float, float]]) -> pd.DataFrame:
    """Evidence with the given (effect, log p) of the best word and trait."""
    rows = [
        {
            "kind": kind,
            "rank": 0,
            "what": kind.upper(),
            "effect": effect,
            "log_odds": 1.0,
            "log_p_adjusted": log_p,
        }
        for kind, (effect, log_p) in effects.items()
    ]
    lens = [
        {"kind": k, "rank": r, "what": f"{k}{r}", "effect": 1.0}
        for k in ("promoted", "suppressed")
        for r in (1, 0)
    ]
    return pd.DataFrame([*rows, *lens])


@pytest.mark.parametrize(
    ("effects", "label", "confidence"),
    [
        ({"word": (0.9, -50), "trait": (0.4, -9)}, "on 'WORD', TRAIT; promotes promoted0", "strong"),
        ({"word": (0.2, -50), "trait": (0.4, -9)}, "TRAIT; promotes promoted0", "moderate"),
        ({"word": (0.9, -1.0), "trait": (0.1, -9)}, NO_LABEL, "none"),
        ({"word": (0.3, -9), "trait": (0.2, -9)}, "on 'WORD'; promotes promoted0", "moderate"),
    ],
)
def test_the_recipe(effects, label, confidence):
    found = compose(evidence_of(effects), CRITERIA)
    assert (found["label"], found["confidence"]) == (label, confidence)
    assert found["promotes"] == "promoted0 promoted1"


def test_the_best_is_significant_before_it_is_large():
    frame = pd.DataFrame(
        {
            "column": [0, 0],
            "what": ["rare", "real"],
            "effect": [1.0, 0.5],
            "log_odds": [1, 1],
            "log_p": [-0.1, -80.0],
        }
    )
    assert list(best_first(frame, "word", 10, replace(CRITERIA, tokens=2))["what"]) == ["real", "rare"]
    assert list(best_first(frame, "word", 10, replace(CRITERIA, tokens=1))["what"]) == ["real"]
    # The config's rate says what is sure: adjusted, exp(-0.1) is 1 here.
    assert list(best_first(frame, "word", 10, replace(CRITERIA, tokens=2, fdr=1.0))["what"]) == [
        "rare",
        "real",
    ]


@pytest.fixture(scope="module")
def labelled(subject, tiny_dataset, tmp_path_factory) -> dict[int, pd.Series]:
    """Feature 2 reads the word "left" off the embedding; feature 3 is noise."""
    folder = tmp_path_factory.mktemp("labels")
    samples = load_samples(tiny_dataset / "samples.jsonl")
    extract_block(subject, samples, folder / "s.h5", dataset="d", block=0, shard_samples=40, layers=[0])
    batch = subject.prepare([s.prompt for s in samples], [s.open_image() for s in samples])
    with torch.no_grad():
        residual = subject.residuals(batch, [0])[0]
    left = batch.input_ids == subject.tokenizer.convert_tokens_to_ids("left")
    real = batch.attention_mask.bool() & (batch.token_type == 2)
    rest = residual[real & ~left]
    direction = torch.linalg.lstsq(
        torch.cat([residual[left], rest]), torch.cat([torch.ones(int(left.sum())), torch.zeros(len(rest))])
    ).solution
    dictionary = TopKDictionary(subject.d_model, 4, k=4, subtract_decoder_bias=False)
    with torch.no_grad():
        dictionary.W_enc.zero_()
        dictionary.W_enc[:, 2] = direction
        dictionary.W_enc[:, 3] = torch.randn(subject.d_model, generator=torch.Generator().manual_seed(0))
        dictionary.b_enc.copy_(torch.tensor([-1.0, -1.0, -0.5, 0.0]))
        dictionary.W_dec.copy_(torch.nn.functional.normalize(dictionary.W_enc.T + 1e-3, dim=1))
    save_dictionary(dictionary, folder / "layer_0", {})
    final = [{"layer": 0, "feature": f, "name": f"L0F{f}"} for f in (2, 3)]
    outputs = folder / "labels.csv", folder / "evidence.csv", folder / "samples.csv"
    label_features(
        "space", 0, write(folder / "final.csv", FINAL_FEATURES, final), [tiny_dataset / "samples.jsonl"],
        {0: [[folder / "s.h5"]]}, {0: folder / "layer_0"}, subject, CRITERIA, outputs,
    )  # fmt: skip
    evidence = read_table(outputs[1], LABEL_EVIDENCE)
    assert set(evidence["kind"]) == {"word", "trait", "promoted", "suppressed", "neighbour"}
    best = evidence[(evidence["kind"] == "word") & (evidence["rank"] == 0)].set_index("feature")
    check_p_of_left(subject, dictionary, batch, residual, best.loc[2])
    return read_table(outputs[0], LABELS).set_index("feature")


def check_p_of_left(subject, dictionary, batch, residual, word):
    """Fisher's p of "left", the least of all tests: one a kind of text token and labelled feature."""
    text = batch.attention_mask.bool() & (batch.token_type == TEXT)
    # Shards hold 16-bit values.
    with torch.no_grad():
        on = dictionary.encode(residual[text].half().float())[:, 2] > 0
    is_left = batch.input_ids[text] == subject.tokenizer.convert_tokens_to_ids("left")
    hit, other = int((on & is_left).sum()), int((on & ~is_left).sum())
    counts = [[hit, int(is_left.sum()) - hit], [other, int((~is_left).sum()) - other]]
    tests = 2 * len(batch.input_ids[text].unique())
    expected = fisher_exact(counts, alternative="greater").pvalue * tests
    assert word["log_p_adjusted"] == pytest.approx(np.log(expected), rel=1e-6)


def test_evidence_does_not_depend_on_the_order_of_shards(subject, tiny_dataset, tmp_path):
    samples = load_samples(tiny_dataset / "samples.jsonl")
    for name, some in (("first", samples[:25]), ("second", samples[25:])):
        extract_block(
            subject, some, tmp_path / f"{name}.h5", dataset=name, block=0, shard_samples=25, layers=[0]
        )
    extract_block(subject, samples, tmp_path / "all.h5", dataset="d", block=0, shard_samples=40, layers=[0])
    torch.manual_seed(0)
    dictionary = TopKDictionary(subject.d_model, 12, k=3)
    with torch.no_grad():
        dictionary.W_enc.normal_()
        dictionary.W_dec.copy_(torch.nn.functional.normalize(dictionary.W_enc.T, dim=1))
    save_dictionary(dictionary, tmp_path / "layer_0", {})
    many = replace(CRITERIA, tokens=50)
    whole, parts = (
        layer_evidence(0, np.array([7, 2]), shards, tmp_path / "layer_0", subject, known, many)[0]
        for shards, known in (
            ([[tmp_path / "all.h5"]], [samples]),
            ([[tmp_path / "second.h5"], [tmp_path / "first.h5"]], [samples[25:], samples[:25]]),
        )
    )
    pd.testing.assert_frame_equal(whole, parts)
    assert set(whole["feature"]) == {2, 7}
    # Features come in their own order: what 7 promotes is what its row promotes.
    (promoted, _) = lens_evidence(subject, dictionary.W_dec[[7]].detach().numpy(), 50)
    mine = whole[(whole["feature"] == 7) & (whole["kind"] == "promoted")]
    assert list(mine["what"]) == list(promoted["what"])


def test_a_word_feature_is_called_by_its_word(labelled):
    row = labelled.loc[2]
    assert row["word"] == "left"
    assert row["label"].startswith("on 'left'")
    assert row["confidence"] == "strong"
    assert row["word_share"] > 0.6


def test_noise_has_no_word(labelled):
    assert labelled.loc[3, "word"] == ""


def test_no_final_feature_is_an_empty_table(subject, tiny_dataset, tmp_path: Path):
    outputs = tmp_path / "labels.csv", tmp_path / "evidence.csv", tmp_path / "samples.csv"
    final = write(tmp_path / "final.csv", FINAL_FEATURES, [])
    label_features("c", 0, final, [tiny_dataset / "samples.jsonl"], {}, {}, subject, CRITERIA, outputs)
    assert read_table(outputs[0], LABELS).empty and read_table(outputs[2], LABEL_SAMPLES).empty
