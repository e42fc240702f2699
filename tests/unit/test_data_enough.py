"""Too few images or texts for anything to be tested are told before anything runs, and nothing else is."""

from __future__ import annotations

import json
from math import comb, log
from pathlib import Path

import numpy as np
import pytest
import yaml
from dry_runs import DryRunError, DryRuns
from local_experiment import SAMPLES, document, experiment, put, question, write_samples

from vlmdiff.config.load import load_config
from vlmdiff.data.enough import is_reached, log_ways, ways_to_assign
from vlmdiff.data.local_data import data_problems
from vlmdiff.features.clustered import ClusterSums, clustered_test

ROOT = Path(__file__).parents[2]
VSR = str(ROOT / "resources" / "vsr_random")


@pytest.fixture
def values(tmp_path) -> dict:
    return experiment(tmp_path)


def problems(values: dict) -> list[str]:
    return data_problems(load_config(values))


def shown(folder: Path, images: dict[str, list[str]], **more) -> None:
    """Write a data set in which each group shows some images in turn, six samples each."""
    samples = [
        question(index) | {"group": group, "image": names[index % len(names)], "prompt": f"{group} {index} ?"}
        for group, names in images.items()
        for index in range(6)
    ]
    numbered = [sample | {"sample_id": f"q{number}"} | more for number, sample in enumerate(samples)]
    write_samples(folder, numbered)


def names(*numbers: int) -> list[str]:
    return [f"images/{number}.png" for number in numbers]


