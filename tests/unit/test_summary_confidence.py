"""The section "How sure are we" says what its tables say, and lists what failed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import synthetic_confidence as confidence
import synthetic_tables as tables

from vlmdiff.summary.causal import Headline
from vlmdiff.summary.confidence import describe_confidence
from vlmdiff.summary.write import Names, write_comparisons
from vlmdiff.tables.features import COMPARISONS
from vlmdiff.tables.io import write_table
from vlmdiff.tables.models import ACCURACY

DATA = confidence.DATA
HEADLINE = Headline("spatial", "own_layer", 5, "margin", ("spatial",), ("own_layer",), (5,), 1)
NAMES = Names(
    "world", "vlm", "adapted", "calibrated", HEADLINE, DATA, DATA, DATA,
    contrasts={"spatial": {"by": "counts", "unit": "token", "fdr": 0.05}},
    selection={"sizes": confidence.SIZES, "rules": confidence.RULES_BY_COMPARISON},
)  # fmt: skip


def section_of(story: tables.Story, **changes):
    found = {"thresholds": tables.thresholds(story), "funnel": tables.funnel(story)}
    found |= {"untuned": tables.funnel(story).iloc[:0], **confidence.all_tables(story), **changes}
    return describe_confidence(found, NAMES)


def test_strong_findings_are_called_sure():
    section = section_of(tables.STRONG)
    text = "\n".join(section.lines)
    assert section.failed == []
    for words in (
        "more often than chance",
        "Second null",
        "50 of 50 final features are selected with samples as clusters too",
        "precision 80.0 %",
        "in 20 pools; p = 0.048: it helps",
        "2 strong, 1 moderate, 1 without",
        "Selection rules",
    ):
        assert words in text


def test_within_strata_nothing_is_claimed_of_independent_samples():
    """Images are clusters in the test that selects: a claim that it agrees with itself could not fail."""
    within = replace(NAMES, contrasts={"spatial": NAMES.contrasts["spatial"] | {"by": "text_matched"}})
    found = {"thresholds": tables.thresholds(tables.STRONG), "funnel": tables.funnel(tables.STRONG)}
    found |= {"untuned": tables.funnel(tables.STRONG).iloc[:0], **confidence.all_tables(tables.STRONG)}
    counted, matched = ("\n".join(describe_confidence(found, names).lines) for names in (NAMES, within))
    assert "samples as clusters" in counted and "samples as clusters" not in matched


def test_weak_findings_are_called_weak():
    section = section_of(tables.NONE)
    failed = "\n".join(section.failed)
    for words in (
        "**no more often than chance**",
        "60.0 % of final features need independent tokens",
        "**most final features tell something else best**",
        "**no gain**",
        "**not more than drift**",
    ):
        assert words in failed


def test_rules_without_any_set_are_said_to_give_none():
    empty = {name: frame.iloc[:0] for name, frame in confidence.all_tables(tables.STRONG).items()}
    section = section_of(tables.STRONG, **empty)
    rows = [line for line in section.lines if line.startswith("| ") and not line.startswith("| comparison")]
    assert len(rows) == 6 and all("| 0 | gives none | 0 | n/a |" in line for line in rows)


@pytest.mark.parametrize(("story", "failures"), [(tables.STRONG, 0), (tables.NONE, 1)])
def test_the_page_of_controls_judges_each(story, failures, tmp_path):
    path = tmp_path / "spatial.csv"
    answers = tmp_path / "accuracy.csv"
    write_table(confidence.comparisons(story), COMPARISONS, path)
    write_table(tables.accuracy(story), ACCURACY, answers)
    checkpoints = {"shuffled": "vlm_50"}
    write_comparisons([path], [answers], checkpoints, "controls", "world_*", tmp_path / "controls.md")
    text = (tmp_path / "controls.md").read_text()
    assert "What the control models answer" in text
    assert "| shuffled | image |" in text and "| vlm |" not in text
    assert "nothing to ablate" in text
    assert text.count("**not next to nothing**") == 4 * failures
    found = 70 if failures else 3
    assert f"never tuned: {found} final features, all of them false finds, 100 in the main" in text
    assert f"| never tuned: false finds | 0 | 900 | 400 | {5 * found} | 1.0 % | {2 * found} |" in text
    assert "| main | 0 | 900 | 400 | 500 | 1.0 % | 200 | 100 (25) |" in text
    assert "world\\_\\*" in text
    assert "spatial.csv`" in text


def test_other_targets_make_no_claim(tmp_path):
    path = tmp_path / "spatial.csv"
    write_table(confidence.comparisons(tables.NONE), COMPARISONS, path)
    write_comparisons([path], [], {}, "stages", "w", tmp_path / "stages.md")
    assert "next to nothing" not in (tmp_path / "stages.md").read_text()
