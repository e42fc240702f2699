"""Features of the user's own: reading their file, and refusing what cannot be ablated."""

import pandas as pd
import pytest
from causal_files import rank_tiny, write_dictionaries, write_tables
from safetensors.torch import load_file, save_file

from vlmdiff.config.chosen import chosen_features
from vlmdiff.interventions.chosen import read_chosen
from vlmdiff.interventions.inputs import ModelFiles, QuestionSets
from vlmdiff.interventions.ranking import tell_silent
from vlmdiff.tables.causal import RANKING
from vlmdiff.tables.features import FINAL_FEATURES
from vlmdiff.tables.io import read_table

STARS = 'layer,feature,name,note\n2,1,L2F1,"a ""b"", c"\n0,3,L0F3,\n2,1,L2F1,again\n'


def test_stars_are_read_in_their_order_each_once(tmp_path):
    file = tmp_path / "stars.csv"
    file.write_text("\ufeff" + STARS)
    assert chosen_features(file, [0, 1, 2], 48) == [(2, 1), (0, 3)]
    read_chosen(str(file), [0, 1, 2], str(tmp_path / "features.csv"))
    table = read_table(tmp_path / "features.csv", FINAL_FEATURES)
    assert list(table["name"]) == ["L2F1", "L0F3"] and set(table["concept"]) == {"chosen"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected layer and feature"),
        ("layer,name\n1,a\n", "missing: feature"),
        ("layer,feature\n", "no features"),
        ("layer,feature\n1,x\n", "line 2.*two whole numbers"),
        ("layer,feature\n1,\n", "line 2.*two whole numbers"),
        ("layer,feature\n1\n", "line 2.*two whole numbers"),
        ("layer,feature\n1,-2\n", "line 2.*two whole numbers"),
        ("layer,feature\n1,1.0\n", "line 2.*two whole numbers"),
        ("layer,feature\n1,²\n", "line 2.*two whole numbers"),
        ("layer,feature\n1,99999999999\n", "line 2.*two whole numbers"),
        ("layer,feature\n1,2\n7,2\n", r"line 3: found layer 7, expected one of those studied, \[0, 1, 2\]"),
        ("layer,feature\n1,48\n", "line 2: found feature 48, expected one below 48"),
        ('layer,feature\n1,"2\n', "no CSV"),
        ("layer,feature\n1,\0\n", "no CSV|two whole numbers"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, text, told):
    file = tmp_path / "stars.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"ablation.chosen: .*stars.csv.*({told})"):
        chosen_features(file, [0, 1, 2], 48)


def test_files_that_are_no_text_are_refused(tmp_path):
    file = tmp_path / "stars.csv"
    file.write_bytes(b"layer,feature\n\xff\xfe,1\n")
    for path in (file, tmp_path, tmp_path / "missing.csv"):
        with pytest.raises(ValueError, match="no CSV that can be read"):
            chosen_features(path, [0])


def silence(file: str, feature: int) -> None:
    """Let a feature of a dictionary never fire."""
    tensors = load_file(file)
    tensors["W_enc"][:, feature], tensors["b_enc"][feature] = 0.0, -1.0
    save_file(tensors, file)


def test_they_are_ranked_like_final_ones(tmp_path, tiny_vlm_path, tiny_dataset, caplog):
    (tmp_path / "stars.csv").write_text(STARS)
    read_chosen(str(tmp_path / "stars.csv"), [0, 1, 2], str(tmp_path / "features.csv"))
    tables = write_tables(tmp_path, [(0, 3), (2, 1), (1, 5)]) | {
        "final_features": str(tmp_path / "features.csv")
    }
    samples = str(tiny_dataset / "samples.jsonl")
    model = ModelFiles("vlm", {"family": "llava"}, str(tiny_vlm_path / "config.json"))
    questions = QuestionSets(samples, samples, ["a", "b"], 12, 512)
    dictionaries = write_dictionaries(tmp_path / "d")
    silence(dictionaries[2], 1)
    found = rank_tiny(model, questions, dictionaries, tables, tmp_path)
    table = read_table(found["ranking"], RANKING).set_index("name")
    assert set(table.index) == {"L2F1", "L0F3"}
    # One that never fires is ranked, and told.
    assert table.loc["L2F1", "rate"] == 0 == table.loc["L2F1", "energy"] and table.loc["L0F3", "rate"] > 0
    assert "1 of 2 features fire on no text token of the target's validation questions (L2F1;" in caplog.text


def test_silent_ones_are_told(caplog):
    rates = {(0, 1): 0.5, (0, 2): 0.0, (1, 1): 0.0, (1, 2): 0.25}
    activity = pd.DataFrame(
        [(*place, rate) for place, rate in rates.items()], columns=["layer", "feature", "rate"]
    )
    tell_silent([(0, 1), (1, 2)], activity)
    assert caplog.text == ""
    tell_silent([(1, 1), (0, 1), (0, 2)], activity)
    assert "2 of 3 features fire on no text token" in caplog.text
    assert "(L1F1, L0F2; `rate` is 0 in the ranking)" in caplog.text
    caplog.clear()
    places = [(0, feature) for feature in range(7)]
    tell_silent(places, pd.DataFrame(places, columns=["layer", "feature"]).assign(rate=0.0))
    assert "L0F4 and 2 more;" in caplog.text and "L0F5" not in caplog.text