# Images of the groups of the target and of that of the baseline, and what is said.
SIDES = {
    "one photo in the target": (
        {"left of": names(0), "above": names(0), "colour": names(0, 1, 2, 3)},
        "concepts.space.target: found 1 image in data set 'rank' ({place}), expected images of at least 2",
    ),
    "one photo in the baseline": (
        {"left of": names(0, 1, 2), "above": names(3), "colour": names(4)},
        "concepts.space.baseline: found 1 image in data set 'rank' ({place}), expected images of at least 2",
    ),
    "one image under several paths": (
        {"left of": ["images/0.png", "./images/0.png"], "above": ["images//0.png"],
         "colour": names(1, 2, 3)},
        "concepts.space.target: found 1 image in data set 'rank'",
    ),
    "two and two": (
        {"left of": names(0), "above": names(1), "colour": names(2, 3)},
        "concepts.space: found 2 images in `target` and 2 images in `baseline` (samples of one "
        "image depend on one another), and chance makes just this "
        "choice of the images in the target one time in 6, but `fdr` allows 0.05; expected at least as many "
        "choices as of 3 and 3; add images, or take more groups",
    ),
    "two and four": (
        {"left of": names(0), "above": names(1), "colour": names(2, 3, 4, 5)},
        "concepts.space: found 2 images in `target` and 4 images in `baseline` (samples of one "
        "image depend on one another), and chance makes just this "
        "choice of the images in the target one time in 15,",
    ),
    "two and five": ({"left of": names(0), "above": names(1), "colour": names(2, 3, 4, 5, 6)}, None),
    "three and three, the same ones": (
        {"left of": names(0, 1), "above": names(2), "colour": names(0, 1, 2)}, None,
    ),
    "two and two, the same ones": ({"left of": names(0), "above": names(1), "colour": names(0, 1)}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", SIDES)
def test_both_sides_of_a_concept_show_images_enough(values, tmp_path, name):
    images, said = SIDES[name]
    shown(tmp_path / "rank", images)
    told = [line for line in problems(values) if line.startswith("concepts.")]
    place = tmp_path / "rank" / "samples.jsonl"
    assert told == [] if said is None else len(told) == 1 and told[0].startswith(said.format(place=place)), (
        told
    )


@pytest.mark.parametrize(("fdr", "refused"), [(0.16, True), (1 / 6, False), (0.5, False), (0.0, False)])
def test_what_can_be_reached_is_what_the_concept_asks_for(values, tmp_path, fdr, refused):
    """1 in 6 assignments of two and two images looks like the observed one; an fdr of 0 asks for nothing."""
    shown(tmp_path / "rank", {"left of": names(0), "above": names(1), "colour": names(2, 3)})
    put(values, "concepts.space.fdr", fdr)
    assert any(line.startswith("concepts.space: found 2") for line in problems(values)) is refused


@pytest.mark.parametrize(
    ("colours", "told"),
    [
        (names(0, 1), "12 samples in `target` and 6 samples in `baseline`, and chance makes just this choice "
         "of the samples in the target one time in 18564, but `fdr` allows 1e-320; expected at least as many "
         "choices as of 535 and 535;"),
        (names(2, 3), "2 images in `target` and 2 images in `baseline` (samples of one "
        "image depend on one another), and chance makes just this choice of "
         "the images in the target one time in 6, but `fdr` allows 1e-320; expected at least as many choices "
         "as of 535 and 535;"),
    ],
)  # fmt: skip
def test_where_both_sides_show_the_same_images_samples_are_what_is_assigned(values, tmp_path, colours, told):
    """6 + 6 samples against 6 can be assigned in 18,564 ways. No number of ways is too large to be told."""
    shown(tmp_path / "rank", {"left of": names(0), "above": names(1), "colour": colours})
    put(values, "concepts.space.fdr", 1.0e-320)
    assert comb(1070, 535) >= 10**320 > comb(1068, 534)
    (line,) = (one for one in problems(values) if one.startswith("concepts.space: found"))
    assert told in line


def test_the_test_over_samples_reaches_what_is_asked_for():
    """What is told to be out of reach is no smaller than what the test can return, and what is not is one."""
    for one, other in ((2, 2), (3, 3), (12, 6)):
        sides = [
            ClusterSums(
                *(np.array([number]) for number in (fires, 2 * n, 2 * fires, 2 * fires, 4 * n, n, fires / 2))
            )
            for n, fires in ((one, 2 * one), (other, 0))
        ]
        log_p, _ = clustered_test(*sides)
        assert is_reached(one, other, float(np.exp(log_p[0]))) and not is_reached(
            one, other, 0.99 * float(np.exp(log_p[0]))
        )


def test_long_numbers_are_written_in_short():
    assert [ways_to_assign(2, 2), ways_to_assign(600, 600)] == ["6", "10^359"]
    assert len(str(comb(1200, 600))) == 360


def test_pictures_of_one_public_id_are_one(values, tmp_path):
    images = {"left of": names(0, 1), "above": names(2), "colour": names(3, 4, 5)}
    shown(tmp_path / "rank", images, image_id="coco:7")
    told = problems(values)
    for side in ("target", "baseline"):
        assert any(line.startswith(f"concepts.space.{side}: found 1 image ") for line in told), told


def test_where_no_image_is_shown_different_texts_count(values, tmp_path):
    texts = [
        document(i) | {"group": ("left of", "colour")[i % 2], "prompt": f"{i % 4}"} for i in range(SAMPLES)
    ]
    write_samples(tmp_path / "rank", texts)
    put(values, "concepts.space.target.groups", ["left of"])
    put(values, "concepts.space.baseline.without", ["left of"])
    assert any("found 2 different texts in `target` and 2 different texts" in one for one in problems(values))


def test_no_more_images_than_samples_are_believed(values):
    """Of the built-in world, of annotations without images and of the hub no more is known."""
    values["world"] = {}
    put(values, "concepts.space.target", {"dataset": "few"})
    for source in ({"kind": "subset", "of": "spatial_val"}, {"kind": "vqav2", "source": "hub:a/VQAv2@main"}):
        put(values, "datasets.few", source | {"samples": 1})
        (told,) = problems(values)
        assert told.startswith("concepts.space.target: found 1 sample in data set 'few', expected images of")
        # With the six images of the baseline they can be assigned in 28 ways.
        put(values, "datasets.few", source | {"samples": 2})
        assert problems(values) == []


def test_pictures_of_annotations_are_known_by_their_number(values):
    lines = [json.loads(line) for line in (Path(VSR) / "dev.jsonl").read_text().splitlines()]
    counts: dict[str, set[str]] = {}
    for line in lines:
        counts.setdefault(line["relation"], set()).add(line["image"])
    single = min(name for name, found in counts.items() if len(found) == 1)
    put(values, "datasets.vsr", {"kind": "vsr", "source": VSR, "split": "dev", "samples": len(lines)})
    put(values, "concepts.space.target", {"dataset": "vsr", "groups": [single]})
    assert any(
        line.startswith("concepts.space.target: found 1 image in data set 'vsr'") for line in problems(values)
    )
    common = max(counts, key=lambda name: len(counts[name]))
    put(values, "concepts.space.target", {"dataset": "vsr", "groups": [common]})
    assert problems(values) == []


def test_a_group_that_is_not_there_is_told_once(values):
    put(values, "concepts.space.target.groups", ["left off"])
    assert [line.partition(":")[0] for line in problems(values)] == ["concepts.space.target.groups"]


@pytest.mark.parametrize(
    "key", ["ablation.rank_on", "ablation.report_on", "heads.report_on", "heads.head_means"]
)
def test_means_and_intervals_are_over_several_images(values, key):
    put(values, f"{key}.samples", 1)
    told = problems(values)
    side = "dataset" if key == "heads.head_means" else "target"
    assert told[0].startswith(f"{key}.{side}: found 1 image in data set '") and "raise `samples`" in told[0]


def test_heads_are_traced_over_several_images(values, tmp_path):
    shown(tmp_path / "general", {"left of": names(3), "above": names(3), "colour": names(3)})
    put(values, "heads.dataset", "general")
    put(values, "heads.head_means.dataset", "rank")
    values["ablation"]["rank_on"]["control"] = "train"
    assert [line.partition(":")[0] for line in problems(values)] == ["heads.dataset"]


def test_images_that_are_used_before_are_not_reported_on(values, tmp_path):
    shown(tmp_path / "rank", {"left of": names(0, 1), "above": names(2, 3), "colour": names(4, 5, 6)})
    rows = [question(i) | {"sample_id": f"t{i}", "image": f"images/{i + 2}.png"} for i in range(7)]
    for row in rows:
        (tmp_path / "rank" / row["image"]).write_bytes(b"")
    file = tmp_path / "rank" / "mine.jsonl"
    put(values, "datasets.test", {"path": str(file)})
    for used, said in ((6, "found 0 images"), (7, "found 1 image"), (8, None)):
        # Images 2 to 6 are used before, those from 7 on are not.
        file.write_text("".join(json.dumps(row) + "\n" for row in rows[: used - 1]))
        told = problems(values)
        if said is None:
            assert told == []
            continue
        assert told == [told[0]], told
        assert told[0].startswith(
            f"ablation.report_on.target: {said} in data set 'test' ({file}) that no key uses"
        )
    put(values, "held_out", {"shared_images": "keep"})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:5]))
    assert problems(values) == []


