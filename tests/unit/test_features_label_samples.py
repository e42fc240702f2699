"""Samples of a description and of its trial: strongest, firing, silent, and never the same picture twice."""

import numpy as np
import pandas as pd
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


def test_answers_are_yes_no_or_neither():
    said = ["yes", " **No.**", "Yes, it does", "“no”", "yesterday", "It fits: yes", ""]
    assert [verdict(text) for text in said] == ["yes", "no", "yes", "no", "yesterday", "It fits: yes", ""]


def test_nothing_is_asked_about_a_description_that_says_nothing():
    assert not is_clear("Unclear.") and is_clear("unclear writing")
    chosen = pd.DataFrame(
        {"layer": 0, "feature": [1, 1, 2, 1], "use": ["fires", "silent", "fires", "shown"],
         "sample_id": ["b", "a", "c", "d"]}
    )  # fmt: skip
    found = asked_about(chosen, {(0, 1): "left", (0, 2): "unclear"})
    assert list(found["sample_id"]) == ["a", "b"] and list(found["fires"]) == [False, True]
