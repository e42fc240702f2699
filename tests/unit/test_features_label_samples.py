"""Samples of a description and of its trial: strongest, firing, silent, and never the same picture twice."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmdiff.data.samples import Sample
from vlmdiff.features.detection import asked_about, is_clear, verdict
from vlmdiff.features.label_samples import label_samples
from vlmdiff.features.labels import neighbours


def samples(pictures):
    return [
        Sample(sample_id=f"s{i}", prompt=f"p{i}", group="g", image=None if one is None else f"{one}.png")
        for i, one in enumerate(pictures)
    ]


@given(
    pictures=st.lists(st.one_of(st.none(), st.integers(0, 6)), min_size=1, max_size=25),
    shown=st.integers(1, 5),
    tested=st.integers(1, 5),
    data=st.data(),
)
def test_uses_are_apart_and_are_what_they_are_called(pictures, shown, tested, data):
    values = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=len(pictures), max_size=25))
    strongest = np.array(values[: len(pictures)])[:, None]
    own = samples(pictures)
    found = label_samples(strongest, own, np.array([7]), 1, shown, tested)
    by_name = {sample.sample_id: (place, sample) for place, sample in enumerate(own)}
    seen = {use: set() for use in ("shown", "fires", "silent")}
    for row in found.itertuples():
        place, sample = by_name[row.sample_id]
        picture = sample.image or sample.prompt
        assert picture not in seen[row.use], "each picture once"
        seen[row.use].add(picture)
        assert row.activation == strongest[place, 0] and (row.activation == 0) == (row.use == "silent")
    assert not seen["shown"] & (seen["fires"] | seen["silent"])
    active = {sample.image or sample.prompt for place, sample in by_name.values() if strongest[place, 0] > 0}
    assert len(seen["shown"]) == min(shown, len(active))
    assert len(seen["fires"]) == min(tested, len(active) - len(seen["shown"]))
    if seen["shown"]:
        weakest = min(found.loc[found["use"] == "shown", "activation"])
        assert (found.loc[found["use"] == "fires", "activation"] <= weakest).all()


def test_firing_samples_are_drawn_whatever_their_strength():
    strongest = np.linspace(1, 2, 400)[:, None]
    found = label_samples(strongest, samples([None] * 400), np.array([3]), 0, 4, 60)
    tried = found.loc[found["use"] == "fires", "activation"]
    assert len(tried) == 60 and 1.4 < tried.mean() < 1.6
    again = label_samples(strongest, samples([None] * 400), np.array([3]), 0, 4, 60)
    pd.testing.assert_frame_equal(found, again)


def test_neighbours_point_alike():
    rows = np.array([[1, 0], [2, 0.1], [-1, 0], [0, 3]], np.float32)
    found = neighbours(rows, 4, np.array([5, 6, 7, 8]), 2)
    own = found[found["column"] == 0]
    assert list(own["what"]) == ["L4F6", "L4F8"] and list(own["rank"]) == [0, 1]
    np.testing.assert_allclose(own["effect"], [2 / np.hypot(2, 0.1), 0], rtol=1e-6)
    assert neighbours(rows[:1], 4, np.array([5]), 2).empty


@pytest.mark.parametrize(
    "text, expected",
    [
        *(
            (text, "yes")
            for text in ("yes", "Yes, it does; no doubt", "__Yes__", "Answer: yes", "It fits: Yes.")
        ),
        *((text, "no") for text in (" **No.**", "“no”", "NO", "_no_")),
        *((text, text) for text in ("yesterday", "", "yes/no", "Yes or no?", "neither a yes nor a no")),
    ],
)
def test_answers_are_yes_no_or_neither(text, expected):
    assert verdict(text) == expected


@pytest.mark.parametrize("text", ["Unclear.", "_unclear_", "unclear", "Unclear: the evidence does not tell."])
def test_some_descriptions_say_nothing(text):
    assert not is_clear(text)


def test_others_say_something():
    assert is_clear("unclear writing") and is_clear("left") and is_clear("")


def asked(rows, pictured=False):
    """Ask about samples (use, prompt, picture) of one feature; return the prompts that are asked."""
    own = {
        str(i): Sample(sample_id=str(i), prompt=prompt, group="g", image=picture)
        for i, (_, prompt, picture) in enumerate(rows)
    }
    chosen = pd.DataFrame({"layer": 0, "feature": 1, "use": [row[0] for row in rows], "sample_id": list(own)})
    found = asked_about(chosen, {(0, 1): "left", (0, 2): "unclear"}, own, pictured)
    return [
        (own[name].prompt, own[name].image, fires) for name, fires in zip(found["sample_id"], found["fires"])
    ]


def test_one_question_is_one_question():
    rows = [
        ("fires", "a", "1.png"),
        ("fires", "a", "2.png"),
        ("silent", "b", "1.png"),
        ("shown", "c", "3.png"),
    ]
    assert asked(rows) == [("a", "1.png", True), ("b", "1.png", False)]
    assert len(asked(rows, pictured=True)) == 3


def test_a_question_that_no_answer_fits_is_not_asked():
    rows = [
        ("fires", "a", "1.png"),
        ("silent", "a", "2.png"),
        ("fires", "b", "1.png"),
        ("silent", "c", "1.png"),
    ]
    assert asked(rows) == [("b", "1.png", True), ("c", "1.png", False)]
    assert len(asked(rows, pictured=True)) == 4


def test_one_kind_alone_tells_nothing():
    assert asked([("fires", "a", None), ("fires", "b", None)]) == []
    assert asked([("fires", "a", None), ("silent", "a", None)]) == []


def test_nothing_is_asked_about_a_description_that_says_nothing():
    own = {name: Sample(sample_id=name, prompt=name, group="g") for name in "abcd"}
    chosen = pd.DataFrame(
        {"layer": 0, "feature": [1, 1, 2, 2], "use": ["fires", "silent", "fires", "silent"],
         "sample_id": ["b", "a", "c", "d"]}
    )  # fmt: skip
    found = asked_about(chosen, {(0, 1): "left", (0, 2): "unclear"}, own, False)
    assert list(found["sample_id"]) == ["a", "b"] and list(found["fires"]) == [False, True]


def test_copies_of_a_picture_are_one_picture():
    own = [
        Sample(sample_id=f"s{i}", prompt="p", group="g", image=f"{i}.png", image_id=f"coco:{i // 4}")
        for i in range(16)
    ]
    found = label_samples(np.linspace(2, 1, 16)[:, None], own, np.array([3]), 0, 2, 5)
    shown = found[found["use"] == "shown"]
    assert list(shown["sample_id"]) == ["s0", "s4"]
    assert {int(name[1:]) // 4 for name in found.loc[found["use"] == "fires", "sample_id"]} == {2, 3}