# Data sets whose samples all have one text: (key that reads it, data set).
ALIKE = [
    ("dictionaries.base.dataset", "text"),
    ("dictionaries.null_text.dataset", "more_text"),
    ("evaluation.0.dataset", "general_test"),
    ("diff.text_datasets", "own"),
]


@pytest.mark.parametrize(("key", "dataset"), ALIKE)
def test_what_is_read_without_images_has_different_texts(values, tmp_path, key, dataset):
    same = {"prompt": "what is this ?"}
    write = question if dataset == "general_test" else document
    write_samples(tmp_path / dataset, [write(i) | same for i in range(SAMPLES)])
    if key == "diff.text_datasets":
        put(values, "datasets.own", {"path": str(tmp_path / "own")})
        put(values, key, ["own"])
    elif key.startswith("evaluation"):
        values["evaluation"][0]["dataset"] = dataset
    told = problems(values)
    assert len(told) == 1, told
    assert told[0].startswith(
        f"{key}: found data set '{dataset}' ({tmp_path}/{dataset}/samples.jsonl), whose "
    )
    assert "samples have one text, 'what is this ?', expected different ones" in told[0]


def test_one_question_about_many_photos_is_no_text_alone(values, tmp_path):
    write_samples(tmp_path / "train", [question(i) | {"prompt": "what is this ?"} for i in range(SAMPLES)])
    assert problems(values) == []


@pytest.mark.parametrize(("one", "other"), [(1, 1), (2, 5), (30, 400)])
def test_ways_are_counted(one, other):
    assert log_ways(one, other) == pytest.approx(log(comb(one + other, one)), rel=1e-12)


def test_a_dry_run_tells_it_with_the_line_of_the_config(values, tmp_path):
    shown(tmp_path / "rank", {"left of": names(0), "above": names(0), "colour": names(1, 2)})
    (tmp_path / "corpus.txt").write_text("a line of as many words as a document needs\n" * 30)
    values["world"] = {}
    put(values, "datasets.corpus", {"kind": "text", "source": str(tmp_path / "corpus.txt"), "samples": 20})
    put(values, "dictionaries.null_text.dataset", "corpus")
    put(values, "ablation.rank_on.control", {"dataset": "general_val", "groups": ["colours"]})
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    lines = file.read_text().splitlines()
    with DryRuns(ROOT) as runs, pytest.raises(DryRunError) as error:
        runs.plan("--configfile", str(file))
    told = [line.strip() for line in str(error.value).splitlines()]
    for start, last_key in (
        ("concepts.space.target: found 1 image in data set 'rank'", "target:"),
        ("datasets.corpus: found 30 documents of at least 8 words in", "corpus:"),
        ("ablation.rank_on.control.groups: found 'colours', but data set 'general_val'", "groups:"),
    ):
        (line,) = (one for one in told if one.startswith(start))
        number = int(line.removesuffix(")").rpartition("line ")[2])
        assert str(file) in line and lines[number - 1].strip().startswith(last_key), line
