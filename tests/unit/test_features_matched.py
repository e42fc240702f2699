"""Which samples are compared with which: keys, strata, levels and values; what cannot be compared is told."""

import numpy as np
import pytest

from vlmdiff.features.matched_tests import Keys, MatchedError, look_up, matched_tests, pieces
from vlmdiff.features.within_strata import least_log_p

FDR = 0.05


def records(count=10, **more):
    """Return texts that are true of one image and false of another."""
    return [
        {"sample_id": f"s{i}", "prompt": f"text {i // 2}", "answer": ("true", "false")[i % 2], **more}
        for i in range(2 * count)
    ]


def comparisons(samples, images=None, **keys):
    keys = Keys(**{"label": "answer", "strata": "prompt", **keys})
    return matched_tests(samples, range(len(samples)) if images is None else images, keys, FDR)


def test_two_values_are_one_test():
    (test,) = comparisons(records())
    assert (test.level, test.value, test.other) == ("", "false", "true")
    assert test.rows.tolist() == list(range(20))
    assert test.strata.kind.tolist() == [False, True] * 10


def test_each_of_several_values_is_held_against_the_others():
    samples = [{"sample_id": f"s{i}", "prompt": "where?", "answer": "abc"[i % 3]} for i in range(60)]
    found = comparisons(samples)
    assert [(test.value, test.other) for test in found] == [("a", "not a"), ("b", "not b"), ("c", "not c")]
    assert [int(test.strata.kind.sum()) for test in found] == [20, 20, 20]


def test_values_within_are_tested_apart():
    samples = records(20)
    for i, sample in enumerate(samples):
        sample["relation"] = ("left", "above")[i // 2 % 2]
    found = comparisons(samples, within="relation")
    assert [test.level for test in found] == ["above", "left"]
    assert all(len(test.rows) == 20 for test in found)


def test_several_labels_are_tested_side_by_side():
    samples = records(20)
    for i, sample in enumerate(samples):
        sample["place"] = {"row": "abc"[i % 3]}
    found = comparisons(samples, label=["answer", "place.row"])
    assert [(test.value, test.other) for test in found] == [
        ("answer false", "answer true"),
        *((f"place.row {row}", f"not place.row {row}") for row in "abc"),
    ]
    alone = comparisons(samples, label="place.row")
    assert [test.rows.tolist() for test in found[1:]] == [test.rows.tolist() for test in alone]
    # One in a list is as one that is named alone.
    (named,), (listed,) = comparisons(samples), comparisons(samples, label=["answer"])
    assert (named.value, named.other) == (listed.value, listed.other) == ("false", "true")


def test_each_of_several_labels_needs_values_to_compare():
    with pytest.raises(MatchedError, match="label: found 'size', which none of 20 samples has"):
        comparisons(records(), label=["answer", "size"])
    with pytest.raises(MatchedError, match="0 of 10 values of 'prompt' with different values of 'place'"):
        comparisons(records(place="here"), label=["answer", "place"])


def test_a_sample_without_one_of_several_labels_has_the_others():
    samples = [*records(), {"sample_id": "x", "prompt": "text 0", "answer": "true", "place": None}]
    for i, sample in enumerate(samples[:20]):
        sample["place"] = i % 2
    first, second = comparisons(samples, label=["answer", "place"])
    assert 20 in first.rows and 20 not in second.rows


def test_a_key_can_lead_into_what_another_holds():
    objects = {"scene": {"objects": [{"row": 1}, {"row": 0}]}}
    assert [look_up(objects, f"scene.objects.{i}.row") for i in (0, 1, 2)] == ["1", "0", None]
    assert look_up(objects, "scene.objects.row") is None
    assert look_up({"scene": {"objects": {"size": 3}}}, "scene.objects.size") == "3"
    assert look_up({"scene": {"objects": 1}}, "scene.objects.size") is None
    with pytest.raises(
        MatchedError, match="'scene', which is a mapping with the keys objects in sample 's', expected a"
    ):
        look_up({"sample_id": "s", "scene": {"objects": 1}}, "scene")
    with pytest.raises(
        MatchedError, match="'choices', which is a list with the places 0 to 1 in sample 's', expected a"
    ):
        look_up({"sample_id": "s", "choices": ["a", "b"]}, "choices")
    with pytest.raises(MatchedError, match="'choices', which is a list without any place in"):
        look_up({"sample_id": "s", "choices": []}, "choices")


def test_numbers_and_truth_values_are_labels():
    samples = [{**sample, "label": int(sample["answer"] == "true")} for sample in records()]
    (test,) = comparisons(samples, label="label")
    assert (test.value, test.other) == ("0", "1")


def test_samples_without_a_label_are_left_out():
    samples = [*records(), {"sample_id": "x", "prompt": "text 0", "answer": None}]
    (test,) = comparisons(samples)
    assert 20 not in test.rows


def test_texts_of_one_value_say_nothing():
    samples = [*records(), {"sample_id": "x", "prompt": "alone", "answer": "true"}]
    (test,) = comparisons(samples)
    assert 20 not in test.rows and len(np.unique(test.strata.stratum)) == 10


def test_an_unknown_key_is_told_with_the_known_ones():
    told = (
        "label: found 'truth', which none of 20 samples has, expected a key of the samples; they have answer,"
    )
    with pytest.raises(MatchedError, match=told):
        comparisons(records(), label="truth")
    with pytest.raises(MatchedError, match="within: found 'relation'"):
        comparisons(records(), within="relation")


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("scene.thing", "'scene' is a mapping with the keys objects in sample 's'"),
        (
            "scene.objects.row",
            "'scene.objects' is a list whose only place is 0 in sample 's'",
        ),
        ("scene.objects.1.row", "'scene.objects' is a list whose only place is 0 in sample 's'"),
        ("scene.objects.0.rows", "'scene.objects.0' is a mapping with the keys row in sample 's'"),
        ("answer.first", "'answer' is 'true' in sample 's'"),
    ],
)
def test_an_unknown_key_is_told_with_where_it_breaks_off(key, where):
    known = {"prompt": "text", "answer": "true", "scene": {"objects": [{"row": "top"}]}}
    samples = [{"sample_id": "r", "prompt": "text"}, {"sample_id": "s", **known}]
    with pytest.raises(MatchedError) as found:
        matched_tests(samples, ["a", "b"], Keys(key, "prompt"), 0.05)
    assert f"label: found '{key}', which none of 2 samples has ({where}" in str(found.value)
    assert "expected a key of the samples; they have answer, prompt, sample_id, scene" in str(found.value)


