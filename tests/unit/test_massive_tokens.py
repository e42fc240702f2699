"""The first token and massive ones are no data, on every path; what they were is told."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from vlmdiff.activations.format import ShardError
from vlmdiff.activations.massive import massive_tokens, norm_multiples
from vlmdiff.activations.shards import open_shard
from vlmdiff.activations.store import ActivationStore
from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT
from vlmdiff.config.subjects import ExtractionConfig
from vlmdiff.data.samples import load_samples
from vlmdiff.extraction.blocks import extract_block
from vlmdiff.extraction.stream import ActivationStream, ModelPasses
from vlmdiff.models.batch import token_types
from vlmdiff.models.hooks import edit_output
from vlmdiff.models.registry import load_subject
from vlmdiff.summary.left_out import describe_left_out, list_left_out, where_most
from vlmdiff.tables.activations import LEFT_OUT, LEFT_OUT_PARTS
from vlmdiff.tables.io import read_table

START, PICTURE, PAD = 1, 9, 0
LAYERS = [0, 1, 2]


@pytest.mark.parametrize(
    ("row", "bos", "expected"),
    [
        ([1, 5, 6, 0], START, [BOS, TEXT, TEXT, PADDING]),
        ([5, 6, 7, 0], START, [BOS, TEXT, TEXT, PADDING]),  # a BOS that is never added, as SmolLM2's
        ([5, 6, 7, 8], None, [BOS, TEXT, TEXT, TEXT]),  # no BOS at all, as Qwen's
        ([5, 1, 6, 1], START, [BOS, BOS, TEXT, TEXT]),  # the first BOS alone
        ([9, 9, 1, 5], START, [IMAGE, IMAGE, BOS, TEXT]),  # image first, as PaliGemma's
        ([9, 9, 5, 6], START, [IMAGE, IMAGE, TEXT, TEXT]),
        ([5, 9, 9, 6], None, [BOS, IMAGE, IMAGE, TEXT]),
    ],
)
def test_the_first_token_is_never_text(row, bos, expected):
    ids = torch.tensor([row])
    mask = torch.tensor([[int(kind != PADDING) for kind in expected]])
    assert token_types(ids, mask, bos, PICTURE).tolist() == [expected]


@pytest.fixture(scope="module")
def no_bos(tiny_lm_path, tmp_path_factory):
    """A language model whose tokenizer has a BOS and does not add it."""
    folder = tmp_path_factory.mktemp("models") / "no_bos"
    shutil.copytree(tiny_lm_path, folder)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": None}))
    found = load_subject("no_bos", {"family": "causal_lm"}, folder)
    assert found.bos_id is not None and found.bos_id not in found.rows(["red circle"], [None], False)[0]
    return found


@pytest.fixture(scope="module")
def vlm(tiny_vlm_path):
    return load_subject("vlm", {"family": "llava"}, tiny_vlm_path)


@pytest.fixture(scope="module")
def documents(tiny_text_dataset):
    return load_samples(tiny_text_dataset / "samples.jsonl")


@pytest.fixture(scope="module")
def questions(tiny_dataset):
    return load_samples(tiny_dataset / "samples.jsonl")


def extract(subject, samples, path: Path, **changes):
    options = {"dataset": "d", "block": 0, "shard_samples": 100, "layers": LAYERS, "batch_tokens": 200}
    extract_block(subject, samples, path, **options | changes)
    return open_shard(path)


def test_a_bos_that_is_not_added_leaves_the_first_token_out(no_bos, documents, tmp_path):
    shard = extract(no_bos, documents, tmp_path / "s.h5")
    rows = no_bos.rows([one.prompt for one in documents], [None] * len(documents), False)
    assert [shard.token_id[a:b].tolist() for a, b in zip(shard.offsets, shard.offsets[1:])] == [
        row[1:] for row in rows
    ]
    assert shard.position.min() == 1
    stream = ActivationStream(ModelPasses(no_bos, documents), 1)
    assert stream.token_counts(["text"]).tolist() == [len(row) - 1 for row in rows]


def test_an_image_that_stands_first_keeps_its_place_and_is_no_data_there(vlm, questions, tmp_path):
    raw = [one.model_copy(update={"chat": False}) for one in questions[:6]]
    vlm_rows = vlm.rows([one.prompt for one in raw], [one.image_size() for one in raw], False)
    rows = [[token for token in row if token != vlm.bos_id] for row in vlm_rows]
    assert all(row[0] == vlm.image_id for row in rows)
    batch = vlm.assemble(rows, [one.open_image() for one in raw], False)
    assert (batch.token_type[:, 0] == IMAGE).all()
    from vlmdiff.extraction.blocks import Keeping

    kept = Keeping().data(batch.token_type)
    assert not kept[:, 0].any()
    assert kept[:, 1:].sum() == (batch.attention_mask[:, 1:]).sum()


LONG = 25  # times as long as it was


@contextmanager
def planted(subject, layer: int, token: int, factor: float):
    """Make the residual of every occurrence of a token longer at the output of one block."""
    seen: dict[str, Tensor] = {}

    def note(module, args, kwargs):
        seen["embeds"] = kwargs.get("inputs_embeds", args[0] if args else None)

    wanted = subject.model.get_input_embeddings().weight[token]

    def lengthen(residual: Tensor) -> Tensor:
        same = (seen["embeds"] == wanted).all(-1)
        return torch.where(same[..., None], residual * factor, residual)

    handle = subject.decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with edit_output(subject.block(layer), lengthen):
            yield
    finally:
        handle.remove()


def token_of(subject, samples, choose=max) -> int:
    """Return a token that most documents, or fewest but one, have once after their first two."""
    rows = subject.rows([one.prompt for one in samples], [None] * len(samples), False)
    counts: dict[int, int] = {}
    for row in rows:
        for token in set(row[2:]):
            counts[token] = counts.get(token, 0) + (row.count(token) == 1)
    return choose((token for token in counts if counts[token] > 1), key=counts.get)


@pytest.fixture(scope="module")
def planted_shard(no_bos, documents, tmp_path_factory):
    """A shard in which one token is 25 times as long after the last block, and what the report says."""
    folder = tmp_path_factory.mktemp("planted")
    token = token_of(no_bos, documents)
    with planted(no_bos, 2, token, LONG):
        shard = extract(no_bos, documents, folder / "s.h5", left_out=folder / "part.csv")
    return shard, token, folder / "part.csv"


def residuals_one_by_one(subject, samples, layer, token):
    """Return each document's residuals, its first token included, with the planted token."""
    with planted(subject, 2, token, LONG), torch.inference_mode():
        for one in samples:
            batch = subject.prepare([one.prompt], [None], False)
            yield batch.input_ids[0].numpy(), subject.residuals(batch, [layer])[layer][0].double().numpy()


