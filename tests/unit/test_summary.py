"""The summary's words follow the numbers: a strong effect, none, nothing at all."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import synthetic_tables as tables

from vlmdiff.summary.causal import Headline
from vlmdiff.summary.markdown import change, escape
from vlmdiff.summary.models import describe_models
from vlmdiff.summary.write import Names, pattern, read_seeds, seed_of, write_summary
from vlmdiff.tables import causal, features, models
from vlmdiff.tables.io import write_table

DATA = (tables.TARGET, tables.CONTROL)
CHECKPOINTS = {name: name for name in ("base_lm", "vlm_25", "vlm_50", "vlm_75", "vlm")}
HEADLINE = Headline(
    "spatial", "own_layer", 10, "margin", ("spatial",), ("own_layer", "all_layers"), (3, 5, 10), 1
)
NAMES = Names("world", "vlm", "adapted", "calibrated", HEADLINE, DATA, DATA, checkpoints=CHECKPOINTS)
MAKERS = {
    "metrics": (tables.dictionary_metrics, models.DICTIONARY_METRICS),
    "thresholds": (tables.thresholds, features.THRESHOLDS),
    "funnel": (tables.funnel, features.FUNNEL),
    "ablation": (tables.ablation, causal.ABLATION),
    "scores": (tables.head_scores, causal.HEAD_SCORES),
    "agreement": (tables.head_agreement, causal.HEAD_AGREEMENT),
    "head_ablation": (tables.head_ablation, causal.HEAD_ABLATION),
    "accuracy": (tables.accuracy, models.ACCURACY),
}


def summarise(story: tables.Story, folder: Path, rows: int | None = None, names: Names = NAMES) -> str:
    """Write the story's tables (or their first rows) and return the summary."""
    files = {}
    for name, (make, schema) in MAKERS.items():
        files[name] = [folder / "seed_0" / f"{name}.csv"]
        write_table(make(story).iloc[:rows], schema, files[name][0])
    write_summary(**files, output=folder / "summary.md", names=names)
    return (folder / "summary.md").read_text()


