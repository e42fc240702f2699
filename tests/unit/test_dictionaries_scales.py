"""One input scale for all that start from one dictionary: told by its files, or estimated once."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from published_dictionaries import (
    D_MODEL,
    D_SAE,
    random_weights,
    write_gemma_scope,
    write_llama_scope,
    write_mmdiff,
    write_saelens,
)
from published_experiments import llava_more, paligemma2
from sparse_activations import write_sparse_shards

from vlmdiff.activations.store import ActivationStore
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.dictionaries.files import load_dictionary, save_dictionary
from vlmdiff.dictionaries.importing import fetch_dictionary, import_dictionary
from vlmdiff.dictionaries.initial import inherited_scale
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.dictionaries.scales import estimate_input_scale
from vlmdiff.dictionaries.training import train_dictionary
from vlmdiff.dictionaries.weights import DictionaryError

TOPK = {
    "kind": "topk",
    "d_sae": 64,
    "k": 4,
    "bandwidth": 0.02,
    "l0_coefficient": 1.0,
    "subtract_decoder_bias": True,
}
STAGE = {
    "tokens": ["text"],
    "steps": 2,
    "batch_tokens": 128,
    "learning_rate": 1e-3,
    "warmup": 0.1,
    "snapshots": [],
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Shards of two models whose residuals differ in spread by a factor of eight."""
    return [write_sparse_shards(tmp_path_factory.mktemp("shards"), scale=scale) for scale in (30.0, 240.0)]


def scale_of(folder: Path) -> float | None:
    return json.loads((folder / "cfg.json").read_text())["metadata"].get("input_scale")


def train(shards, folder, initial, **values):
    train_dictionary(
        shards, initial, 0, 3, TOPK, STAGE, {}, folder, folder.with_suffix(".work"), **values
    )  # fmt: skip
    return folder


@pytest.fixture
def imported(tmp_path):
    """An imported base of which nothing tells a scale: it keeps the four largest numbers of any token."""
    base, axes = TopKDictionary(16, 64, 4), torch.eye(16)
    rows, silent = torch.cat([axes, -axes, axes, -axes]), torch.cat([torch.ones(32), torch.zeros(32)])
    biases = {"b_enc": torch.zeros(64), "b_dec": torch.zeros(16)}
    base.load_state_dict({"W_enc": rows.T * silent, "W_dec": rows, **biases})
    save_dictionary(base, tmp_path / "base", {"format": "gemma_scope"})
    return tmp_path / "base"


def test_adapted_and_null_share_what_was_estimated_once(two, imported, tmp_path):
    estimate_input_scale(two[0], 0, 5, ["text"], {"model": "vlm", "dataset": "vqa"}, tmp_path / "scale.json")
    noted = json.loads((tmp_path / "scale.json").read_text())
    rows = np.concatenate([c.values.numpy() for c in ActivationStore(two[0], 0).chunks(["text"], 10**6)])
    spread = np.sqrt(((rows - rows.mean(0)).astype(float) ** 2).sum(1).mean())
    assert noted["input_scale"] == 2.0 ** round(-np.log2(spread))
    assert (noted["model"], noted["dataset"], noted["tokens"], noted["layer"]) == ("vlm", "vqa", ["text"], 0)
    found = [
        scale_of(train(shards, tmp_path / name, imported, scale_file=tmp_path / "scale.json"))
        for name, shards in zip(("adapted", "null"), two)
    ]
    assert found == [noted["input_scale"]] * 2


def test_stages_of_an_own_base_inherit_its_scale(two, tmp_path):
    base = train(two[0], tmp_path / "base", "random")
    null = train(two[1], tmp_path / "null", base)
    check = train(two[1], tmp_path / "check", null)
    assert scale_of(base) == scale_of(null) == scale_of(check) == 2.0**-6


def test_a_warm_start_never_estimates(two, imported, tmp_path):
    with pytest.raises(DictionaryError, match="names no metadata.input_scale.*Name `scale_on`"):
        train(two[0], tmp_path / "adapted", imported)
    (tmp_path / "scale.json").write_text('{"layer": 0}')
    with pytest.raises(DictionaryError, match="scale.json: holds no input_scale.*remakes it"):
        train(two[0], tmp_path / "adapted", imported, scale_file=tmp_path / "scale.json")


