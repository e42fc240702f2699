"""Accuracy tables and how images are withheld."""

import pandas as pd
import pytest
from PIL import Image
from statsmodels.stats.proportion import proportion_confint

from vlmdiff.world.evaluation import NO_IMAGE, SHUFFLED_IMAGE, Question, shown_images, summarise
from vlmdiff.world.seeds import random_stream


def questions(count: int) -> list[Question]:
    return [
        Question("?", "yes", ("yes", "no"), "existence", Image.new("RGB", (1, 1), (index, 0, 0)))
        for index in range(count)
    ]


def test_summary_counts_by_group_and_over_all():
    scores = pd.DataFrame(
        {
            "group": ["row"] * 3 + ["size"] * 2,
            "correct": [True, True, False, True, True],
            "correct_word": [True, False, False, True, True],
            "chance": [1 / 3] * 3 + [1 / 2] * 2,
        }
    )
    table = summarise(scores).set_index("group")
    assert table.loc["row", ["n", "correct"]].tolist() == [3, 2]
    assert table.loc["row", "accuracy_vocabulary"] == pytest.approx(1 / 3)
    assert table.loc["all", "accuracy"] == pytest.approx(0.8)
    assert table.loc["all", "chance"] == pytest.approx(0.4)
    low, high = proportion_confint(2, 3, method="wilson")
    assert table.loc["row", ["ci_low", "ci_high"]].tolist() == pytest.approx([low, high])


def test_no_shuffled_image_stays_in_its_place():
    asked = questions(50)
    shown = shown_images(SHUFFLED_IMAGE, asked, random_stream(0))
    assert all(image is not question.image for image, question in zip(shown, asked, strict=True))
    assert {id(image) for image in shown} == {id(question.image) for question in asked}


def test_no_image_means_none():
    assert shown_images(NO_IMAGE, questions(3), random_stream(0)) is None
