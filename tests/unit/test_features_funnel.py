"""Counting stages and listing what passes them all."""

from __future__ import annotations

import numpy as np
import pytest
from feature_tables import write_decisions

from vlmdiff.features.funnel import STAGES, select_features
from vlmdiff.tables.features import CONTRAST_CHECK, FINAL_FEATURES, FUNNEL
from vlmdiff.tables.io import read_table

EPS, FDR = 0.01, 0.001
# (layer, feature): visual energy, adapted, selected per token, per sample, invariant, log of adjusted p.
# Energies lie on both sides of eps and on it; rotation alone keeps (0, 1) back, the token contrast (0, 2).
FEATURES = {
    (0, 0): (0.005, False, True, True, None, -9),
    (0, 1): (0.011, False, True, False, True, -8),
    (0, 2): (1.0, True, False, True, True, -4),
    (2, 0): (0.3, True, True, True, True, -20),
    (2, 1): (1.0, True, True, True, True, -2000),
    (2, 2): (0.02, True, True, False, False, -70),
    (2, 3): (0.01, False, None, None, None, 0),
    (2, 4): (0.5, True, True, False, True, -20),
}
# What the null's text never fired.
UNCALIBRATED = {(0, 1), (2, 1), (2, 2), (2, 3)}
# p that are not adjusted are smaller by this factor (logarithm).
TESTS = 4.0


def run(tmp_path, unit="token", features=FEATURES):
    adapted, contrast, lexical = [], [], []
    for (layer, feature), (energy, is_adapted, token, sample, invariant, log_p) in features.items():
        key = {"layer": layer, "feature": feature}
        row = {"visual_energy": energy, "adapted": is_adapted, "seed": 5, "cos_decoder": 0.5}
        adapted.append({**key, **row, "calibrated": (layer, feature) not in UNCALIBRATED})
        for name, selected in (("token", token), ("sample", sample)):
            if selected is not None:
                adjusted = log_p / (1 + (name == "sample"))
                row = {"unit": name, "selected": selected, "log_p_adjusted": adjusted}
                row |= {"log_p": adjusted - TESTS, "log_p_clustered": adjusted / 2 - TESTS}
                row |= {"log_p_clustered_adjusted": adjusted / 2, "design_effect": float(-log_p)}
                row |= {"selected_clustered": selected and log_p <= -30, "freq_difference": 0.1 * feature}
                contrast.append({**key, **row, "odds_ratio": 4.0 + (name == "sample")})
        if invariant is not None:
            lexical.append({**key, "invariant": invariant, "activation_neutral": 0.25})
    tables = write_decisions(tmp_path, adapted, contrast, lexical)
    outputs = tuple(tmp_path / name for name in ("funnel.csv", "final_features.csv", "contrast_check.csv"))
    select_features("space", 5, unit, EPS, FDR, tables, outputs)
    return read_table(outputs[0], FUNNEL), read_table(outputs[1], FINAL_FEATURES)


def counts(funnel, layer, column="features"):
    rows = funnel[funnel["layer"] == layer]
    assert list(rows["stage"]) == list(STAGES)
    return list(rows[column])


def test_funnel_counts(tmp_path):
    funnel, _ = run(tmp_path)
    assert counts(funnel, 0) == [3, 2, 1, 2, 0, 0]
    assert counts(funnel, 2) == [5, 4, 4, 4, 4, 3]
    assert counts(funnel, -1) == [8, 6, 5, 6, 4, 3]
    assert counts(funnel, 0, "uncalibrated") == [1, 1, 0, 1, 0, 0]
    assert counts(funnel, 2, "uncalibrated") == [3, 2, 2, 2, 2, 1]
    assert counts(funnel, -1, "uncalibrated") == [4, 3, 2, 3, 2, 1]
    assert set(funnel["concept"]) == {"space"}
    assert set(funnel["seed"]) == {5}


def test_the_two_tests_are_compared(tmp_path):
    run(tmp_path)
    found = read_table(tmp_path / "contrast_check.csv", CONTRAST_CHECK).set_index("unit").loc["token"]
    assert (found["tested"], found["selected"], found["selected_clustered"]) == (7, 6, 2)
    # The limit is log 0.001 = -6.9. Of -9, -8, -4, -20, -2000, -70, -20 six are below it; halved, four are.
    assert (found["significant"], found["significant_clustered"]) == (6, 4)
    assert (found["final"], found["final_clustered"]) == (3, 1)
    # Of the selected: 8, 9, 20, 20, 70, 2000.
    assert found["median_design_effect"] == 20.0
    assert found["median_log10_overstatement"] == pytest.approx(10 / np.log(10))


def test_the_unit_decides(tmp_path):
    funnel, _ = run(tmp_path, unit="sample")
    assert counts(funnel, -1) == [8, 6, 5, 4, 3, 3]


def test_final_features_strongest_first(tmp_path):
    _, final = run(tmp_path)
    # Of equal p the larger difference of frequencies comes first.
    assert list(final["name"]) == ["L2F1", "L2F4", "L2F0"]
    assert list(final["calibrated"]) == [False, True, True]
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
    assert counts(funnel, -1) == [8, 0, 0, 0, 0, 0]
