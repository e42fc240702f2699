"""What the explorer is told: columns as in the tables, samples that show what they are called."""

import base64
import gzip
import json
import re

import numpy as np
import pandas as pd
import pytest
from explorer_files import CONCEPT, LIMITS, NASTY, told, write_experiment, write_features
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlmdiff.explorer.columns import ConceptTables, OtherComparison, all_columns, null_quantile, ranked_null_p
from vlmdiff.explorer.facts import HEADS_TOLD, titled
from vlmdiff.explorer.pack import packed, rounded, script
from vlmdiff.explorer.write import check_indices, first_view, spatial_ones
from vlmdiff.tables.causal import ABLATION, RANKING
from vlmdiff.tables.features import ADAPTED, FINAL_FEATURES, LEXICAL
from vlmdiff.tables.io import read_table


def tables_of(folder):
    """Return the tables of the concept in a folder that `write_features` has filled."""
    names = ("contrast.parquet", "lexical.parquet", "final.csv")
    return ConceptTables("", "token", *(str(folder / name) for name in names), LIMITS)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("explorer"))


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_rounding_keeps_four_digits_and_all_that_is_no_number(values):
    values = np.array(values, np.float32)
    found = rounded(values)
    usual = np.isfinite(values) & (np.abs(values) > 1e-30)
    np.testing.assert_allclose(found[usual], values[usual], rtol=2**-16)
    assert np.array_equal(found[~np.isfinite(values)], values[~np.isfinite(values)], equal_nan=True)
    assert np.isfinite(found[np.isfinite(values)]).all()


def test_a_nan_of_all_ones_stays_one():
    assert np.isnan(rounded(np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32))).all()


def test_packed_columns_come_back_and_are_the_same_bytes_each_time():
    columns = [
        np.arange(5, dtype=np.float32),
        np.array([1, 0, 1, 1, 0], np.uint8),
        np.arange(5, dtype=np.uint16),
    ]
    text = packed(columns)
    content = gzip.decompress(base64.b64decode(text))
    assert content == b"".join(column.tobytes() for column in columns)
    assert text == packed(columns)
    # No time of packing.
    assert base64.b64decode(text)[4:8] == bytes(4)


@pytest.mark.parametrize("text", NASTY)
def test_no_text_ends_its_script(text):
    found = script("f", {"text": text})
    assert found.isascii() and "<" not in found and found.count("\n") == 1
    assert json.loads(found[2:-3]) == {"text": text}


def test_quantiles_of_the_null():
    null = np.array([0.9, 0.95, 0.99, 1.0, np.nan])
    found = null_quantile(np.array([0.5, 0.9, 0.96, 1.0, np.nan]), null)
    assert found[:4].tolist() == [0, 0.25, 0.5, 1] and np.isnan(found[4])
    assert np.isnan(null_quantile(np.array([0.5]), np.array([np.nan]))).all()


def test_p_of_single_features_count_pools():
    found = ranked_null_p(np.array([-2.0, -0.5, 1.0, np.nan]), np.array([-1.0, -0.5, 0.0]))
    assert found[:3].tolist() == [0.25, 0.75, 1] and np.isnan(found[3])


def test_columns_are_those_of_the_tables(tmp_path):
    adapted, concepts, truth = write_features(tmp_path, 3, 50)
    columns = {column.key: values for column, values in all_columns(adapted, concepts, truth, "test", {})}
    table = read_table(adapted, ADAPTED)
    for key in ("similarity", "visual_energy", "adapted"):
        assert np.array_equal(columns[key], table[key], equal_nan=table[key].dtype != bool)
    assert set(columns["adapted"].index) == set(zip(table["layer"], table["feature"]))
    one = table[(table["layer"] == 1) & table["similarity"].notna()].iloc[5]
    null = table.loc[(table["layer"] == 1) & table["calibrated"], "null_similarity"]
    own_quantile = columns["null_quantile"][1, one["feature"]]
    assert own_quantile == (null <= one["similarity"]).mean()
    own = concepts[CONCEPT]
    for key, file, schema in (("invariant", own.lexical, LEXICAL), ("final", own.final, FINAL_FEATURES)):
        rows = read_table(file, schema)
        rows = rows if key == "final" else rows[rows["invariant"]]
        flags = columns[f"{CONCEPT}.{key}"]
        assert set(flags.index[flags]) == set(zip(rows["layer"], rows["feature"]))
    ranking = read_table(own.ranking[0], RANKING).set_index(["layer", "feature"])["target_delta_margin"]
    assert columns[f"{CONCEPT}.validation"].dropna().sort_index().equals(ranking.sort_index())
    tested = read_table(own.ablation[0], ABLATION).query("arm == 'selected' and size == 1")
    margins = columns[f"{CONCEPT}.margin"].dropna()
    assert {f"L{at}F{i}": value for (at, i), value in margins.items()} == dict(
        zip(tested["features"], tested["delta_margin"])
    )
    p = columns[f"{CONCEPT}.null_p"].dropna()
    assert p.sort_values().tolist() == pytest.approx([1 / 21, 1 / 21, 10 / 21, 1])
    assert (columns["truth"][columns["truth"].index[::3]] == "").all()


