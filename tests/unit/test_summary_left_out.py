"""The summary of an experiment without some of its stages: one line each, no claims, no crash."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import synthetic_confidence as confidence
import synthetic_tables as tables
from test_summary import MAKERS, NAMES, chapter

from vlmdiff.figures.confidence import comparisons
from vlmdiff.figures.gallery_table import best_features
from vlmdiff.summary.comparisons import effects
from vlmdiff.summary.write import write_comparisons, write_summary
from vlmdiff.tables import causal, features
from vlmdiff.tables.io import write_table

# Tables that a stage makes, and the chapter that it fills.
TABLES = {
    "evaluation": (("metrics",), "Dictionaries"),
    "ablation": (("ablation", "accuracy"), "Causal effect of the features"),
    "heads": (("scores", "agreement", "head_ablation"), "Heads"),
}
CONTRASTS = {
    "spatial": {"by": "counts", "unit": "token", "fdr": 0.05, "lexical": True},
    "truth": {"by": "counts", "unit": "token", "fdr": 0.05, "lexical": False},
}
WHOLE = replace(NAMES, contrasts=CONTRASTS)
CLAIMS = re.compile(r"(\d+) of (\d+) claims below met criteria")


def names_without(*keys: str):
    """Return what the configuration calls things if it leaves some stages out."""
    names = replace(WHOLE, omitted=keys)
    if "ablation" in keys:
        names = replace(names, headline=None, ablation_data=[])
    if "heads" in keys:
        names = replace(names, heads_data=[])
    return names


def summarise(folder: Path, *keys: str, story: tables.Story = tables.STRONG) -> str:
    """Write the summary of a story without the tables of some stages."""
    gone = {name for key in keys for name in TABLES.get(key, ((), ""))[0]}
    files = {}
    for name in MAKERS.keys() - gone:
        make, schema = MAKERS[name]
        files[name] = [folder / "seed_0" / f"{name}.csv"]
        write_table(make(story), schema, files[name][0])
    write_summary(folder / "summary.md", names_without(*keys), **files)
    return (folder / "summary.md").read_text()


def test_a_whole_experiment_leaves_nothing_out(tmp_path: Path):
    text = summarise(tmp_path)
    assert "Left out" not in text
    assert text.count("does the model's behaviour depend on them, and which attention heads write them?") == 1


@pytest.mark.parametrize(
    "keys",
    [("heads",), ("evaluation",), ("heads", "ablation"), ("evaluation", "lexical", "ablation", "heads")],
)
@pytest.mark.parametrize(
    "story",
    [
        pytest.param(tables.STRONG, id="strong"),
        pytest.param(tables.NONE, id="none", marks=pytest.mark.long),
    ],
)
def test_a_stage_that_is_left_out_is_one_line_without_claims(tmp_path: Path, keys, story):
    whole, text = summarise(tmp_path / "whole", story=story), summarise(tmp_path / "part", *keys, story=story)
    (head,) = [line for line in text.splitlines() if "Left out by the configuration" in line]
    assert re.findall(r"`(\w+)`", head) == list(keys)
    for key in keys:
        if key in TABLES:
            lines = [line for line in chapter(text, TABLES[key][1]).splitlines() if line]
            assert len(lines) == 1 and lines[0].startswith(f"Left out (`{key}: none`): ")
    for key in TABLES.keys() - set(keys):
        title = TABLES[key][1]
        assert chapter(text, title) == chapter(whole, title).replace("/whole/", "/part/")
    (met, tested), (met_whole, tested_whole) = (
        map(int, CLAIMS.search(one).groups()) for one in (text, whole)
    )
    assert tested < tested_whole and met <= met_whole
    failed, failed_whole = (
        {line for line in chapter(one, "Weak or negative results").splitlines() if line.startswith("- ")}
        for one in (text, whole)
    )
    assert failed <= failed_whole and len(failed) == tested - met


def test_what_is_asked_follows_what_is_made(tmp_path: Path):
    asked = {
        ("heads",): "encode a concept seen in the image, and does the model's behaviour depend on them?",
        ("ablation", "heads"): "Which of its internal features changed, and which of the changed ones encode "
        "a concept seen in the image?",
    }
    for keys, words in asked.items():
        found = chapter(summarise(tmp_path, *keys), "What was asked")
        assert found.strip().endswith(words)


def test_without_ablation_there_is_no_headline_and_nobody_was_asked(tmp_path: Path):
    text = summarise(tmp_path, "ablation", "heads")
    assert "Headline" not in text
    found = chapter(text, "Models")
    assert "The model was asked nothing: no stage names data to report on (`ablation: none`)." in found
    assert not re.search(r"^- ", found, re.MULTILINE)


def test_steering_that_is_left_out_is_said_among_what_makes_sure(tmp_path: Path):
    (line,) = [
        one
        for one in chapter(summarise(tmp_path, "steering"), "How sure are we").splitlines()
        if "Steering" in one
    ]
    assert line == "- **Steering.** Left out (`steering: none`): nothing was steered."


def test_concepts_without_the_lexical_filter_are_named(tmp_path: Path):
    found = chapter(summarise(tmp_path), "Concepts")
    assert found.count("Without the lexical filter (`lexical: false`): truth.") == 1


def test_the_page_of_comparisons_without_ablation_has_no_effects(tmp_path: Path):
    table = confidence.comparisons(tables.STRONG)
    write_table(table, features.COMPARISONS, tmp_path / "table.csv")
    pages = {}
    for ablated in (True, False):
        page = tmp_path / f"{ablated}.md"
        write_comparisons([tmp_path / "table.csv"], [], {}, "controls", "world", page, ablated)
        pages[ablated] = page.read_text()
    assert "target, logits" in pages[True] and "Left out" not in pages[True]
    assert "logits" not in pages[False] and pages[False].count("Left out (`ablation: none`)") == 1
    # The claims are about what is found, which is known all the same.
    weak = "## Weak or negative results"
    assert pages[True].partition(weak)[2] == pages[False].partition(weak)[2] != ""
    columns = {line.count("|") for line in pages[False].splitlines() if line.startswith("|")}
    assert columns == {11}


def test_the_figure_of_comparisons_without_ablation_draws_what_is_found():
    table = confidence.comparisons(tables.STRONG)
    assert [len(comparisons(table, ablated).axes) for ablated in (True, False)] == [2, 1]


def test_effects_of_what_was_not_ablated_are_unknown():
    class Files:
        tables: dict[str, str] = {}

    found = effects(Files(), [])
    assert found.pop("size") == 0
    expected = {
        name for name in features.COMPARISONS.names if name.startswith(("target_", "control_", "random_"))
    }
    assert found.keys() == expected and all(pd.isna(value) for value in found.values())


def test_the_gallery_without_a_ranking_shows_the_first_final_features():
    final = pd.DataFrame({"layer": [3, 1, 3], "feature": [7, 2, 5]})
    none = causal.RANKING.empty_table().to_pandas()
    assert best_features(none, final, 2).to_numpy().tolist() == [[3, 7], [1, 2]]
