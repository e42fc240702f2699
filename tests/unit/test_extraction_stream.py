"""Streaming gives training the same tokens as a store, and goes on exactly where it stopped."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from vlmdiff.activations.format import ShardError
from vlmdiff.activations.store import ActivationStore
from vlmdiff.data.samples import load_samples
from vlmdiff.dictionaries.training import train_dictionary
from vlmdiff.extraction.blocks import extract_block
from vlmdiff.extraction.stream import ActivationStream, ModelPasses
from vlmdiff.models.registry import load_subject

LAYER = 1


@pytest.fixture(scope="module")
def vlm(tiny_vlm_path):
    return load_subject("vlm", {"family": "llava"}, tiny_vlm_path, "cpu")


@pytest.fixture(scope="module")
def samples(tiny_dataset):
    return load_samples(tiny_dataset / "samples.jsonl")


@pytest.fixture
def stream(vlm, samples):
    return ActivationStream(ModelPasses(vlm, samples, batch_tokens=256), LAYER, pool_samples=7)


@pytest.fixture(scope="module")
def shard(vlm, samples, tmp_path_factory):
    path = tmp_path_factory.mktemp("shards") / "shard_0.h5"
    extract_block(vlm, samples, path, dataset="d", block=0, shard_samples=100, layers=[LAYER])
    return path


def taken(source, types, count, start=0):
    return list(islice(source.batches(types, 16, seed=3, start_step=start), count))


@pytest.mark.parametrize("types", [("text",), ("image",), ("text", "image")])
def test_an_epoch_holds_the_tokens_of_a_store(stream, shard, types):
    store = ActivationStore([shard], LAYER)
    stored = torch.cat([chunk.values for chunk in store.chunks(types)])
    assert sum(stream.token_counts(types)) == len(stored) == store.n_tokens(types)
    steps = len(stored) // 16
    seen = torch.cat(taken(stream, types, steps))
    # Batches of other samples round differently in the last bits.
    distance = torch.cdist(seen.double(), stored.double()).min(dim=1).values
    assert float(distance.max()) < 0.01 * float(stored.norm(dim=1).mean())
    assert not torch.equal(seen[:16], stored[:16])


@pytest.mark.parametrize("start", [1, 5, 13, 40, 95])
def test_a_later_start_goes_on_where_an_earlier_one_stopped(stream, start):
    whole = taken(stream, ("text",), start + 4)[start:]
    later = taken(stream, ("text",), 4, start)
    assert all(torch.equal(a, b) for a, b in zip(whole, later, strict=True))


def test_epochs_differ_in_order_and_agree_in_content(stream):
    tokens = int(stream.token_counts(("text",)).sum())
    first, second = (
        np.concatenate(list(islice(stream.batches(("text",), 1, 3, skipped), tokens)))
        for skipped in (0, tokens)
    )
    assert not np.array_equal(first, second)
    # Sums over an epoch do not depend on the order.
    np.testing.assert_allclose(
        first.astype(np.float64).sum(0), second.astype(np.float64).sum(0), rtol=2e-3, atol=0.5
    )


def test_tokens_that_are_not_there_are_an_error(vlm, tiny_text_dataset):
    documents = load_samples(tiny_text_dataset / "samples.jsonl")
    with pytest.raises(ShardError, match=r"no tokens of the types \['image'\]"):
        next(ActivationStream(ModelPasses(vlm, documents), LAYER).batches(("image",), 8, 0))


def test_types_are_those_of_a_prepared_batch(vlm, samples):
    for sample in samples[:6]:
        batch = vlm.prepare([sample.prompt], [sample.open_image()], sample.chat)
        assert vlm.types([sample.prompt], [sample.image_size()], sample.chat) == batch.token_type.tolist()


@pytest.mark.long
def test_a_dictionary_trains_on_a_stream_and_resumes_exactly(stream, vlm, samples, tmp_path):
    stage = {
        "tokens": ["text"],
        "steps": 20,
        "batch_tokens": 64,
        "learning_rate": 1e-3,
        "warmup": 0.0,
        "snapshots": [],
    }
    architecture = {
        "kind": "topk",
        "d_sae": 64,
        "k": 4,
        "bandwidth": 0.001,
        "l0_coefficient": 1.0,
        "subtract_decoder_bias": True,
    }

    def train(name, source, **changes):
        train_dictionary(
            source,
            "random",
            layer=LAYER,
            seed=0,
            architecture=architecture,
            stage=stage,
            provenance={},
            folder=tmp_path / name,
            checkpoints=tmp_path / f"{name}_work",
            **changes,
        )
        return (tmp_path / name / "sae_weights.safetensors").read_bytes()

    class Interrupted(ActivationStream):
        """Breaks off after ten steps; the first call only measures the scale of the values."""

        calls = 0

        def stored_batches(self, *arguments, **options):
            self.calls += 1
            limit = 10 if self.calls == 2 else None
            yield from islice(super().stored_batches(*arguments, **options), limit)
            raise OSError("the power failed")

    whole = train("whole", stream)
    broken = Interrupted(ModelPasses(vlm, samples, batch_tokens=256), LAYER, pool_samples=7)
    with pytest.raises(OSError, match="power"):
        train("broken", broken, checkpoint_every_s=0.0)
    assert (tmp_path / "broken_work" / "last.ckpt").is_file()
    assert train("broken", stream) == whole


def test_only_wanted_tokens_are_stored(vlm, samples, shard, tmp_path):
    path = tmp_path / "text.h5"
    extract_block(
        vlm, samples, path, dataset="d", block=0, shard_samples=100, layers=[LAYER], token_types=["text"]
    )
    some, every = ActivationStore([path], LAYER), ActivationStore([shard], LAYER)
    text = torch.cat([chunk.values for chunk in every.chunks(("text",))])
    assert torch.equal(torch.cat([chunk.values for chunk in some.chunks(("text",))]), text)
    assert some.shards[0].n_tokens < every.shards[0].n_tokens
    assert Counter(some.shards[0].token_type.tolist()).keys() == {2}
    with pytest.raises(ShardError, match=r"types \['image'\] were not stored, only \['text'\]"):
        next(some.chunks(("text", "image")))
