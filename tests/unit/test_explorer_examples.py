"""Samples that are shown of a feature, held against the model run sample by sample."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from causal_files import write_dictionaries
from explorer_files import keep
from tiny_models import N_LAYERS

from vlmdiff.activations.tokens import IMAGE, TEXT
from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.dictionaries.files import load_dictionary
from vlmdiff.explorer.examples import CONTRACTS, chosen_features, chosen_samples, collect_examples
from vlmdiff.explorer.gallery import write_patches
from vlmdiff.interventions.inputs import ModelFiles
from vlmdiff.models.registry import load_subject
from vlmdiff.tables.causal import RANKING
from vlmdiff.tables.explorer import GALLERY_PATCHES
from vlmdiff.tables.features import ADAPTED, FINAL_FEATURES
from vlmdiff.tables.io import read_table

FEATURE = ["layer", "feature"]
NAMES = ("base", "adapted", "null")


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_vlm_path, tiny_dataset):
    """Tables of some features of three different dictionaries, and what they were made from."""
    folder = tmp_path_factory.mktemp("examples")
    dictionaries = {name: write_dictionaries(folder / name) for name in NAMES}
    for shift, name in enumerate(NAMES):
        for file in dictionaries[name]:
            shift_weights(Path(file).parent, shift)
    final = keep(
        folder / "final.csv",
        FINAL_FEATURES,
        layer=[1, 0, 2],
        feature=[5, 3, 1],
        log_p_adjusted=[-3.0, -2, -1],
    )
    pools = keep(
        folder / "pools.csv",
        RANKING,
        layer=[1, 1, 0, 2],
        feature=[7, 8, 9, 10],
        pool=[0, 1, 0, 0],
        rank=[1, 0, 0, 2],
    )
    ranking = keep(
        folder / "ranking.csv", RANKING, layer=[2, 0, 1], feature=[1, 3, 5], pool=[-1] * 3, rank=[0, 1, 2]
    )
    turned = {"layer": [0, 0, 1, 2], "feature": [11, 12, 13, 14], "similarity": [0.1, 0.5, 0.2, 0.3]}
    adapted = keep(folder / "adapted.parquet", ADAPTED, **turned, adapted=[False, True, True, True])
    tables = {"final": [final], "ranking": [ranking], "pools": [pools], "adapted": adapted}
    outputs = [str(folder / f"{number}.parquet") for number in range(len(CONTRACTS))]
    collect_examples(
        ModelFiles("vlm", {"family": "llava"}, str(tiny_vlm_path / "config.json")),
        str(tiny_dataset / "samples.jsonl"),
        dictionaries,
        tables,
        outputs,
        layers=range(N_LAYERS), features=2, samples=3, limit=30, batch_tokens=200, massive_ratio=0.0,
    )  # fmt: skip
    made = [read_table(file, schema) for file, schema in zip(outputs, CONTRACTS)]
    return dictionaries, tables, made


def shift_weights(folder, shift):
    """Make a dictionary another one."""
    from vlmdiff.dictionaries.files import save_dictionary

    dictionary = load_dictionary(folder)
    with torch.no_grad():
        dictionary.W_enc.copy_(dictionary.W_enc.roll(shift, dims=0))
    save_dictionary(dictionary, folder, {})


@pytest.fixture(scope="module")
def naive(made, tiny_vlm_path, tiny_dataset):
    """Activations of every feature on every token: by dictionary and sample, (layers, tokens, features)."""
    subject = load_subject("vlm", {"family": "llava"}, tiny_vlm_path)
    found, kinds = {}, {}
    for sample in load_samples(tiny_dataset / "samples.jsonl", 30):
        batch = subject.prepare([sample.prompt], [sample.open_image()], sample.chat)
        with torch.no_grad():
            residuals = subject.residuals(batch, range(N_LAYERS))
            for name, files in made[0].items():
                z = [
                    load_dictionary(Path(file).parent).encode(residuals[at][0])
                    for at, file in enumerate(files)
                ]
                found[name, sample.sample_id] = torch.stack(z).numpy()
        kinds[sample.sample_id] = batch.token_type[0].numpy()
    return found, kinds


def test_features_are_the_first_of_each_table(made):
    tables = made[1]
    lists = tables["final"], tables["ranking"], tables["pools"], tables["adapted"]
    assert chosen_features(*lists, 2) == [
        (0, 3), (0, 9), (1, 5), (1, 7), (1, 13), (2, 1), (2, 14),
    ]  # fmt: skip


def test_the_strongest_are_the_strongest_and_the_silent_silent(made, naive):
    examples, found, kinds = made[2][0], *naive
    peaks = {
        name: z[:, kinds[name] == TEXT].max(axis=1) for (of, name), z in found.items() if of == "adapted"
    }
    for (layer, feature), rows in examples.groupby(FEATURE):
        strongest = {name: peak[layer, feature] for name, peak in peaks.items()}
        shown = {kind: list(part.sort_values("rank")["sample_id"]) for kind, part in rows.groupby("kind")}
        largest = max(strongest.values())
        if largest > 0:
            assert strongest[shown["top"][0]] == pytest.approx(largest, abs=1e-5)
            values = [strongest[name] for name in shown["top"]]
            assert values == sorted(values, reverse=True) and min(values) > 0
        assert all(strongest[name] == 0 for name in shown.get("silent", []))
        assert not set(shown.get("top", [])) & set(shown.get("middle", []))


def test_every_activation_is_that_of_its_dictionary(made, naive):
    examples, activations = made[2][:2]
    found, kinds = naive
    told = activations.set_index([*FEATURE, "sample_id", "dictionary", "position"])["activation"]
    count = 0
    for row in examples.drop_duplicates([*FEATURE, "sample_id"]).itertuples():
        shown = np.isin(kinds[row.sample_id], (TEXT, IMAGE))
        for name in NAMES:
            z = found[name, row.sample_id][row.layer][:, row.feature] * shown
            for position in np.flatnonzero(z > 0):
                key = (row.layer, row.feature, row.sample_id, name, position)
                assert told[key] == pytest.approx(z[position], rel=1e-4)
                count += 1
    assert count == len(told) > 50
    assert activations.groupby("dictionary").size().min() > 5


def test_tokens_are_the_words_and_patches_of_each_sample(made, naive, tiny_dataset):
    tokens, kinds = made[2][2], naive[1]
    prompts = {sample.sample_id: sample.prompt for sample in load_samples(tiny_dataset / "samples.jsonl")}
    assert set(tokens["sample_id"]) == set(made[2][0]["sample_id"])
    for name, rows in tokens.groupby("sample_id"):
        assert list(rows["position"]) == np.flatnonzero(np.isin(kinds[name], (TEXT, IMAGE))).tolist()
        patches, words = rows[rows["left"].notna()], rows[rows["left"].isna()]
        assert len(patches) == (kinds[name] == IMAGE).sum() == 9
        assert patches.iloc[1][["left", "top", "right", "bottom"]].tolist() == pytest.approx(
            [1 / 3, 0, 2 / 3, 1 / 3]
        )
        assert all(word in " ".join(words["text"]) for word in prompts[name].split()[:3])


def test_bins_count_all_text_tokens_on_which_a_feature_fires(made, naive):
    bins, (found, kinds) = made[2][3], naive
    for (layer, feature), rows in bins.groupby(FEATURE):
        z = np.concatenate(
            [one[layer, kinds[name] == TEXT, feature] for (of, name), one in found.items() if of == "adapted"]
        )
        counts, _ = np.histogram(z[z > 0], [*rows["low"], rows["high"].iloc[-1] * 1.0001])
        assert rows["tokens"].sum() == (z > 0).sum()
        assert np.abs(counts - rows["tokens"]).sum() <= 2  # rounding at an edge


def test_neighbours_are_the_nearest_rows(made):
    for (layer, feature), rows in made[2][4].groupby(FEATURE):
        unit = torch.nn.functional.normalize(
            load_dictionary(Path(made[0]["adapted"][layer]).parent).W_dec, dim=1
        )
        cosines = (unit @ unit[feature]).detach().numpy()
        order = [index for index in np.argsort(-cosines) if index != feature][:5]
        assert list(rows.sort_values("rank")["neighbour"]) == order
        np.testing.assert_allclose(rows.sort_values("rank")["cosine"], cosines[order], atol=1e-5)


def test_samples_of_one_picture_are_shown_once():
    samples = [
        Sample(
            sample_id=str(i),
            prompt=f"p{i}",
            image=f"{i // 2}.png",
            group="ab"[i % 2],
            answer="x",
            choices=["x", "y"],
        )
        for i in range(12)
    ]
    strongest = np.array([9.0, 8, 7, 0, 0, 0, 4, 4.4, 0, 0, 0.5, 0])
    found = {(one.kind, one.rank): one.sample for one in chosen_samples(strongest, samples, 2)}
    assert found == {
        ("top", 0): 0, ("top", 1): 2, ("middle", 0): 7, ("middle", 1): 1, ("silent", 0): 4, ("silent", 1): 8,
    }  # fmt: skip
    assert [one.kind for one in chosen_samples(np.zeros(12), samples, 2)] == []


def test_nothing_to_show_is_three_empty_tables(tmp_path, tiny_vlm_path, tiny_dataset):
    final = keep(tmp_path / "final.csv", FINAL_FEATURES)
    adapted = keep(tmp_path / "adapted.parquet", ADAPTED, layer=[0], feature=[1], adapted=[False])
    outputs = [str(tmp_path / f"{number}.parquet") for number in range(len(CONTRACTS))]
    collect_examples(
        ModelFiles("vlm", {"family": "llava"}, str(tiny_vlm_path / "config.json")),
        str(tiny_dataset / "samples.jsonl"), {"adapted": []},
        {"final": [final], "ranking": [], "pools": [], "adapted": adapted}, outputs,
        layers=[], features=2, samples=3, limit=30, batch_tokens=200, massive_ratio=0.0,
    )  # fmt: skip
    assert [len(read_table(file, contract)) for file, contract in zip(outputs, CONTRACTS)] == [0] * 5


def gallery_rows(names):
    """A gallery of two features with the same samples; the last sample has no picture."""
    own = [(layer, feature, rank) for layer, feature in ((1, 5), (0, 3)) for rank in range(len(names))]
    images = [*["picture.png"] * (len(names) - 1), ""]
    return pd.DataFrame(
        {
            "concept": "spatial", "seed": 2, "layer": [one[0] for one in own],
            "feature": [one[1] for one in own], "name": [f"L{one[0]}F{one[1]}" for one in own],
            "rank": [one[2] for one in own], "sample_id": [names[one[2]] for one in own],
            "image": [images[one[2]] for one in own], "activation": 99.0,
        }
    )  # fmt: skip


def test_a_gallery_tells_of_every_patch_what_the_feature_does(
    made, naive, tiny_vlm_path, tiny_dataset, tmp_path
):
    found, kinds = naive
    names = list(kinds)[3:6]
    dictionaries = {layer: Path(file).parent for layer, file in enumerate(made[0]["adapted"])}
    model = ModelFiles("vlm", {"family": "llava"}, str(tiny_vlm_path / "config.json"))
    gallery, samples = gallery_rows(names), tiny_dataset / "samples.jsonl"
    write_patches(gallery, model, samples, dictionaries, 200, 0.0, tmp_path / "patches.csv")
    table = read_table(tmp_path / "patches.csv", GALLERY_PATCHES)
    assert set(table["seed"]) == {2} and set(table["sample_id"]) == set(names[:2])
    for (layer, feature, rank), rows in table.groupby(["layer", "feature", "rank"]):
        expected = found["adapted", names[rank]][layer, kinds[names[rank]] == IMAGE, feature]
        np.testing.assert_allclose(rows["activation"], expected, rtol=1e-4, atol=1e-5)
        assert rows["left"].is_monotonic_increasing or rows["top"].is_monotonic_increasing
    assert len(table) == sum(2 * (kinds[name] == IMAGE).sum() for name in names[:2])
    assert (table["activation"] > 0).any() and (table["activation"] == 0).any()


def test_a_gallery_without_pictures_needs_no_model(tmp_path):
    gallery = gallery_rows(["one"])
    write_patches(gallery, None, "nowhere.jsonl", {}, 200, 0.0, tmp_path / "patches.csv")
    assert read_table(tmp_path / "patches.csv", GALLERY_PATCHES).empty


def test_who_fires_on_patches_is_not_silent():
    own = [Sample(sample_id=str(i), prompt=str(i), group="g") for i in range(5)]
    strongest = np.array([2.0, 0, 0, 0, 0])
    found = {choice.sample for choice in chosen_samples(strongest, own, 5, {1, 3}) if choice.kind == "silent"}
    assert found == {2, 4}