def test_massive_tokens_are_marked_at_their_layer_alone(planted_shard, no_bos, documents):
    shard, token, _ = planted_shard
    expected = []
    for _, values in residuals_one_by_one(no_bos, documents, 2, token):
        norms = np.linalg.norm(values[1:], axis=1)
        expected += (norms > 10 * np.quantile(norms, 0.5, method="lower")).tolist()
    assert 5 < sum(expected) < 40
    assert shard.massive(2).tolist() == expected
    assert set(shard.token_id[shard.massive(2)]) == {token}
    assert not shard.massive(0).any() and not shard.massive(1).any()


def test_readers_never_see_a_massive_token(planted_shard):
    shard, token, _ = planted_shard
    store, other = ActivationStore([shard.path], 2), ActivationStore([shard.path], 1)
    massive = int(shard.massive(2).sum())
    assert store.n_tokens(["text"]) == other.n_tokens(["text"]) - massive == shard.n_tokens - massive
    chunks = list(store.chunks(["text"], 50))
    assert sum(len(chunk.token_id) for chunk in chunks) == store.n_tokens(["text"])
    assert not any((chunk.values == 0).all(1).any() for chunk in chunks)
    epoch = list(islice(store.batches(["text"], 1, seed=0), store.n_tokens(["text"])))
    assert not any((one == 0).all() for one in epoch)


def test_a_massive_token_that_does_not_fit_stops_nothing(no_bos, documents, tmp_path):
    token = token_of(no_bos, documents)
    with planted(no_bos, 2, token, 1e7):
        shard = extract(no_bos, documents, tmp_path / "s.h5")
        assert shard.massive(2).any()
        with pytest.raises(ShardError, match="bfloat16"):
            extract(no_bos, documents, tmp_path / "all.h5", massive_ratio=0.0)