def test_a_training_with_another_scale_does_not_resume(two, imported, tmp_path):
    """It is part of what a checkpoint is known by, and of the result."""
    found = []
    for number, scale in enumerate((2.0**-6, 2.0**-9)):
        (tmp_path / "scale.json").write_text(json.dumps({"input_scale": scale}))
        folder = train(two[0], tmp_path / f"adapted_{number}", imported, scale_file=tmp_path / "scale.json")
        found.append(load_dictionary(folder).W_enc)
    assert not np.allclose(*(one.detach().numpy() for one in found))


def brought_in(root, format, file, initial=None, needs_scale=False, **options):
    values = {"k": None, "subtract_decoder_bias": None, "input_scale": None, **options}
    fetch_dictionary(str(root), format, {3: str(file.relative_to(root))}, root / "sources.json")
    import_dictionary(
        root / "sources.json", 3, format, values, (D_MODEL, D_SAE), {}, root / "out", initial,
        needs_scale=needs_scale,
    )  # fmt: skip
    return scale_of(root / "out")


def test_what_files_or_config_tell_is_recorded_at_import(tmp_path):
    weights = random_weights()
    told = {"architecture": "jumprelu", "normalize_activations": "expected_average_only_in"}
    folder = write_saelens(tmp_path / "sae", weights, told)
    # An average norm of sqrt(16) / 0.1 = 40, whose nearest power of two is 32.
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.1}))
    assert brought_in(tmp_path, "saelens", folder) == 1 / 32
    file = write_mmdiff(tmp_path / "layer_3.pt", weights)
    assert brought_in(tmp_path, "mmdiff", file, input_scale=4.0) == 1.0
    assert brought_in(tmp_path, "mmdiff", file) is None
    assert brought_in(tmp_path, "gemma_scope", write_gemma_scope(tmp_path / "layer_3", weights)) is None
    base = tmp_path / "base"
    save_dictionary(load_dictionary(folder), base, {"input_scale": 0.25})
    assert brought_in(tmp_path, "mmdiff", file, initial=base, input_scale=4.0) == 0.25
    # Where the scale of the one whose indices it keeps is estimated, its own would be a second one.
    save_dictionary(load_dictionary(folder), base, {})
    assert brought_in(tmp_path, "mmdiff", file, initial=base, input_scale=4.0) is None


@pytest.mark.parametrize(("given", "scale"), [(0.9, 0.25), (1.0, 0.25), (1.1, 0.25), (4.0, 1.0)])
def test_a_given_scale_of_one_is_one_as_any_other(tmp_path, given, scale):
    """sqrt(16) / 1.0 is an average norm of 4."""
    file = write_mmdiff(tmp_path / "layer_3.pt", random_weights())
    assert brought_in(tmp_path, "mmdiff", file, needs_scale=True, input_scale=given) == scale


def test_an_average_norm_that_gives_a_scale_of_one_is_told(tmp_path):
    average = {"dataset_average_activation_norm": {"in": 4.0, "out": 4.0}}
    folder = write_llama_scope(tmp_path / "L3R-8x", random_weights(), **average)
    assert brought_in(tmp_path, "llama_scope", folder, needs_scale=True) == 0.25


def test_a_scale_that_nothing_tells_is_missed_at_import(tmp_path):
    """Files that were folded, and our own without a note: trainings would fail after all extraction."""
    folded = {"norm_activation": "inference", "dataset_average_activation_norm": None}
    llama = write_llama_scope(tmp_path / "L3R-8x", random_weights(), **folded)
    own = tmp_path / "own"
    save_dictionary(TopKDictionary(D_MODEL, D_SAE, 4), own, {})
    for format, folder in (("llama_scope", llama), ("vlmdiff", own)):
        with pytest.raises(
            DictionaryError, match=f"{folder.name}: nothing tells the input scale.*`scale_on`"
        ):
            brought_in(tmp_path, format, folder, needs_scale=True)
        assert not (tmp_path / "out").exists()
    assert brought_in(tmp_path, "llama_scope", llama, needs_scale=True, input_scale=1.0) == 0.25
    for format, folder in (("llama_scope", llama), ("vlmdiff", own)):
        assert brought_in(tmp_path, format, folder) is None


