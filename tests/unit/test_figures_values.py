"""Numbers and places that figures are made of, against naive references."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import synthetic_tables as tables

from vlmdiff.figures.adapted import adapted_by_layer
from vlmdiff.figures.concepts import volcano_coordinates
from vlmdiff.figures.dictionaries import kinds, model_snapshots, training_dynamics
from vlmdiff.figures.effects import feature_categories
from vlmdiff.figures.gallery import Grid, attention_grid, percent
from vlmdiff.figures.gallery_table import best_features, load_tokenizer, locate_tokens, strongest
from vlmdiff.figures.heads import head_table
from vlmdiff.figures.prompts import wrapped
from vlmdiff.figures.values import of_models, read_some, sets_of_size, with_asked
from vlmdiff.models.errors import SubjectError
from vlmdiff.tables.features import FUNNEL


@given(st.text(alphabet="ab -\n$_", max_size=120), st.integers(8, 30))
def test_wrapped_lines_keep_their_place(text: str, width: int):
    plain = "".join(" " if character.isspace() else character for character in text)
    end = 0
    for start, line in wrapped(text, width):
        assert plain[start : start + len(line)] == line
        assert len(line) <= width
        assert start >= end and plain[end:start].strip() == ""
        end = start + len(line)
    assert plain[end:].strip() == ""


def test_a_lone_mark_stays_with_its_word():
    assert wrapped("the red square .", 14) == [(0, "the red"), (8, "square .")]


def test_pictures_fill_their_columns_but_not_more_than_a_page():
    short, long = Grid.of(5, 5, ["a word"]), Grid.of(5, 5, ["word " * 50])
    assert short.side_mm == pytest.approx(short.cell_mm) and long.side_mm < short.side_mm
    for grid in (short, long, Grid.of(1, 2, ["a word"])):
        assert grid.figure().get_size_inches()[1] * 25.4 <= 238.01 and grid.side_mm <= 36


def test_all_tokens_of_a_text_only_set_are_not_drawn_twice():
    one = pd.DataFrame({"tokens": ["all", "text", "all", "text"]})
    assert [part["tokens"].iloc[0] for part in kinds(one)] == ["text"]
    both = pd.DataFrame({"tokens": ["image", "text", "all"]})
    assert [part["tokens"].iloc[0] for part in kinds(both)] == ["all", "text", "image"]


def test_attention_that_misses_the_image_is_not_rounded_to_a_number():
    assert percent(0.1671) == "16.7 %" and percent(0.0002) == "< 0.1 %"


def test_bars_by_rule_and_layer_are_the_counts_of_the_threshold_table():
    table = tables.thresholds(tables.STRONG)
    bars = adapted_by_layer(table).axes[0].containers
    assert [one.get_label() for one in bars[:3]] == [
        "percentile rule", "paler: not calibrated", "null under the same rule",
    ]  # fmt: skip
    for rule, (known, apart, null) in (("percentile", bars[:3]), ("calibrated", bars[3:])):
        rows = table[(table["rule"] == rule) & (table["layer"] >= 0)].sort_values("layer")
        assert rows["adapted_uncalibrated"].all()
        heights = [[bar.get_height() for bar in one] for one in (known, apart, null)]
        assert heights[1] == list(rows["adapted_uncalibrated"])
        assert heights[0] == list(rows["adapted"] - rows["adapted_uncalibrated"])
        assert [bar.get_y() for bar in apart] == heights[0], "the one stands on the other"
        assert heights[2] == list(rows["null_adapted"])


def test_volcano_puts_infinite_ratios_at_the_edge_and_drops_undefined_ones():
    table = tables.contrast(tables.STRONG)
    rows = volcano_coordinates(table)
    assert np.isfinite(rows["x"]).all() and len(rows) == table["odds_ratio"].notna().sum()
    infinite = rows[np.isinf(rows["odds_ratio"])]
    assert (infinite["x"] > rows.drop(infinite.index)["x"].max()).all()
    finite = np.log2(table["odds_ratio"][np.isfinite(table["odds_ratio"]) & (table["odds_ratio"] > 0)])
    assert rows["x"].min() == pytest.approx(np.quantile(finite, 0.02)), "few low ratios do not set the axis"
    one = rows.iloc[0]
    assert 10 ** -one["y"] == pytest.approx(np.exp(one["log_p"]))


def test_snapshots_of_the_model_are_the_checkpoints_behind_the_names_of_the_config():
    """The config calls the world's `vlm_50` `early`, and something else `vlm_50`."""
    table = of_models(tables.accuracy(tables.STRONG), {"vlm": "vlm", "early": "vlm_50"})
    rows = model_snapshots(table, {"vlm": 100, "early": 50})
    whole = rows[(rows["group"] == "all") & (rows["dataset"] == tables.TARGET)]
    assert list(zip(whole["model"], whole["snapshot"])) == [("early", 50), ("vlm", 100)]
    assert list(whole["accuracy"]) == pytest.approx([0.5 + (0.99 - 0.5) * 50 / 100, 0.99])
    assert set(rows["condition"]) == {"image"}


def test_what_was_asked_stands_in_the_place_of_what_the_world_measured():
    world = pd.DataFrame([("m", "a", 1), ("m", "b", 2), ("other", "a", 3)], columns=["model", "dataset", "n"])
    asked = pd.DataFrame([("m", "a", 7), ("m", "c", 8)], columns=["model", "dataset", "n"])
    found = with_asked(world, asked)
    assert list(found.itertuples(index=False, name=None)) == [
        ("m", "a", 7), ("m", "c", 8), ("m", "b", 2), ("other", "a", 3)
    ]  # fmt: skip