def test_no_ratio_leaves_nothing_but_the_first_token_out(no_bos, documents, tmp_path):
    token = token_of(no_bos, documents)
    with planted(no_bos, 2, token, LONG):
        shard = extract(no_bos, documents, tmp_path / "s.h5", massive_ratio=0.0)
    assert not shard.massive(2).any()
    assert ActivationStore([shard.path], 2).n_tokens(["text"]) == shard.n_tokens


def test_a_stream_never_yields_a_massive_token_and_goes_on_anywhere(no_bos, documents):
    token = token_of(no_bos, documents)
    with planted(no_bos, 2, token, LONG):
        stream = ActivationStream(ModelPasses(no_bos, documents, batch_tokens=200), 2, pool_samples=7)
        steps = sum(stream.token_counts(["text"])) // 8
        whole = list(islice(stream.batches(["text"], 8, seed=3), steps))
        later = list(islice(stream.batches(["text"], 8, seed=3, start_step=11), steps - 11))
    norms = torch.cat(whole).norm(dim=1)
    assert norms.max() < LONG / 2 * norms.median()
    assert all(torch.equal(a, b) for a, b in zip(whole[11:], later, strict=True))
    other = ActivationStream(ModelPasses(no_bos, documents, massive_ratio=5.0), 2)
    assert stream.fingerprint() != other.fingerprint()


def test_the_report_counts_and_shares_are_right(planted_shard, no_bos, documents, tmp_path):
    shard, token, part = planted_shard
    list_left_out({"no_bos d": [part]}, tmp_path / "left_out.csv")
    table = read_table(tmp_path / "left_out.csv", LEFT_OUT)
    pairs = list(residuals_one_by_one(no_bos, documents, 2, token))
    first = np.stack([values[0] for _, values in pairs])
    others = np.concatenate([values[1:] for _, values in pairs])
    massive = shard.massive(2)
    mean = others[~massive].mean(0)
    far = [((one - mean) ** 2).sum() for one in (first, others[massive], others[~massive])]
    mine = table[table["layer"] == 2].set_index("kind")
    assert mine["n_tokens"].to_dict() == {
        "first": len(documents),
        "massive": massive.sum(),
        "kept": (~massive).sum(),
    }
    assert mine.loc["first", "variance_share"] == pytest.approx(far[0] / sum(far), rel=1e-3)
    assert mine.loc["massive", "variance_share"] == pytest.approx(far[1] / sum(far[1:]), rel=1e-3)
    assert mine.loc["massive", "token"] == repr(no_bos.tokenizer.decode([token]))
    assert mine.loc["massive", "token_id"] == token
    places = shard.position[massive]
    assert (mine.loc["massive", "position_min"], mine.loc["massive", "position_max"]) == (
        places.min(),
        places.max(),
    )
    norms = np.linalg.norm(others[massive], axis=1)
    assert mine.loc["massive", "mean_norm"] == pytest.approx(norms.mean(), rel=1e-3)
    assert list(table["model"].unique()) == ["no_bos"] and list(table["layer"].unique()) == LAYERS
    said = "\n".join(describe_left_out(table).lines)
    assert f"{massive.sum()} of {shard.n_tokens}" in said


def test_parts_of_several_shards_add_up(no_bos, documents, tmp_path):
    token = token_of(no_bos, documents)
    with planted(no_bos, 2, token, LONG):
        extract(no_bos, documents, tmp_path / "whole.h5", left_out=tmp_path / "whole.csv")
        for block in range(2):
            extract(
                no_bos, documents, tmp_path / f"{block}.h5", block=block, shard_samples=20,
                left_out=tmp_path / f"{block}.csv",
            )  # fmt: skip
    list_left_out({"m d": [tmp_path / "whole.csv"]}, tmp_path / "one.csv")
    list_left_out({"m d": [tmp_path / "0.csv", tmp_path / "1.csv"]}, tmp_path / "two.csv")
    one, two = (read_table(tmp_path / f"{name}.csv", LEFT_OUT) for name in ("one", "two"))
    exact = [name for name in LEFT_OUT.names if not name.endswith(("share", "norm", "multiple_max"))]
    pd.testing.assert_frame_equal(one[exact], two[exact])
    # About the mean of each shard.
    np.testing.assert_allclose(one["variance_share"], two["variance_share"], rtol=0.05)


