"""The summary's words follow the numbers: a strong effect, none, nothing at all."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import synthetic_tables as tables

from vlmdiff.summary.criteria import Comparison, Effect, at_chance
from vlmdiff.summary.text import change, escape
from vlmdiff.summary.write import Names, pattern, read_seeds, seed_of, write_summary
from vlmdiff.tables import causal, features, models
from vlmdiff.tables.io import write_table

DATA = (tables.TARGET, tables.CONTROL)
CHECKPOINTS = {name: name for name in ("base_lm", "vlm_25", "vlm_50", "vlm_75", "vlm")}
NAMES = Names("world", "vlm", "adapted", "calibrated", ("spatial",), DATA, DATA, checkpoints=CHECKPOINTS)
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
    sets = [line for line in found.splitlines() if line.startswith("| top ")]
    assert len(sets) == 6 and all("| **yes** | **" in line for line in sets)
    assert any(line.startswith("| top 5, ") and "| -21.0 [-23.5, -19.5] |" in line for line in sets)
    assert "reaches the goal" in chapter(text, "Models") and "not at chance" not in text
    assert "they agree" in chapter(text, "Heads")
    assert "None: every claim above" in chapter(text, "Weak or negative results")


def test_no_effect_is_called_so_and_every_failure_is_listed(tmp_path: Path):
    text = summarise(tables.NONE, tmp_path)
    sets = [line for line in text.splitlines() if line.startswith("| top ")]
    assert len(sets) == 6 and all("| **no**: " in line for line in sets)
    assert "This is not specific" in chapter(text, "What was found")
    weak = chapter(text, "Weak or negative results")
    for words in (
        "misses",
        "not at chance",
        "not separated",
        "not specific",
        "Spearman 0.1 [-0.1, 0.14], below 0.7",
    ):
        assert f"**{words}**" in weak or words in weak
    counts = re.findall(r"(\d+) of (\d+)[,.]", chapter(text, "What was found").rpartition("criterion:")[2])
    assert len(counts) == 7
    assert weak.count("\n- ") == sum(int(tested) - int(met) for met, tested in counts)


def test_the_head_tells_the_numbers_of_the_tables(tmp_path: Path):
    found = chapter(summarise(tables.STRONG, tmp_path), "What was found")
    row = next(tables.thresholds(tables.STRONG).query("rule == 'calibrated'").itertuples())
    final = tables.final_features(tables.STRONG)
    assert f"Of {row.features} features {row.adapted} are adapted" in found
    assert f"would give {row.null_adapted})" in found and f"spatial {len(final)}." in found
    assert "Clearest effect of ablating a set of features, spatial, top" in found
    assert "specific by accuracy and margin" in found
    best = tables.head_scores(tables.STRONG).sort_values("rank")["name"].head(3)
    assert f"Attribution names the heads {', '.join(best)} first" in found


def test_the_summary_of_one_seed_is_short(tmp_path: Path):
    lines = summarise(tables.NONE, tmp_path).splitlines()
    assert len(lines) <= 180
    assert not any(first == second == "" for first, second in zip(lines, lines[1:]))
    sentences = [line for line in lines if line.startswith("- ") and line.count("Spearman") == 0]
    assert len(set(sentences)) == len(sentences), "nothing is said twice"


def test_without_final_features_the_summary_says_so(tmp_path: Path):
    text = summarise(tables.EMPTY, tmp_path)
    assert "no feature passes every filter: **nothing to intervene on**" in text
    weak = chapter(text, "Weak or negative results")
    assert "nothing was ablated" in weak and "No feature was traced to heads" in weak


def test_tables_without_rows_do_not_crash(tmp_path: Path):
    text = summarise(tables.STRONG, tmp_path, rows=0)
    weak = chapter(text, "Weak or negative results")
    for words in ("vlm was not evaluated on", "No dictionary was evaluated", "nothing was ablated"):
        assert words in weak


def test_a_model_of_ones_own_gets_no_accuracy_of_a_checkpoint_that_bears_its_name(tmp_path: Path):
    """The user's `vlm` answers 98 % of 600 clean questions; the world's `vlm` answered 99 % of 1,200."""
    own = replace(NAMES, checkpoints={"base_lm": "base_lm"})
    text = summarise(tables.STRONG, tmp_path, names=own)
    low, high = proportion_confint(588, 600, method="wilson")
    found = chapter(text, "Models")
    target, control = DATA
    for dataset in DATA:
        assert f"- vlm on {escape(dataset)}: 98.0 [{100 * low:.1f}, {100 * high:.1f}] % (" in found
    assert "99.0" not in found and "vlm, no image" not in found and "vlm\\_25" not in found
    assert f"Control base\\_lm, no image on {escape(target)}" in found
    assert "asked by the interventions" in found and "ablation.csv" in found
    head = chapter(text, "What was found")
    assert f"- vlm answers 98.0 % of {escape(target)} and 98.0 % of {escape(control)}." in head


def test_a_checkpoint_is_found_under_the_name_that_the_config_gives_it(tmp_path: Path):
    names = replace(NAMES, model="mine", checkpoints={"mine": "vlm", "vlm": "vlm_25", "blind": "base_lm"})
    found = chapter(summarise(tables.STRONG, tmp_path, names=names), "Models")
    assert "- mine on " in found and "99.0 [" in found
    assert "Control mine, no image on" in found and "Control blind, no image on" in found
    # An early stage is listed, and no claim is made on it.
    header = next(line for line in found.splitlines() if line.startswith("| data |"))
    assert (
        header
        == "| data | group | chance | blind, no image | mine | mine, no image | mine, shuffled image | vlm |"
    )
    assert "- vlm on" not in found and "Control vlm" not in found


def test_a_model_that_nothing_measured_is_said_to_be_so(tmp_path: Path):
    text = summarise(tables.EMPTY, tmp_path, names=replace(NAMES, model="mine", checkpoints={}), rows=0)
    assert chapter(text, "Models").count("- mine was not evaluated on ") == 2
    assert "answers" not in chapter(text, "What was found")


def test_a_hurt_control_or_equal_random_draws_are_not_specific():
    random = tuple(-0.01 * i for i in range(20))
    good = Comparison(Effect(-0.3, -0.35, -0.25), Effect(-0.01, -0.03, 0.01), random, random)
    assert good.failures() == [] and good.p_random == pytest.approx(1 / 21)
    control = Comparison(good.target, Effect(-0.2, -0.24, -0.16), random, random)
    assert control.failures() == ["control not spared"]
    matched = Comparison(good.target, good.control, (*random[:-1], -0.31), random)
    assert len(matched.failures()) == 1 and "p = 0.10" in matched.failures()[0]
    rise = Comparison(Effect(0.1, 0.05, 0.15), good.control, random, random)
    assert rise.failures() == ["target does not fall"]
    wide = Comparison(good.target, Effect(-0.05, -0.30, 0.20), random, random)
    assert wide.failures() == ["intervals of target and control overlap"]
    unknown = Comparison(Effect(float("nan"), float("nan"), float("nan")), good.control, random, random)
    assert unknown.failures()


def test_no_random_draws_prove_nothing():
    effect = Comparison(Effect(-0.3, -0.35, -0.25), Effect(0.0, -0.01, 0.01), (), ())
    assert effect.p_random == 1 and effect.failures()


def test_chance_has_a_band():
    assert at_chance(0.54, 0.5) and at_chance(0.46, 0.5) and not at_chance(0.56, 0.5)


def test_markup_in_names_stays_text(tmp_path: Path):
    hostile = "a|b<script>\n# *x* [y](z) `c` $m$"
    names = Names(hostile, "vlm", "adapted", "calibrated", (hostile,), DATA, DATA)
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