def test_a_concept_that_was_not_ablated_has_no_columns_of_ablation(tmp_path):
    adapted, concepts, _ = write_features(tmp_path, 1, 200)
    own = concepts[CONCEPT]
    bare = type(own)(own.about, own.unit, own.contrast, own.lexical, own.final)
    keys = {column.key for column, _ in all_columns(adapted, {CONCEPT: bare}, [], "test", {})}
    assert f"{CONCEPT}.odds" in keys and f"{CONCEPT}.difference" not in keys
    assert f"{CONCEPT}.margin" not in keys and "truth" not in keys


def test_the_page_is_told_what_the_layers_hold(page):
    (about,) = told(page.parent / "data" / "about.js")
    assert about["experiment"] == "try & <see>"
    assert about["layers"] == [{"layer": layer, "features": 50} for layer in range(3)]
    sizes = {"number": 4, "flag": 1, "words": 2}
    width = sum(50 * sizes[column["kind"]] for column in about["columns"])
    for layer in range(3):
        number, text = told(page.parent / "data" / f"layer_{layer}.js")
        assert number == layer and len(gzip.decompress(base64.b64decode(text))) == width
        similarity = np.frombuffer(gzip.decompress(base64.b64decode(text)), np.float32, 50)
        expected = read_table(page.parents[1] / "tables" / "adapted.parquet", ADAPTED)
        own = expected.loc[expected["layer"] == layer, "similarity"].to_numpy(np.float32)
        np.testing.assert_allclose(similarity, own, rtol=2**-15)
    assert about["columns"][0]["key"] == "similarity"
    assert set(about["words"]["truth"]) == {"", "left ; or so", *NASTY}
    steps = about["concepts"][0]["steps"]
    assert [step["title"] for step in steps] == ["adapted", "contrast", "invariant", "final"]
    tables = page.parents[1] / "tables"
    adapted, concepts, truth = str(tables / "adapted.parquet"), {CONCEPT: tables_of(tables)}, []
    flags = {column.key: values for column, values in all_columns(adapted, concepts, truth, "test", {})}
    left = np.ones(150, dtype=bool)
    for step in steps:
        left &= flags[step["key"]].to_numpy(bool)
        assert step["left"] == left.sum()
    assert steps[0]["left"] > steps[1]["left"] > 0


def test_a_detail_holds_its_samples(page):
    (about,) = told(page.parent / "data" / "about.js")
    assert about["details"] == ["L0F3", "L1F4", "L2F7"] and about["seed"] == 0
    name, content = told(page.parent / "details" / "L0F3.js")
    assert name == "L0F3" and content["largest"] == 3.25
    samples = {sample["kind"]: sample for sample in content["samples"]}
    assert list(samples) == ["top", "middle", "silent"]
    top = samples["top"]
    assert top["values"] == {"adapted": {"1": 3.25, "5": 0.125}, "base": {"2": 1.5}, "null": {"5": 2.0}}
    assert samples["silent"]["values"] == {}
    assert top["words"][0][1] == NASTY[0] and len(top["patches"]) == 4
    label, *others = content["facts"]
    assert content["label"] == NASTY[0]
    assert label["lines"] == [
        NASTY[0],
        f"words: {NASTY[1]} (50 %), right (25 %) share of its activity",
        "traits: relation=above (40 %) more often where it is strong",
        f"promotes {NASTY[2]}",
        "suppresses ",
    ]
    assert {one["title"]: one["lines"] for one in others} == {
        f"Heads that write it ({CONCEPT})": [
            "L0H1, score 0.500, mean image +29.5",
            "L0H0, score 0.250, mean image −2",
            "L0H2, score 0.125, mean image +0.001",
            HEADS_TOLD,
        ],
        f"In other seeds ({CONCEPT})": ["seed 1: L0F7, cosine 0.875, final too"],
        "Nearest features": [
            {"go": "L0F9", "text": "cosine 0.750"},
            {"go": "L0F8", "text": "cosine 0.500"},
        ],
    }
    assert content["bins"] == [[0.0, 2.0, 7], [2.0, 4.0, 3]]
    picture = Image.open(page.parent / top["image"])
    assert max(picture.size) == 128