@pytest.mark.parametrize(
    ("told", "asked", "scale", "source"),
    [
        (0.25, None, 0.25, "told by"),
        (0.25, "further", 0.5, "estimated in"),
        (None, None, 0.5, "estimated in"),
        (None, "further", 0.5, "estimated in"),
    ],
)
def test_a_told_scale_wins_over_an_estimate_that_nobody_asked_for(
    tmp_path, caplog, told, asked, scale, source
):
    caplog.set_level("INFO")
    noted = {} if told is None else {"input_scale": told}
    save_dictionary(TopKDictionary(16, 64, 4), tmp_path, noted)
    estimated = tmp_path / "scale.json"
    estimated.write_text(json.dumps({"input_scale": 0.5, "scale_on": asked}))
    assert inherited_scale(tmp_path, estimated) == scale
    assert f"input scale {scale:g}, {source}" in caplog.text


def changed(values, **entries):
    values = deepcopy(values)
    for name, more in entries.items():
        values["dictionaries"][name] = {**values["dictionaries"].get(name, {}), **more}
    return values


def test_on_which_stage_a_scale_is_estimated(tmp_path):
    gemma = paligemma2(tmp_path)
    config = load_config(gemma)
    assert config.scale_root("null_text") == "base" and config.scale_stage("base") == "null_text"
    assert config.scale_root("base") is None and config.scale_root("adapted") is None
    # A training that goes on from the authors' dictionary takes the scale of the base, as the null does.
    more = {**gemma["dictionaries"]["null_text"], "initial": "adapted"}
    further = load_config(changed(gemma, further=more))
    assert further.scale_root("further") == "base" and further.scale_stage("base") == "null_text"
    chosen = load_config(changed(gemma, further=more, base={"scale_on": "further"}))
    assert chosen.scale_stage("base") == "further"
    # Llama Scope tells its norms; one that trains on from a trained dictionary inherits.
    llama = load_config(llava_more(tmp_path / "llama"))
    assert llama.scale_root("adapted") == "base" and llama.scale_stage("base") is None
    assert llama.needs_told_scale("base") and not config.needs_told_scale("base")
    assert not config.needs_told_scale("adapted")
    asked = load_config(changed(llava_more(tmp_path / "asked"), base={"scale_on": "null_text"}))
    assert asked.scale_stage("base") == "null_text" and not asked.needs_told_scale("base")
    one = load_config(changed(gemma, base={"input_scale": 1.0}))
    assert one.scale_stage("base") is None and one.needs_told_scale("base")
    assert list(config.published()) == ["base", "adapted"] and list(config.trained()) == ["null_text"]
    inherits = {**gemma["dictionaries"]["null_text"], "initial": "null_text"}
    assert load_config(changed(gemma, inherits=inherits)).scale_root("inherits") is None


@pytest.mark.parametrize("stage", ["adapted", "nothing"])
def test_a_stage_that_does_not_start_from_it_is_refused(tmp_path, stage):
    with pytest.raises(ConfigError, match=f"dictionaries.base.scale_on: '{stage}' is no trained dictionary"):
        load_config(changed(paligemma2(tmp_path), base={"scale_on": stage}))


def test_an_imported_dictionary_cannot_keep_the_indices_of_several_seeds(tmp_path):
    values = paligemma2(tmp_path)
    own = {key: value for key, value in values["dictionaries"]["null_text"].items() if key != "initial"}
    values["datasets"]["text_train"] = {**values["datasets"]["text_null"], "offset": 180}
    values["dictionaries"]["base"] = own | {"dataset": "text_train"}
    load_config(values)
    with pytest.raises(ConfigError, match="dictionaries.adapted.initial: 'base' is trained for 2 seeds"):
        load_config({**values, "seeds": 2})
