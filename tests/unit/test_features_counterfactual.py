"""What a change of the image turns as it turns a label; what merely notices changes is not found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csc_matrix

from vlmdiff.activations.format import ShardContent, ShardHeader
from vlmdiff.activations.tokens import TEXT
from vlmdiff.activations.writer import write_shard
from vlmdiff.data.samples import Sample
from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.features.counterfactual import differences, write_counterfactual
from vlmdiff.features.matched_tests import MatchedError
from vlmdiff.tables.features import CONTRAST
from vlmdiff.tables.io import read_table

COUNT, LAYER = 80, 1
TRUE = np.arange(COUNT) % 2 == 0
CRITERIA = {"label": "answer", "within": None, "min_effect_size": 0.8, "min_frequency": 0.02, "fdr": 0.05}


def samples():
    return [
        Sample(sample_id=f"s{i}", prompt=f"text {i}", group="left", answer="true" if TRUE[i] else "false")
        for i in range(COUNT)
    ]


def write(folder, name, columns, ids):
    """Write a shard of one text token a sample, whose residual is what the features read."""
    rows = np.stack(columns, axis=1).astype(np.float16)[: len(ids)]
    content = ShardContent(
        residual={LAYER: rows},
        token_id=np.zeros(len(ids), np.int32),
        position=np.ones(len(ids), np.int32),
        token_type=np.full(len(ids), TEXT, np.uint8),
        offsets=np.arange(len(ids) + 1, dtype=np.int64),
        sample_id=list(ids),
        group=["left"] * len(ids),
    )
    width = rows.shape[1]
    write_shard(folder / name, content, ShardHeader("m", "d", "f", "e", 0, width, (LAYER,), "float16"))
    dictionary = TopKDictionary(width, width, k=width, subtract_decoder_bias=False)
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.eye(width))
        dictionary.W_dec.copy_(torch.eye(width))
    save_dictionary(dictionary, folder / "dictionary", {})
    return {LAYER: [folder / name]}


@pytest.fixture
def compared(tmp_path):
    """Write both data sets and return the contrast; some samples may be missing in the second."""

    def contrast(kept, turned, missing=0, **changes):
        ids = [sample.sample_id for sample in samples()]
        shown = [ids, ids[: COUNT - missing]]
        shards = write(tmp_path, "kept.h5", kept, ids), write(tmp_path, "turned.h5", turned, shown[1])
        output = tmp_path / "contrast.parquet"
        folders = {LAYER: tmp_path / "dictionary"}
        write_counterfactual("left", samples(), shown, shards, folders, CRITERIA | changes, output)
        return read_table(output, CONTRAST).set_index("feature")

    return contrast


def test_only_what_turns_with_the_label_is_found(compared):
    rng = np.random.default_rng(0)
    noise = rng.random((4, COUNT)) * 0.2
    knows, notices, falsehood = 1.0 * TRUE, np.ones(COUNT), 1.0 * ~TRUE
    kept = [knows + noise[0], notices + noise[1], rng.random(COUNT), falsehood + noise[2]]
    turned = [1 - knows + noise[3], 3 * notices, rng.random(COUNT), 1 - falsehood]
    found = compared(kept, turned)
    assert found["selected"].tolist() == [True, False, False, True]
    assert found.loc[[0, 3], "value"].tolist() == ["true", "false"]


def test_samples_that_one_data_set_lacks_are_left_out(compared):
    knows = 1.0 * TRUE
    found = compared([knows], [1 - knows], missing=20).loc[0]
    assert (found["n_target"], found["n_baseline"]) == (30, 30)
    with pytest.raises(
        MatchedError, match="label: found the values 'true', 'false' of 'answer', over 4 images"
    ):
        compared([knows], [1 - knows], missing=76)


def test_rounding_is_no_difference():
    kept, turned = np.array([[1.0, 5.0], [2.0, 0.0]]), np.array([[1.0001, 4.0], [2.001, 0.0]])
    found = differences(csc_matrix(kept), csc_matrix(turned))
    assert found.toarray().tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert found.nnz == 1