def test_a_detail_tells_effects_of_its_feature_alone(page):
    _, content = told(page.parent / "details" / "L0F3.js")
    ablated, steered = content["effects"]
    assert ablated["title"] == f"Ablated alone, as a feature of {CONCEPT}"
    assert ablated["chance"] == [-0.75, -0.5]
    assert ablated["pools"] == "In 1 of the pools the best is this feature itself."
    assert ablated["rows"] == [
        ["test", -2.0, -2.5, -1.5],
        ["test, left", -3.0, None, None],
        ["other <b>", 0.25, 0.0, 0.5],
    ]
    assert steered["lines"] == [
        {"name": "test", "points": [[-0.5, -0.25, -0.5, 0.0], [0.5, 0.125, 0.0, 0.25]]},
        {"name": "other <b>", "points": [[0.5, 0.0, None, None]]},
    ]
    _, other = told(page.parent / "details" / "L1F4.js")
    assert (other["effects"], other["looks"], other["label"]) == ([], [], "")
    _, ablated = told(page.parent / "details" / "L2F7.js")
    assert ablated["samples"] == [] and ablated["effects"][0]["rows"] == [["test", -1.0, -2.0, None]]


def test_a_detail_tells_where_its_head_looks(page):
    _, content = told(page.parent / "details" / "L0F3.js")
    (look,) = content["looks"]
    assert look["title"] == f"Where L0H1 looks ({CONCEPT})"
    (shown,) = look["samples"]
    assert shown["weights"] == [0.125, 0.25, 0.0, 0.0625]
    # The patches cover the padded square, twice as wide as the picture.
    assert shown["patches"] == [
        [-0.5, 0.0, 0.5, 0.5],
        [0.5, 0.0, 1.5, 0.5],
        [-0.5, 0.5, 0.5, 1.0],
        [0.5, 0.5, 1.5, 1.0],
    ]
    assert (page.parent / shown["image"]).is_file()


def test_another_comparison_tells_of_the_features_it_has(tmp_path):
    adapted, concepts, _ = write_features(tmp_path / "main", 2, 200)
    other, _, _ = write_features(tmp_path / "other", 1, 200)
    others = {"stage": OtherComparison("half of tuning", other)}
    found = {column.key: (column, values) for column, values in all_columns(adapted, {}, [], None, others)}
    column, values = found["stage.similarity"]
    assert column.part == "stage: half of tuning" and len(values) == 400
    expected = read_table(other, ADAPTED)["similarity"].to_numpy()
    assert np.array_equal(values.to_numpy()[:200], expected, equal_nan=True) and values[200:].isna().all()
    assert not found["stage.adapted"][1][200:].any() and found["stage.adapted"][1].dtype == bool


def test_nothing_of_an_earlier_page_is_left(tmp_path):
    page = write_experiment(tmp_path)
    (page.parent / "details" / "L9F9.js").write_text("old")
    write_experiment(tmp_path)
    assert not (page.parent / "details" / "L9F9.js").exists()


def test_what_the_page_loads_is_there(page):
    html = page.read_text()
    for place in re.findall(r'(?:src|href)="([^"#]+)"', html):
        if not place.startswith(("data:", "../")):
            assert (page.parent / place).is_file(), place
    scripts = [file.read_text() for file in (page.parent / "page").iterdir()]
    # The name of a kind of elements, which no browser loads.
    scripts = [text.replace("http://www.w3.org/2000/svg", "") for text in scripts]
    assert not any(re.search(r"https?:", text) for text in (html, *scripts))


def test_what_concepts_tell_alike_is_told_once():
    found = [("Heads", "a", ["x"]), ("Heads", "b", ["y"]), ("Heads", "c", ["x"]), ("Near", "", ["x"])]
    assert titled(found) == [("Heads (a, c)", ["x"]), ("Heads (b)", ["y"]), ("Near", ["x"])]


def test_a_table_that_lacks_a_feature_is_refused_by_its_layer():
    whole = pd.MultiIndex.from_product([[0, 4], range(3)], names=["layer", "feature"])
    counts = pd.Series(3, index=[0, 4])
    check_indices(whole, counts)
    with pytest.raises(ValueError, match="layer 4: found 2 features"):
        check_indices(whole.delete(4), pd.Series([3, 2], index=[0, 4]))


def test_final_features_that_are_truly_spatial_are_counted_where_scenes_tell():
    values = {"c.final": pd.Series([True, True, False]), "spatial": pd.Series([True, False, True])}
    assert spatial_ones("c", values) == 1
    assert spatial_ones("c", {"c.final": values["c.final"]}) is None


@pytest.mark.parametrize(
    ("keys", "sort"),
    [(["a.validation", "a.final"], "a.validation"), (["a.final", "b.validation"], "-a.final")],
)
def test_the_first_view_begins_with_the_best_of_the_first_concept(keys, sort):
    assert first_view(keys, ["a", "b"])["sort"] == sort
    assert first_view([], [])["sort"] == "null_quantile"
