"""What a model answers with its images, without, and with others': who is shown what, how it is counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from statsmodels.stats.proportion import proportion_confint

from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.interventions.accuracy import (
    accuracies,
    answered,
    conditions,
    evaluate_model,
    guessed,
    summarise,
    with_others_images,
)
from vlmdiff.interventions.inputs import ModelFiles
from vlmdiff.models.registry import load_subject
from vlmdiff.tables.data import HELD_OUT
from vlmdiff.tables.io import read_table, write_table
from vlmdiff.tables.models import ACCURACY


def pictured(folder: Path, contents: str) -> list[Sample]:
    """One sample for each letter; equal letters are equal pictures in files of their own, '-' has none."""
    samples = []
    for index, letter in enumerate(contents):
        name = None if letter == "-" else f"{index}.png"
        if name:
            Image.new("RGB", (4, 4), (ord(letter), 0, 0)).save(folder / name)
        values = {"sample_id": str(index), "image": name, "prompt": f"{index} ?", "group": "g"}
        samples.append(Sample(**values, answer="yes", choices=["yes", "no"], folder=folder))
    return samples


def shown(samples: list[Sample], contents: str) -> str:
    """Return the letter of the picture of each sample."""
    return "".join("-" if one.image is None else contents[int(one.image[0])] for one in samples)


@pytest.mark.parametrize("contents", ["AAABCD", "AB", "ABCDEFGHI", "AABB", "A-ABBB--A", "ABAAB-CC"])
def test_nobody_is_shown_a_picture_of_its_own_content(tmp_path, contents):
    samples = pictured(tmp_path, contents)
    for seed in range(5):
        found = shown(with_others_images(samples, seed), contents)
        assert all((mine == "-") == (other == "-") for mine, other in zip(contents, found))
        assert all(mine != other for mine, other in zip(contents, found) if mine != "-")
        assert Counter(found) == Counter(contents)


def test_who_is_shown_what_is_drawn_from_the_seed(tmp_path):
    samples = pictured(tmp_path, "ABCDEFGHI")
    found = [shown(with_others_images(samples, seed), "ABCDEFGHI") for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("contents", ["AAAB", "AAA", "A", "--", "AABAC"])
def test_where_most_pictures_are_the_same_nobody_can_be_shown_anothers(tmp_path, contents):
    assert with_others_images(pictured(tmp_path, contents), 0) is None


def test_what_a_model_can_be_put_to(tmp_path, tiny_vlm_path, tiny_lm_path):
    for name in ("same", "none"):
        (tmp_path / name).mkdir()
    samples, same = pictured(tmp_path, "AB"), pictured(tmp_path / "same", "AA")
    vlm = load_subject("vlm", {"family": "llava"}, tiny_vlm_path)
    found = conditions(vlm, samples, 0)
    assert {name: [one.image for one in shown] for name, shown in found.items()} == {
        "image": ["0.png", "1.png"],
        "no_image": [None, None],
        "shuffled_image": ["1.png", "0.png"],
    }
    assert [one.prompt for one in found["no_image"]] == ["0 ?", "1 ?"]
    assert list(conditions(vlm, same, 0)) == ["image", "no_image"]
    assert list(conditions(vlm, pictured(tmp_path / "none", "--"), 0)) == ["no_image"]
    lm = load_subject("lm", {"family": "causal_lm"}, tiny_lm_path)
    assert list(conditions(lm, samples, 0)) == ["no_image"]


def alone(subject, sample: Sample, image) -> tuple[bool, bool]:
    """Answer one question by itself: is the answer the best of its choices, and of all tokens?"""
    logits = subject.final_logits(subject.prepare([sample.prompt], [image], sample.chat))[0]
    token = {choice: subject.tokenizer.convert_tokens_to_ids(choice) for choice in sample.choices}
    best = max(token, key=lambda choice: float(logits[token[choice]]))
    return best == sample.answer, int(logits.argmax()) == token[sample.answer]


@torch.no_grad()
def test_the_table_of_a_model_is_that_of_questions_asked_one_by_one(tmp_path, tiny_vlm_path, tiny_dataset):
    file = tiny_dataset / "samples.jsonl"
    config = str(Path(tiny_vlm_path) / "config.json")
    files = ModelFiles("mine", {"family": "llava"}, config)
    output = tmp_path / "accuracy.csv"
    # Every fifth sample was used before; the first 30 of the others are asked.
    everything = load_samples(file)
    kept = [one for i, one in enumerate(everything) if i % 5]
    held_out = pd.DataFrame(
        [
            {"dataset": "d", "sample_id": one.sample_id, "image": "", "kept": one in kept, "reason": ""}
            | {"shared_with": "", "shared_sample": ""}
            for one in everything
        ]
    )
    write_table(held_out, HELD_OUT, tmp_path / "held_out.csv")
    asked = {"names": ["d"], "limits": [30], "batch_tokens": 300, "seed": 3}
    evaluate_model(files, [file], [tmp_path / "held_out.csv"], output, **asked)
    table = read_table(output, ACCURACY)
    assert set(table["model"]) == {"mine"} and set(table["dataset"]) == {"d"}
    subject, samples = files.load(), kept[:30]
    right = np.array([alone(subject, one, one.open_image()) for one in samples])
    blind = np.array([alone(subject, one, None) for one in samples])
    assert 0 < right[:, 0].sum() < 30, "some are right and some are wrong"
    groups = np.array([one.group for one in samples])
    rows = table.set_index(["condition", "group"])
    for condition, found in (("image", right), ("no_image", blind)):
        for group in ("all", *set(groups)):
            mine, row = groups == group if group != "all" else groups != "", rows.loc[condition, group]
            assert (row["n"], row["correct"]) == (mine.sum(), found[mine, 0].sum())
            assert row["accuracy_vocabulary"] == pytest.approx(found[mine, 1].mean())
            assert row["chance"] == pytest.approx(
                np.mean([1 / len(samples[i].choices) for i in np.flatnonzero(mine)])
            )
            assert row["image_only"] == (right[mine, 0] & ~found[mine, 0]).sum()
            assert row["condition_only"] == (found[mine, 0] & ~right[mine, 0]).sum()
    assert rows.loc[("shuffled_image", "all"), "n"] == 30


def test_shuffled_images_depend_on_the_data_set_and_the_seed(tiny_vlm_path, tiny_dataset):
    subject = load_subject("vlm", {"family": "llava"}, tiny_vlm_path)
    samples = load_samples(tiny_dataset / "samples.jsonl", limit=8)
    orders = [[one.image for one in conditions(subject, samples, seed)["shuffled_image"]] for seed in (1, 2)]
    assert orders[0] != orders[1]
    found = accuracies(subject, "m", {"a": samples, "b": samples}, 300, 0)
    assert list(dict.fromkeys(found["dataset"])) == ["a", "b"]
    assert len(answered(subject, samples, 300)) == 8


def asked(answers: str, group: str = "g", choices: str = "") -> list[Sample]:
    """A question for each letter, which is its answer; the choices are all letters that are answers."""
    choices = sorted(choices or set(answers))
    values = {"prompt": "?", "group": group, "folder": Path()}
    return [
        Sample(sample_id=f"{group}{i}", answer=answer, choices=list(choices), **values)
        for i, answer in enumerate(answers)
    ]


def test_a_guess_knows_what_is_answered_most_of_the_time():
    assert guessed(asked("a" * 90 + "b" * 10), 0).mean() == pytest.approx(0.9)
    # Alternating answers are not dealt into a half of their own each.
    assert 0.4 < guessed(asked("ab" * 500), 0).mean() < 0.6
    # Groups have answers of their own, and so have sets of choices.
    mixed = [*asked("a" * 60, "g", "ab"), *asked("b" * 60, "h", "ab")]
    assert guessed(mixed, 0).tolist() == [1.0] * 120
    assert guessed(asked("a" * 50, choices="ab") + asked("b" * 20, choices="bc"), 0).mean() > 0.99


def test_a_guess_of_what_was_never_answered_is_chance():
    one_each = [one for letter in "abcdefgh" for one in asked(letter, choices=f"{letter}xyz")]
    assert guessed(one_each, 0).tolist() == [0.25] * 8
    assert guessed(asked("a", choices="ab"), 0).tolist() == [0.5]


def test_summary_counts_by_group_and_over_all():
    scores = pd.DataFrame(
        {
            "group": ["row"] * 3 + ["size"] * 2,
            "correct": [True, True, False, True, True],
            "correct_word": [True, False, False, True, True],
            "chance": [1 / 3] * 3 + [1 / 2] * 2,
            "guess": [1.0, 0.0, 0.5, 1.0, 0.0],
        }
    )
    with_images = scores.assign(correct=[False, True, True, False, False])
    table = summarise(scores, with_images).set_index("group")
    assert table.loc["row", ["n", "correct"]].tolist() == [3, 2]
    assert table.loc["row", "accuracy_vocabulary"] == pytest.approx(1 / 3)
    assert table.loc["all", "accuracy"] == pytest.approx(0.8)
    assert table.loc["all", "chance"] == pytest.approx(0.4)
    assert table.loc["row", "guess"] == pytest.approx(0.5) and table.loc["all", "guess"] == pytest.approx(0.5)
    assert table.loc["row", ["image_only", "condition_only"]].tolist() == [1, 1]
    assert table.loc["all", ["image_only", "condition_only"]].tolist() == [1, 3]
    low, high = proportion_confint(2, 3, method="wilson")
    assert table.loc["row", ["ci_low", "ci_high"]].tolist() == pytest.approx([low, high])