def test_a_warning_where_few_kept_tokens_carry_most(no_bos, documents, tmp_path, caplog):
    token = token_of(no_bos, documents, min)
    with planted(no_bos, 2, token, 500), caplog.at_level(logging.INFO):
        extract(no_bos, documents, tmp_path / "s.h5", massive_ratio=0.0, left_out=tmp_path / "p.csv")
    warned = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warned) == 1 and "layer 2" in warned[0] and "extraction.massive_ratio" in warned[0]
    list_left_out({"m d": [tmp_path / "p.csv"]}, tmp_path / "left_out.csv")
    section = describe_left_out(read_table(tmp_path / "left_out.csv", LEFT_OUT))
    assert len(section.failed) == 1 and "layer 2" in section.failed[0]
    kept = read_table(tmp_path / "p.csv", LEFT_OUT_PARTS).query("kind == 'kept' and layer == 2").iloc[0]
    assert kept["strongest"] > 0.5 * kept["squares"]


def test_a_median_is_of_the_sample_and_the_type():
    types = torch.tensor([[BOS, IMAGE, IMAGE, IMAGE, TEXT, TEXT, TEXT, PADDING]] * 2, dtype=torch.uint8)
    norms = torch.tensor([[99.0, 1, 2, 30, 100, 200, 1100, 9e9], [1.0, 5, 5, 5, 7, 7, 7, 9e9]])
    residual = torch.zeros(2, 8, 3)
    residual[..., 1] = norms
    found = norm_multiples(residual, types)
    assert found[0, 1:7].tolist() == [0.5, 1.0, 15.0, 0.5, 1.0, 5.5]
    assert found[1, 1:7].tolist() == [1.0] * 6
    assert found[:, [0, 7]].isnan().all()
    assert massive_tokens(residual, types, 10.0).nonzero().tolist() == [[0, 3]]
    assert massive_tokens(residual, types, 5.0).nonzero().tolist() == [[0, 3], [0, 6]]
    assert not massive_tokens(residual, types, 0.0).any()


@pytest.mark.parametrize(
    ("norms", "multiples"),
    [
        ([100.0, 20000.0], [1.0, 200.0]),
        ([20000.0, 100.0], [200.0, 1.0]),
        ([20000.0, 100.0, 100.0, 20000.0], [200.0, 1.0, 1.0, 200.0]),
        ([1.0, 2.0, 3.0, 40.0], [0.5, 1.0, 1.5, 20.0]),
        ([1.0, 2.0, 4.0], [0.5, 1.0, 2.0]),
        ([7.0], [1.0]),
        ([1.0, torch.inf], [1.0, torch.inf]),
    ],
)
@pytest.mark.parametrize("kind", [TEXT, IMAGE])
def test_a_few_tokens_have_the_lower_median_which_long_ones_do_not_move(norms, multiples, kind):
    types = torch.tensor([[BOS] + [kind] * len(norms) + [PADDING]], dtype=torch.uint8)
    residual = torch.tensor([[3e4, *norms, 9e9]])[..., None]
    assert norm_multiples(residual, types)[0, 1:-1].tolist() == multiples
    marked = massive_tokens(residual, types, 10.0)[0, 1:-1]
    assert marked.tolist() == [one > 10 for one in multiples]
    assert not marked.all()


def test_a_ratio_among_usual_norms_is_refused():
    assert ExtractionConfig(massive_ratio=0.0).massive_ratio == 0
    with pytest.raises(ValueError, match=r"found 1\.5, expected 0 .* or at least 2"):
        ExtractionConfig(massive_ratio=1.5)


def test_the_summary_names_three_tokens_and_says_where_there_are_more():
    rows = [
        {"token": name, "n_tokens": 9 - i, "position_min": 1, "position_max": 1 + i}
        for i, name in enumerate("abcd")
    ]
    assert where_most(pd.DataFrame(rows[:3])) == "a x 9 at 1, b x 8 at 1 to 2, c x 7 at 1 to 3"
    assert where_most(pd.DataFrame(rows)) == "a x 9 at 1, b x 8 at 1 to 2, c x 7 at 1 to 3, …"