def chapter(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_a_strong_effect_is_called_specific_and_nothing_is_weak(tmp_path: Path):
    text = summarise(tables.STRONG, tmp_path)
    found = chapter(text, "Causal effect of the features")
    sets = [line for line in found.splitlines() if line.startswith("| spatial, top ") and "layer" in line]
    # Of five further sets, each beside 20 pools, none can survive the correction.
    assert len(sets) == 6 and "(headline)" in sets[0] and "| **yes** |" in sets[0]
    assert all("| not testable: 20 pools |" in line for line in sets[1:])
    assert "**Headline**, fixed in the config" in found and ": specific." in found
    assert "above chance" in chapter(text, "Models") and "**" not in chapter(text, "Models")
    assert "they agree" in chapter(text, "Heads")
    open_ones = [line for line in chapter(text, "Not tested").splitlines() if "after correction" in line]
    assert len(open_ones) == 5 and all("for 5 sets; 99 could" in line for line in open_ones)


def test_no_effect_is_called_so_and_every_failure_is_listed(tmp_path: Path):
    text = summarise(tables.NONE, tmp_path)
    sets = [line for line in text.splitlines() if line.startswith("| spatial, top ") and "layer" in line]
    assert len(sets) == 6 and "| **no**: " in sets[0]
    # Of the others nothing can be told by 20 pools, neither a success nor a failure.
    assert all("| not testable: 20 pools |" in line for line in sets[1:])
    assert "**no specific effect is shown**" in chapter(text, "What was found")
    weak = chapter(text, "Weak or negative results")
    for words in (
        "not above chance",
        "its images do not help",
        "not more than drift",
        "not specific",
        "Spearman 0.1 [-0.1, 0.14], below 0.7",
    ):
        assert f"**{words}**" in weak or words in weak
    met, tested = map(int, re.search(r"(\d+) of (\d+) claims", chapter(text, "What was found")).groups())
    assert weak.count("\n- ") == tested - met


def test_the_head_tells_the_numbers_of_the_tables(tmp_path: Path):
    text = summarise(tables.STRONG, tmp_path)
    found = [line for line in chapter(text, "What was found").splitlines() if line]
    assert text.startswith("# Summary of experiment world\n\n## What was found") and len(found) == 5
    thresholds = tables.thresholds(tables.STRONG)
    row = next(thresholds.query("rule == 'calibrated' and layer < 0").itertuples())
    final = tables.final_features(tables.STRONG)
    assert found[0].startswith("- **Headline**: removing the 10 best features of spatial changes")
    assert "The model depends on them" in found[0]
    assert f"{row.visual:,} features that fire on images {row.adapted:,} are adapted" in found[2]
    assert f"pass every filter: spatial {len(final)}" in found[3]


def test_the_summary_of_one_seed_is_short(tmp_path: Path):
    lines = summarise(tables.NONE, tmp_path).splitlines()
    assert len(lines) <= 200
    assert not any(first == second == "" for first, second in zip(lines, lines[1:]))
    sentences = [line for line in lines if line.startswith("- ") and line.count("Spearman") == 0]
    assert len(set(sentences)) == len(sentences), "nothing is said twice"


def test_without_final_features_the_summary_says_so(tmp_path: Path):
    text = summarise(tables.EMPTY, tmp_path)
    assert "no feature passes every filter: **nothing to intervene on**" in text
    weak = chapter(text, "Weak or negative results")
    assert "too few features in seed 0" in weak and "No feature was traced to heads" in weak


def test_tables_without_rows_do_not_crash(tmp_path: Path):
    text = summarise(tables.STRONG, tmp_path, rows=0)
    weak = chapter(text, "Weak or negative results")
    for words in (
        "vlm was not asked the questions of", "No dictionary was evaluated", "too few features in seed 0",
    ):  # fmt: skip
        assert words in weak


def claims_of(accuracy: pd.DataFrame, model: str = "vlm") -> tuple[list[str], list[str]]:
    """Return the sentences of the chapter Models, and what failed."""
    section = describe_models(accuracy, model, list(DATA))
    return [line[2:] for line in section.lines if line.startswith("- ")], section.failed


def answers(condition: str, correct: int, **counts: int) -> dict:
    low, high = proportion_confint(correct, 200, method="wilson")
    row = {"model": "mine", "condition": condition, "dataset": DATA[0], "group": "all", "n": 200}
    row |= {"correct": correct, "accuracy": correct / 200, "ci_low": low, "ci_high": high, "chance": 0.5}
    return row | {"guess": 0.5} | counts


def frame_of(*rows: dict) -> pd.DataFrame:
    blank = models.ACCURACY.empty_table().to_pandas()
    return pd.concat([blank, pd.DataFrame(rows)], ignore_index=True).astype(
        {"image_only": "Int64", "condition_only": "Int64"}
    )


@pytest.mark.parametrize("blind", [{"chance": 0.505}, {"guess": 0.505}])
@pytest.mark.parametrize(("correct", "holds"), [(115, True), (114, False), (100, False)])
def test_a_model_that_is_not_above_chance_makes_ablation_meaningless(correct, holds, blind):
    """The Wilson interval of 115 of 200 begins at 50.57 %, that of 114 at 50.07 %, and chance is 50.5 %."""
    row = answers("image", correct) | blind
    said, failed = claims_of(frame_of(row), "mine")
    assert f"{correct / 2:.1f} [" in said[0]
    assert any("not above chance" in line for line in failed) is not holds
    assert holds or "**not above chance**: ablation has nothing to take away." in said[0]


def test_images_help_by_the_questions_that_change():
    """Exact one-sided binomial tails by hand: 8 of 9 gives 10 / 512, 7 of 9 gives 46 / 512."""
    rows = [
        answers("image", 180),
        answers("no_image", 173, image_only=8, condition_only=1),
        answers("shuffled_image", 175, image_only=7, condition_only=2),
    ]
    said, failed = claims_of(frame_of(*rows), "mine")
    assert len(said) == 3 and "nobody knows" in said[2]
    without, others = said[1].split("; ")[1:]
    assert said[1].startswith(f"mine on {escape(DATA[0])}, with its images 90.0 %; without any 86.5 %: ")
    assert without.endswith("8 questions answered only with them, 1 only so (McNemar's exact p = 0.0195)")
    assert others.startswith("with those of other samples 87.5 %: 7 questions")
    assert others.endswith("exact p = 0.0898): **its images do not help**.")
    assert [line for line in failed if "images" in line and "mine on" in line] == [
        f"mine on {escape(DATA[0])}, with its images 90.0 %, without any 86.5 %, with those of other samples "
        "87.5 %: **its images do not help**."
    ]
    both = [*rows[:2], answers("shuffled_image", 173, image_only=8, condition_only=1)]
    assert claims_of(frame_of(*both), "mine")[0][1].endswith("exact p = 0.0195): its images help.")


def test_nothing_that_changes_is_no_help_and_what_was_not_asked_is_said():
    said, failed = claims_of(
        frame_of(answers("image", 150), answers("no_image", 150, image_only=0, condition_only=0)), "mine"
    )
    assert said[1].endswith("it could not be asked with those of other samples.")
    assert "exact p = 1): **its images do not help**." in said[2]
    assert f"mine was not asked the questions of {escape(DATA[1])}: nobody knows what it answers." in failed
    blind, _ = claims_of(frame_of(answers("no_image", 150)), "mine")
    assert blind[0].startswith("mine on ") and "above chance" in blind[0]
    assert blind[1].endswith("it was shown no images.")


def test_the_model_under_study_is_what_was_asked_and_not_a_checkpoint_of_its_name(tmp_path: Path):
    """The user's `vlm` answers 98 % of 600 questions; the world's `vlm` answered 99 % of 1,200."""
    own = tables.accuracy(replace(tables.STRONG, accuracy=0.98)).query("model == 'vlm'")
    write_table(own.assign(n=600), models.ACCURACY, tmp_path / "asked.csv")
    write_table(tables.accuracy(tables.STRONG), models.ACCURACY, tmp_path / "world.csv")
    names = replace(NAMES, checkpoints={"base_lm": "base_lm", "vlm": "vlm", "early": "vlm_25"})
    write_summary(tmp_path / "s.md", names, accuracy=[tmp_path / "world.csv"], asked=[tmp_path / "asked.csv"])
    text = (tmp_path / "s.md").read_text()
    found = chapter(text, "Models")
    assert all(f"- vlm on {escape(name)}: 98.0 [" in found and "of 600 questions" in found for name in DATA)
    assert "99.0" not in found and "asked.csv" in found
    # An early stage and a model that sees nothing are listed, and no claim is made on them.
    header = next(line for line in found.splitlines() if line.startswith("| data |"))
    columns = ("vlm", "vlm, no image", "vlm, another sample's image", "base\\_lm, no image", "early")
    assert header == f"| data | group | chance | commonest answers | {' | '.join(columns)} |"
    assert "- early" not in found and "- base" not in found
    head = chapter(text, "What was found")
    target = escape(DATA[0])
    assert (
        f"- With its images vlm answers 98.0 % of {target} (50.0 % without any, 50.0 % with those of" in head
    )


def test_a_model_that_nothing_measured_is_said_to_be_so(tmp_path: Path):
    text = summarise(tables.EMPTY, tmp_path, names=replace(NAMES, model="mine", checkpoints={}), rows=0)
    assert chapter(text, "Models").count("- mine was not asked the questions of ") == 2
    assert "answers" not in chapter(text, "What was found")


def test_markup_in_names_stays_text(tmp_path: Path):
    hostile = "a|b<script>\n# *x* [y](z) `c` $m$"
    headline = replace(HEADLINE, concept=hostile, concepts=(hostile,))
    names = Names(hostile, "vlm", "adapted", "calibrated", headline, DATA, DATA)
    text = summarise(tables.STRONG, tmp_path, names=names)
    assert "<script>" not in text and "\n# *x*" not in text and r"a\|b\<script\>" in text


@given(st.text(max_size=40))
def test_escaped_text_is_one_line_that_reads_back(text: str):
    line = escape(text)
    assert len(line.splitlines()) <= 1
    assert not any(character in "`*_<>|#[]$" and line[i - 1 : i] != "\\" for i, character in enumerate(line))


def test_changes_have_sensible_digits():
    assert [change(value, "accuracy") for value in (-0.1234, 0.0001, -0.0001)] == ["-12.3", "0.0", "0.0"]
    assert change(-1.234, "margin") == "-1.23" and change(float("nan"), "margin") == "n/a"


def test_files_are_named_by_what_they_share():
    paths = [f"results/w/features/main/seed_0/{name}/funnel.csv" for name in ("a", "b")]
    assert pattern(paths) == "results/w/features/main/seed_0/*/funnel.csv"
    assert pattern(paths[:1]) == paths[0] and pattern([]) == "no file"


def test_a_path_without_seed_is_refused():
    assert seed_of("results/seed_3/a/x.csv") == 3
    with pytest.raises(ValueError, match="seed_<number>"):
        seed_of("results/x.csv")


def test_seeds_are_told_apart(tmp_path: Path):
    paths = [tmp_path / f"seed_{seed}" / "scores.csv" for seed in (0, 1)]
    for path in paths:
        write_table(tables.head_scores(tables.STRONG), causal.HEAD_SCORES, path)
    assert read_seeds(paths, causal.HEAD_SCORES).groupby("seed").size().tolist() == [16, 16]
