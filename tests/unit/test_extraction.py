from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import vlmdiff.extraction.blocks as blocks_module
from vlmdiff.activations.format import ShardError
from vlmdiff.activations.precision import from_storage
from vlmdiff.activations.shards import open_shard
from vlmdiff.activations.store import ActivationStore
from vlmdiff.activations.tokens import IMAGE, TEXT
from vlmdiff.data.samples import DataError, Sample, dataset_fingerprint, load_samples
from vlmdiff.extraction.blocks import extract_block, first_samples, windows
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.hooks import edit_output
from vlmdiff.models.registry import load_subject
from vlmdiff.models.subject import Subject

LAYERS = [0, 2]


@pytest.fixture(scope="module")
def vlm(tiny_vlm_path: Path) -> Subject:
    return load_subject("vlm", {"family": "llava"}, tiny_vlm_path)


@pytest.fixture(scope="module")
def questions(tiny_dataset: Path) -> list[Sample]:
    return load_samples(tiny_dataset / "samples.jsonl")


@pytest.fixture(scope="module")
def documents(tiny_text_dataset: Path) -> list[Sample]:
    return load_samples(tiny_text_dataset / "samples.jsonl")


def extract(subject, samples, path, **changes):
    options = {
        "dataset": "questions",
        "block": 0,
        "shard_samples": 100,
        "layers": LAYERS,
        "batch_tokens": 200,
    }
    extract_block(subject, samples, path, **options | changes)
    return open_shard(path)


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["questions", "documents"])
def test_a_shard_holds_what_the_model_computes_one_by_one(vlm, tmp_path, request, kind, storage):
    samples = request.getfixturevalue(kind)
    shard = extract(vlm, samples, tmp_path / "s.h5", storage=storage)
    assert shard.sample_id == [sample.sample_id for sample in samples]
    assert shard.group == [sample.group for sample in samples]
    for layer in LAYERS:
        stored = from_storage(shard.read(layer, 0, shard.n_tokens))
        for index in range(0, len(samples), 7):
            batch = vlm.prepare([samples[index].prompt], [samples[index].open_image()], samples[index].chat)
            expected = vlm.residuals(batch, [layer])[layer][0, 1:]
            rows = slice(shard.offsets[index], shard.offsets[index + 1])
            # Half a unit in the last place of the 16-bit type.
            rtol = 2**-11 if storage == "float16" else 2**-8
            torch.testing.assert_close(stored[rows], expected, rtol=rtol, atol=1e-5)
            assert shard.token_id[rows].tolist() == batch.input_ids[0, 1:].tolist()
            assert shard.token_type[rows].tolist() == batch.token_type[0, 1:].tolist()
            assert shard.position[rows].tolist() == list(range(1, len(expected) + 1))


def test_bos_and_padding_are_dropped(vlm, questions, tmp_path):
    shard = extract(vlm, questions, tmp_path / "s.h5")
    assert set(shard.token_type) == {IMAGE, TEXT}
    assert shard.position.min() == 1
    assert vlm.tokenizer.bos_token_id not in shard.token_id
    assert vlm.tokenizer.pad_token_id not in shard.token_id
    assert shard.n_tokens == sum(
        vlm.lengths([s.prompt for s in questions], [s.image_size() for s in questions])
    ) - len(questions)


def test_the_header_says_where_it_comes_from(vlm, questions, tmp_path):
    header = extract(vlm, questions, tmp_path / "s.h5", layers=[2, 0, 2]).header
    assert (header.model, header.dataset, header.block, header.layers) == ("vlm", "questions", 0, (0, 2))
    assert header.model_fingerprint == vlm.fingerprint
    assert header.dataset_fingerprint == dataset_fingerprint(questions)
    assert header.d_model == 32


def test_blocks_together_hold_all_samples(vlm, questions, tmp_path):
    paths = [tmp_path / f"shard_{block}.h5" for block in range(3)]
    for block, path in enumerate(paths):
        extract(vlm, questions, path, block=block, shard_samples=15)
    whole = extract(vlm, questions, tmp_path / "whole.h5")
    store = ActivationStore(paths, 2)
    assert store.sample_ids == whole.sample_id
    values = torch.cat([chunk.values for chunk in store.chunks()])
    torch.testing.assert_close(values, from_storage(whole.read(2, 0, whole.n_tokens)), rtol=2e-3, atol=1e-3)


def test_windows_do_not_show_in_the_shard(vlm, questions, tmp_path, monkeypatch):
    whole = extract(vlm, questions, tmp_path / "whole.h5", batch_tokens=30)
    monkeypatch.setattr(blocks_module, "WINDOW_BYTES", 0)
    pieces = extract(vlm, questions, tmp_path / "pieces.h5", batch_tokens=30)
    assert np.array_equal(whole.offsets, pieces.offsets)
    for layer in LAYERS:
        values = [from_storage(shard.read(layer, 0, shard.n_tokens)) for shard in (whole, pieces)]
        torch.testing.assert_close(*values, rtol=2e-3, atol=1e-3)


def test_two_runs_write_the_same_bytes(vlm, questions, tmp_path):
    for name in ("one.h5", "other.h5"):
        extract(vlm, questions, tmp_path / name)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "other.h5").read_bytes()


def test_windows_cover_samples_in_order():
    assert windows([3, 3, 3, 9, 1], 6) == [range(0, 2), range(2, 3), range(3, 4), range(4, 5)]
    assert windows([3, 3], 100) == [range(0, 2)]


def test_a_value_beyond_float16_names_layer_and_remedy(vlm, questions, tmp_path):
    with edit_output(vlm.block(2), lambda value: value * 1e5):
        with pytest.raises(ShardError, match=r"layer 2: .*extraction\.storage: bfloat16"):
            extract(vlm, questions, tmp_path / "s.h5")
        assert list(tmp_path.iterdir()) == []
        shard = extract(vlm, questions, tmp_path / "s.h5", storage="bfloat16")
    assert from_storage(shard.read(2, 0, shard.n_tokens)).abs().max() > 65504


def test_an_empty_block_a_short_data_set_and_a_missing_layer_are_refused(
    vlm, questions, tiny_dataset, tmp_path
):
    with pytest.raises(DataError, match="block 2 of 20 samples is empty: the data set has 40 samples"):
        extract(vlm, questions, tmp_path / "s.h5", block=2, shard_samples=20)
    with pytest.raises(DataError, match="found 40 samples, but the config asks for 41"):
        first_samples(tiny_dataset / "samples.jsonl", 41)
    assert len(first_samples(tiny_dataset / "samples.jsonl", 30)) == 30
    with pytest.raises(SubjectError, match="has blocks 0 to 2"):
        extract(vlm, questions, tmp_path / "s.h5", layers=[0, 3])
    assert list(tmp_path.iterdir()) == []
