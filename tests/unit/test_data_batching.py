from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlmdiff.activations.tokens import IMAGE, PADDING
from vlmdiff.data.batching import length_batches, prepare_batches, sample_lengths
from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.registry import load_subject


@given(lengths=st.lists(st.integers(1, 50), max_size=60), budget=st.integers(1, 200))
def test_every_index_once_and_within_budget(lengths, budget):
    batches = length_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60), budget=st.integers(50, 200))
def test_batches_are_of_falling_length_and_as_full_as_they_can_be(lengths, budget):
    batches = length_batches(lengths, budget)
    ordered = [lengths[index] for batch in batches for index in batch]
    assert ordered == sorted(lengths, reverse=True)
    for batch in batches[:-1]:
        assert lengths[batch[0]] * (len(batch) + 1) > budget


def test_similar_lengths_share_a_batch():
    assert length_batches([5, 20, 4, 19, 5], 40) == [[1, 3], [0, 4, 2]]


@pytest.fixture(scope="module")
def mixed(tiny_dataset, tiny_text_dataset) -> list[Sample]:
    """Questions and documents in turn."""
    questions = load_samples(tiny_dataset / "samples.jsonl")
    documents = load_samples(tiny_text_dataset / "samples.jsonl")
    return [sample for pair in zip(questions, documents) for sample in pair]


@pytest.mark.parametrize(("name", "family"), [("tiny_vlm_path", "llava"), ("tiny_lm_path", "causal_lm")])
def test_every_sample_is_prepared_once_with_its_own_image_and_template(name, family, request, mixed):
    subject = load_subject("m", {"family": family}, request.getfixturevalue(name))
    lengths, seen = sample_lengths(subject, mixed), []
    for indices, batch in prepare_batches(subject, mixed, 120):
        assert batch.input_ids.numel() <= 120
        assert len(batch) == len(indices)
        for row, index in enumerate(indices):
            sample = mixed[index]
            alone = subject.prepare([sample.prompt], [sample.open_image()], sample.chat)
            length = int(batch.attention_mask[row].sum())
            assert length == lengths[index] == alone.input_ids.shape[1]
            assert batch.input_ids[row, :length].tolist() == alone.input_ids[0].tolist()
            assert (batch.token_type[row, length:] == PADDING).all()
            images = int((batch.token_type[row] == IMAGE).sum())
            assert images == (9 if family == "llava" and sample.image else 0)
            if images:
                own = batch.seen.features[row * 9 : (row + 1) * 9]
                torch.testing.assert_close(own, alone.seen.features, atol=1e-5, rtol=1e-5)
        seen.extend(indices)
    assert sorted(seen) == list(range(len(mixed)))


@pytest.fixture
def two_threads():
    """A job with two threads reads pictures ahead."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_pictures_that_are_read_ahead_are_the_same(tiny_vlm_path, mixed, two_threads):
    subject = load_subject("m", {"family": "llava"}, tiny_vlm_path)
    ahead = list(prepare_batches(subject, mixed, 120))
    torch.set_num_threads(1)
    alone = list(prepare_batches(subject, mixed, 120))
    assert [indices for indices, _ in ahead] == [indices for indices, _ in alone]
    for (_, one), (_, two) in zip(ahead, alone, strict=True):
        assert torch.equal(one.input_ids, two.input_ids)
        if one.seen is not None:
            torch.testing.assert_close(one.seen.features, two.seen.features)


def test_other_threads_read_and_only_a_little_ahead(tiny_vlm_path, mixed, two_threads, monkeypatch):
    subject, read = load_subject("m", {"family": "llava"}, tiny_vlm_path), []
    original = type(subject).read

    def noted(self, images):
        read.append(threading.current_thread())
        return original(self, images)

    monkeypatch.setattr(type(subject), "read", noted)
    questions = [sample for sample in mixed if sample.image is not None]
    # It sees a blank picture once, to know how many tokens a picture takes.
    sample_lengths(subject, questions)
    read.clear()
    batches = prepare_batches(subject, questions, 60)
    next(batches)
    batches.close()
    assert 1 <= len(read) <= 3 < len(questions)
    assert threading.main_thread() not in read


@pytest.mark.parametrize("threads", [1, 2])
def test_a_picture_that_cannot_be_read_is_named(tiny_vlm_path, mixed, two_threads, monkeypatch, threads):
    torch.set_num_threads(threads)
    subject = load_subject("m", {"family": "llava"}, tiny_vlm_path)
    questions = [sample for sample in mixed if sample.image is not None]
    wrong, original = questions[5].open_image().tobytes(), type(subject).read

    def refuse(self, images):
        if any(image.tobytes() == wrong for image in images):
            raise ValueError("no such channels")
        return original(self, images)

    monkeypatch.setattr(type(subject), "read", refuse)
    with pytest.raises(SubjectError, match=questions[5].image):
        list(prepare_batches(subject, questions, 60))
