"""Counting stages and listing what passes them all."""

from __future__ import annotations

import numpy as np
import pytest
from feature_tables import write_decisions

from vlmdiff.features.funnel import STAGES, select_features
from vlmdiff.tables.features import CONTRAST_CHECK, FINAL_FEATURES, FUNNEL
from vlmdiff.tables.io import read_table

# (layer, feature): visual energy, adapted, selected per token, per sample, invariant, log p.
FEATURES = {
    (0, 0): (0.0, False, True, True, None, -9),
    (0, 1): (1.0, False, True, False, None, -8),
    (0, 2): (1.0, True, False, True, None, -1),
    (2, 0): (1.0, True, True, True, True, -30),
    (2, 1): (1.0, True, True, True, True, -2000),
    (2, 2): (1.0, True, True, False, False, -70),
    (2, 3): (1.0, False, None, None, None, 0),
}


def run(tmp_path, unit="token", features=FEATURES):
    adapted, contrast, lexical = [], [], []
    for (layer, feature), (energy, is_adapted, token, sample, invariant, log_p) in features.items():
        key = {"layer": layer, "feature": feature}
        adapted.append({**key, "visual_energy": energy, "adapted": is_adapted, "seed": 5, "cos_decoder": 0.5})
        for name, selected in (("token", token), ("sample", sample)):
            if selected is not None:
                row = {"unit": name, "selected": selected, "log_p_adjusted": log_p / (1 + (name == "sample"))}
                row |= {"log_p": log_p, "log_p_clustered": log_p / 2, "log_p_clustered_adjusted": log_p / 2}
                row |= {"selected_clustered": selected and log_p <= -30, "design_effect": 2.0}
                contrast.append({**key, **row, "odds_ratio": 4.0 + (name == "sample")})
        if invariant is not None:
            lexical.append({**key, "invariant": invariant, "activation_neutral": 0.25})
    tables = write_decisions(tmp_path, adapted, contrast, lexical)
    outputs = tuple(tmp_path / name for name in ("funnel.csv", "final_features.csv", "contrast_check.csv"))
    select_features("space", 5, unit, 0.01, 0.05, tables, outputs)
    return read_table(outputs[0], FUNNEL), read_table(outputs[1], FINAL_FEATURES)


def counts(funnel, layer):
    rows = funnel[funnel["layer"] == layer]
    assert list(rows["stage"]) == list(STAGES)
    return list(rows["features"])


def test_funnel_counts(tmp_path):
    funnel, _ = run(tmp_path)
    assert counts(funnel, 0) == [3, 2, 1, 2, 0, 0]
    assert counts(funnel, 2) == [4, 4, 3, 3, 3, 2]
    assert counts(funnel, -1) == [7, 6, 4, 5, 3, 2]
    assert set(funnel["concept"]) == {"space"}
    assert set(funnel["seed"]) == {5}


def test_the_two_tests_are_compared(tmp_path):
    run(tmp_path)
    found = read_table(tmp_path / "contrast_check.csv", CONTRAST_CHECK).set_index("unit").loc["token"]
    assert (found["tested"], found["selected"], found["selected_clustered"]) == (6, 5, 3)
    # log p of -9 and -8 stay below log 0.05 when they are halved.
    assert (found["significant"], found["significant_clustered"]) == (5, 5)
    assert (found["final"], found["final_clustered"]) == (2, 2)
    assert found["median_design_effect"] == 2.0
    assert found["median_log10_overstatement"] == pytest.approx(15 / np.log(10))


def test_the_unit_decides(tmp_path):
    funnel, _ = run(tmp_path, unit="sample")
    assert counts(funnel, -1) == [7, 6, 4, 4, 3, 2]


def test_final_features_strongest_first(tmp_path):
    _, final = run(tmp_path)
    assert list(final["name"]) == ["L2F1", "L2F0"]
    first = final.iloc[0]
    assert first["log_p_adjusted"] == -2000
    assert first["sample_log_p_adjusted"] == -1000
    assert (first["odds_ratio"], first["sample_odds_ratio"]) == (4, 5)
    assert first["activation_neutral"] == pytest.approx(0.25)
    assert not final.isna().any().any()


def test_nothing_left_gives_empty_tables(tmp_path):
    none = dict.fromkeys(FEATURES, (0.0, False, None, None, None, 0))
    funnel, final = run(tmp_path, features=none)
    assert final.empty
    assert counts(funnel, -1) == [7, 0, 0, 0, 0, 0]
