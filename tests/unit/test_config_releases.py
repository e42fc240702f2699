"""Dictionaries of SAELens' list of releases become entries of the hub, as the package itself reads them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.releases import FORMATS, meant, release_of, resolved
from vlmdiff.dictionaries.source import FILES

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
COMMIT = "f" * 40
KEY = "dictionaries.base"


def entry(release: str, file: str, **more) -> dict:
    return {"source": f"saelens:{release}@{COMMIT}", "file": file, **more}


def with_base(**values) -> dict:
    """Return the ready experiment with another base, and nothing that was trained as the world's is."""
    config = copy.deepcopy(DEFAULT)
    config["dictionaries"]["base"] = values
    return config


def test_without_a_release_nothing_changes_and_sae_lens_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    for values in (DEFAULT, {}, None, [1], {"dictionaries": 3}, {"dictionaries": {"base": None}}):
        assert resolved(values) == values


def test_sae_lens_has_to_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(ConfigError, match=rf"{KEY}.source: found 'saelens:r', but .* `pip install sae-lens`"):
        load_config(with_base(**entry("r", "layer_{layer}")))


@pytest.fixture(scope="module")
def directory():
    """The whole list; test_dictionaries_saelens.py asks sae-lens itself, which takes long to import."""
    package = find_spec("sae_lens")
    if package is None:
        pytest.skip("reads the list of sae-lens: pip install -r envs/peers.txt")
    text = Path(package.submodule_search_locations[0], "pretrained_saes.yaml").read_text()
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