def test_a_size_is_random_subsets_or_all_that_a_rule_gives():
    rows = [(20, 5, 0), (20, 5, 1), (20, 9, 1), (7, 5, 1), (7, 7, 0), (9, 9, 0), (7, 5, 0)]
    table = pd.DataFrame(rows, columns=["available", "size", "draw"])
    assert list(sets_of_size(table, 5).index) == [1, 3]
    assert list(sets_of_size(table, 9).index) == [2, 4, 5]


def test_random_sets_stand_beside_selected_sets_of_the_same_size():
    table = tables.ablation(tables.STRONG)
    table = table[(table["group"] == "all") & (table["scope"] == "own_layer")]
    categories = feature_categories(table)
    assert [item.label for item in categories][-4:] == ["best random", "top 3", "top 5", "top 10"]
    for item, size in zip(categories[-3:], (3, 5, 10)):
        assert set(item.random["size"]) == set(item.chosen["size"]) == {size}
        assert set(item.random["arm"]) == {"random"} and item.random["draw"].nunique() == 20


def test_heads_and_patches_land_in_their_cells():
    rows = pd.DataFrame({"layer": [0, 2], "head": [1, 0], "value": [3.0, 4.0]})
    table = head_table(rows, "value", (3, 2))
    assert table[0, 1] == 3 and table[2, 0] == 4 and np.isnan(table).sum() == 4
    patches = pd.DataFrame({"row": [0, 1], "col": [1, 0], "weight": [0.3, 0.6]})
    np.testing.assert_allclose(attention_grid(patches), [[0, 0.3], [0.6, 0]])


@pytest.fixture
def tokenizer() -> Tokenizer:
    words = ["<unk>", "assistant", *dict.fromkeys(tables.PROMPT.split())]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def test_a_repeated_token_is_underlined_where_it_fired(tokenizer: Tokenizer):
    prompts = ["the red circle is left", "is the red circle left of the blue square"]
    words = [("red", 1), ("the", 6), ("assistant", 9)]
    rows = pd.DataFrame(
        {
            "prompt": [prompts[0], prompts[1], prompts[1]],
            "token_id": [tokenizer.token_to_id(word) for word, _ in words],
            "position": [10 + place for _, place in words],
        }
    )
    found = locate_tokens(tokenizer, rows)
    places = list(zip(found["token_start"], found["token_end"]))
    assert prompts[0][slice(*places[0])] == "red"
    assert places[1] == (26, 29) and prompts[1][26:29] == "the"
    assert places[2] == (-1, -1) and found["token"].tolist() == ["red", "the", "assistant"]


def test_strongest_samples_follow_the_ranking_and_the_groups():
    features = best_features(tables.ranking(tables.STRONG), tables.final_features(tables.STRONG), 2)
    place = {"layer": 1, "feature": 60, "position": 5, "token_id": 3}
    top = pd.DataFrame(
        [
            {**place, "group": group, "rank": 0, "sample_id": sample, "activation": activation}
            for group, sample, activation in (("above", "a", 1.0), ("below", "b", 3.0), ("colour", "c", 9.0))
        ]
    )
    rows = strongest(top, features, ["above", "below"], 5)
    assert rows["sample_id"].tolist() == ["b", "a"] and rows["rank"].tolist() == [0, 1]


def test_a_missing_tokenizer_is_explained(tmp_path: Path):
    with pytest.raises(SubjectError, match="save_pretrained"):
        load_tokenizer(tmp_path)


def test_no_files_are_an_empty_table():
    assert read_some([], FUNNEL).empty and list(read_some([], FUNNEL).columns) == FUNNEL.names


def test_what_has_no_snapshots_takes_no_room():
    metrics, accuracy = tables.dictionary_metrics(tables.STRONG), tables.accuracy(tables.STRONG)
    trained, steps = metrics[metrics["snapshot"] == 100], {"vlm_25": 25, "vlm_50": 50, "vlm": 100}
    both = training_dynamics(metrics, accuracy, steps)
    dictionaries = training_dynamics(metrics, accuracy, {})
    model = training_dynamics(trained, accuracy, steps)
    labels = [[axis.get_xlabel().split()[0] for axis in one.axes] for one in (both, dictionaries, model)]
    of_dictionaries, of_model = ["Training"] * 2, ["Fine-tuning"] * accuracy["dataset"].nunique()
    assert labels == [of_dictionaries + of_model, of_dictionaries, of_model]
    heights = [one.get_size_inches()[1] for one in (both, dictionaries, model)]
    assert heights[0] == pytest.approx(heights[1] + heights[2])
    from_nothing = training_dynamics(metrics.assign(cos_initial=np.nan), accuracy, {})
    assert [axis.get_ylabel() for axis in from_nothing.axes] == ["Held-out FVU, text tokens"]


def test_without_any_snapshots_one_remark_says_so():
    metrics, accuracy = tables.dictionary_metrics(tables.STRONG), tables.accuracy(tables.STRONG)
    figure = training_dynamics(metrics[metrics["snapshot"] == 100], accuracy, {})
    assert not figure.axes and len(figure.texts) == 1