def test_a_label_that_says_nothing_is_left_out_and_blanks_around_it_are_no_matter():
    samples = records()
    for sample, answer in zip(samples[:6], ("true ", " false", float("nan"), "", None, " ")):
        sample["answer"] = answer
    (test,) = comparisons(samples)
    # Of the second and third text nothing is left.
    assert (test.value, test.other) == ("false", "true")
    assert test.rows.tolist() == [0, 1, *range(6, 20)]
    accents = [
        {**one, "answer": {"true": "e\u0301", "false": "\u00e9"}[one["answer"]]} for one in samples[6:]
    ]
    with pytest.raises(MatchedError, match="0 of 7 values of 'prompt' with different values of 'answer'"):
        comparisons(accents)
    odd = [{**one, "answer": {"true": "\ud800", "false": "no"}[one["answer"]]} for one in samples[6:]]
    assert comparisons(odd)[0].value.encode()


def test_a_key_that_is_empty_everywhere_is_told():
    told = "label: found 'answer', which is empty in all of 20 samples; fill it"
    for nothing in (None, "", float("nan")):
        with pytest.raises(MatchedError, match=told):
            comparisons([{**one, "answer": nothing} for one in records()])


def test_values_of_within_that_hold_one_label_are_told():
    samples = [{**one, "own": one["answer"]} for one in records()]
    told = "found 10 of 10 values of 'prompt' .*, but none where 'own' has one value; leave `within` out, or"
    with pytest.raises(MatchedError, match=told):
        comparisons(samples, within="own")


def test_long_values_are_told_in_short():
    with pytest.raises(MatchedError) as found:
        comparisons([{**one, "answer": one["answer"] * 2000} for one in records(4)])
    assert len(str(found.value)) < 1000


def test_texts_that_never_repeat_are_told():
    samples = [{**sample, "prompt": sample["sample_id"]} for sample in records()]
    told = r"strata: found 0 of 20 values of 'prompt' with different values of 'answer' \('true', 'false'\),"
    with pytest.raises(MatchedError, match=told):
        comparisons(samples)


def test_the_number_of_tests_counts_for_what_is_enough():
    samples = records(12)
    for sample in samples:
        sample |= {f"copy{n}": sample["answer"] for n in range(200)}
    (alone,) = comparisons(samples)
    found = comparisons(samples, label=["answer", *(f"copy{n}" for n in range(200))])
    # As many as a feature without fault can be tested by.
    p = np.exp(least_log_p(pieces(alone.strata)))
    assert len(found) == int(FDR / p) and 1 < len(found) < 201


def test_a_value_on_one_image_is_not_tested():
    samples = [{**sample, "own": sample["sample_id"]} for sample in records(30)]
    for i, sample in enumerate(samples):
        sample["prompt"] = f"text {i // 2 % 2}"
    with pytest.raises(MatchedError, match="found 2 of 2 values of 'prompt'.*leave 'own' out of `label`"):
        comparisons(samples, label=["answer", "own"])
    with pytest.raises(MatchedError, match="over 30 images, which allow no p below .*; take more images$"):
        comparisons(samples, label="own")


def test_a_list_has_places_written_in_one_way():
    record = {"objects": [{"row": 1}], "a.b": 3, "c": {"d.e": 4}}
    assert look_up(record, "objects.0.row") == "1"
    assert {look_up(record, f"objects.{one}.row") for one in ("00", "-1", "٠", "9" * 5000, "")} == {None}
    assert (look_up(record, "a.b"), look_up(record, "c.d.e")) == ("3", None)


def test_the_option_that_names_a_list_is_told():
    with pytest.raises(
        MatchedError, match="^within: found 'choices', which is a list whose only place is 0 in"
    ):
        comparisons(records(choices=["a"]), within="choices")


def test_too_few_images_cannot_reach_the_false_discovery_rate():
    least = np.exp(least_log_p(5))
    told = f"over 10 images, which allow no p below {least:.2g}, expected one within"
    with pytest.raises(MatchedError, match=f"found 5 of 5 values of 'prompt' .*, {told}"):
        comparisons(records(5))
    # Ten texts of both values, but only four photos.
    with pytest.raises(
        MatchedError, match="over 4 images, which allow no p below .* `fdr`, 0.05; take more images$"
    ):
        comparisons(records(), images=[i % 4 for i in range(20)])
    with pytest.raises(MatchedError, match="over 5 images where `within` has one value, which"):
        comparisons([{**one, "half": i < 5} for i, one in enumerate(records(5))], within="half", strata=None)