CASES = {
    "canonical": ("gemma-scope-2b-pt-res-canonical", "layer_{layer}/width_16k/canonical", "gemma_scope", 26),
    "by L0": ("gemma-scope-2b-pt-res", "layer_{layer}/width_16k/average_l0_{l0}", "gemma_scope", 2),
    "gemma-scope-2": (
        "gemma-scope-2-270m-pt-res-all", "layer_{layer}_width_16k_l0_small", "gemma_scope_2", 18,
    ),
    "llama_scope": ("llama_scope_lxr_8x", "l{layer}r_8x", "llama_scope", 32),
    "qwen-scope": ("qwen-scope-3-1.7b-base-w32k-l50", "layer{layer}", "qwen_scope", 28),
    "dictionary_learning": (
        "llama-3.1-8b-instruct-andyrdt", "resid_post_layer_{layer}_trainer_1", "dictionary_learning", 7,
    ),
    "their own": ("gemma-2-2b-res-matryoshka-dc", "blocks.{layer}.hook_resid_post", "saelens", 25),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_release_is_what_sae_lens_takes_it_for(directory, case):
    release, file, format, layers = CASES[case]
    by_layer = {"l0": {3: 59, 5: 34}} if "{l0}" in file else {}
    found = meant(KEY, entry(release, file, by_layer=by_layer))
    theirs = directory[release]
    places = {one["id"]: one["path"] for one in theirs["saes"]}
    assert found["source"] == f"hub:{theirs['repo_id']}@{COMMIT}" and found["format"] == format
    assert found["file"] == "{release_path}" and found.get("k") == (50 if case == "qwen-scope" else None)
    paths = found["by_layer"]["release_path"]
    assert len(paths) == layers and "input_scale" not in found
    for layer, path in paths.items():
        one = file.format(layer=layer, l0=by_layer.get("l0", {}).get(layer))
        assert path == places[one]


def test_every_release_that_is_taken_has_a_reader_and_the_others_are_refused_by_name(directory):
    """All formats of the list; each release is found without parsing the others."""
    # Most of the list is Gemma Scope 2: some of it stands for all.
    many = [name for name, theirs in directory.items() if theirs.get("conversion_func") == "gemma_3"]
    taken = refused = 0
    for name in [one for one in directory if one not in many[6:]]:
        theirs, first = directory[name], directory[name]["saes"][0]
        assert release_of(KEY, name) == theirs
        try:
            found = meant(KEY, entry(name, first["id"]))
        except ValueError as error:
            refused += 1
            told, converter = str(error), theirs.get("conversion_func")
            assert converter not in FORMATS or "residual" in told or "no equal" in told, told
            assert converter in FORMATS or f"in the format {converter}," in told
        else:
            taken += 1
            assert found["format"] in FILES and found["file"] == first["path"]
            assert not {"mlp", "att", "transcoders"} & set(name.split("-"))
    assert taken > 30 and refused > 40


def test_a_scale_that_only_the_list_tells_is_taken(directory):
    name, told = "gemma-2b-res-jb", "norm_scaling_factor"
    found = meant(KEY, entry(name, "blocks.{layer}.hook_resid_post"))
    listed = {int(one["id"].split(".")[1]): one[told] for one in directory[name]["saes"] if told in one}
    assert found["input_scale"] == listed and listed
    own = meant(KEY, entry(name, "blocks.{layer}.hook_resid_post", input_scale=2.0))
    assert "input_scale" not in own


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"source": "saelens:gemma-scope-2b-pt-res", "file": "layer_{layer}"},
         r"base.source: .*expected saelens:gemma-scope-2b-pt-res@REVISION.*google/gemma-scope-2b-pt-res/co"),
        (entry("gemma-scope-2b-pt", "layer_{layer}"), r"base.source: .* releases .*as gemma-scope-2b-pt-"),
        (entry("someone/saes", "layer_{layer}"), "base.source: .*a repository is hub:someone/saes"),
        (entry("gemma-scope-2b-pt-res-canonical", "layer_{layer}/width_15k/canonical"),
         r"base.file: .*ids of release gemma-scope-2b-pt-res-canonical, such as layer_\d+/width_"),
        (entry("llama_scope_lxr_8x", "l{layer}r_8x", format="saelens"),
         "base.format: found 'saelens', expected llama_scope"),
        (entry("llama_scope_lxm_8x", "l{layer}m_8x"), "base.file: .*Llama3_1-8B-Base-L0M-8x.*residual"),
        (entry("gemma-scope-2-4b-pt-transcoders-all", "layer_{layer}_width_16k_l0_big"),
         "base.file: .*transcoder_all.*residual stream after a block"),
        (entry("goodfire-llama-3.1-8b-instruct", "layer_19"), "base.source: .*in the format goodfire,"),
        (entry("mistral-7b-res-wg", "blocks.{layer}.hook_resid_pre"), "base.source: .*constant_norm_rescale"),
        (entry("gemma-scope-2b-pt-res-canonical", "layer_{layer"), "base: file: .*braces without a name"),
        (entry("gemma-scope-2b-pt-res-canonical", 3), "base.file: expected text"),
    ],
)  # fmt: skip
def test_what_a_release_cannot_be_is_refused(directory, values, words):
    with pytest.raises(ConfigError, match=words):
        load_config(with_base(**values))


def test_layers_that_a_release_lacks_are_named(directory):
    with pytest.raises(ConfigError, match=r"base.file: the release .* no value for layers \[1\]"):
        load_config(
            with_base(
                **entry(
                    "gemma-scope-2b-pt-res", "layer_{layer}/width_16k/average_l0_{l0}",
                    by_layer={"l0": {0: 46, 1: 12345, 2: 53, 3: 59}},
                )
            )
        )  # fmt: skip


@pytest.mark.long
def test_a_dry_run_plans_the_fetch_and_import_of_a_release(directory, tmp_path):
    """Of the repository that the list names, without a network."""
    values = {"base": entry("qwen-scope-3-1.7b-base-w32k-l50", "layer{layer}", scale_on="adapted")}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({**DEFAULT, "dictionaries": {**DEFAULT["dictionaries"], **values}}))
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--cores", "1", "--configfile", file, "--", "sources"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "fetch_dictionary" in run.stdout
