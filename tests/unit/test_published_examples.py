"""`make published`: rows of every family and format, limits, comparisons, and a run against a hub here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import published_dictionaries as written
import pytest
import tiny_paligemma
import tiny_smolvlm
import torch
import yaml
from local_hub import serving
from published import compare
from published.looks import last_error, one_line
from published.page import page
from published.rows import RowError, known_rows, read_rows
from published.sizes import Plan, disk_problem, within

from vlmdiff.config.families import MODEL_TYPES
from vlmdiff.config.supported import FORMAT_FACTS
from vlmdiff.dictionaries.source import FILES

ROOT = Path(__file__).parents[2]


def test_every_family_and_every_published_format_has_a_row():
    rows = list(known_rows())
    unpublished = {name for name, facts in FORMAT_FACTS.items() if facts.example is None}
    assert {row.reads for row in rows if row.kind == "family"} == set(MODEL_TYPES)
    assert {row.reads for row in rows if row.kind == "format"} == set(FILES) - unpublished
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.example.gigabytes > 0 for row in rows)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"family": "llava"}, "found dict, expected a list of rows"),
        ([{"family": "llava"}], "row 1: expected a mapping with `repository: OWNER/NAME`"),
        ([{"repository": "a/b", "family": "lava"}], "family is 'lava', expected one of"),
        ([{"repository": "a/b"}], "expected `family` or `format`"),
        ([{"repository": "a/b", "format": "saelens", "layer": 3}], "unknown keys .'layer'."),
        ([{"repository": "a/b", "family": "llava"}] * 2, "two rows have one name"),
        ([{"repository": "a/b", "family": "llava", "name": "../x"}], "name is '../x', expected letters"),
    ],
)
def test_rows_that_cannot_be_understood_are_refused(tmp_path, rows, words):
    file = tmp_path / "rows.yaml"
    file.write_text(yaml.safe_dump(rows))
    with pytest.raises(RowError, match=words):
        read_rows(file)


def test_a_limit_takes_the_smallest_downloads():
    sizes = [3e9, 1e9, 0, 2e9]
    plans = [Plan(row, int(size)) for row, size in zip(known_rows(), sizes, strict=False)]
    assert [plan.missing for plan in within(plans, 3.5)] == [0, 1e9, 2e9]
    assert within(plans, 0) == [plans[2]]


def test_a_full_disk_is_told(tmp_path):
    row = next(known_rows())
    assert disk_problem([Plan(row, 1000)], tmp_path / "none" / "yet") is None
    assert "100000.0 GB are to be downloaded" in disk_problem([Plan(row, 10**14)], tmp_path)


LOGITS = np.array([1.0, 20.0, -3.0], np.float32)


@pytest.mark.parametrize(
    ("ids", "change", "alike", "words"),
    [
        ([1, 2, 3], [0, 0, 0], True, "3 token ids equal"),
        ([1, 2, 3], [0, 0.01, 0], True, "at most 1.0e-02 of 20.0 apart"),
        ([1, 2, 3], [0, 0, 0.1], False, "1.0e-01 of 20.0 apart"),
        ([1, 2, 4], [0, 0, 0], False, "token ids differ from place 2 on: .4. for .3."),
        ([1, 2], [0, 0, 0], False, "token ids differ from place 2 on"),
        ([1, 2, 3], [30, 0, 0], False, "another next token"),
    ],
)
def test_models_are_alike_in_token_ids_and_logits(ids, change, alike, words):
    theirs = {"ids": np.array([1, 2, 3]), "logits": LOGITS}
    ours = {"ids": np.array(ids), "logits": LOGITS + np.array(change, np.float32)}
    found, told = compare.models(ours, theirs, "float32")
    assert found == alike and re.search(words, told)


def test_dictionaries_are_alike_in_firings_activations_and_reconstructions():
    z = np.array([[0, 2.0, 0.5], [1.0, 0, 0]])
    theirs = {"z": z, "x_hat": z @ np.ones((3, 2))}
    assert compare.dictionaries(theirs, theirs)[0]
    for name, value in (("z", z * 1.01), ("z", np.abs(z - 0.5)), ("x_hat", theirs["x_hat"] + 0.1)):
        alike, told = compare.dictionaries({**theirs, name: value}, theirs)
        assert not alike and "firings alike" in told
    assert compare.dictionaries({**theirs, "z": 0 * z}, {**theirs, "z": 0 * z}) == (
        False,
        "nothing fires on sums of its own rows",
    )


def test_errors_become_one_line_without_folders_and_keys(monkeypatch):
    monkeypatch.setenv("HF_HOME", "/data/someone")
    traced = (
        'words\nTraceback (most recent call last):\n  File "a.py"\n    x\nValueError: bad\nin two lines\n'
    )
    assert last_error(traced) == "ValueError: bad in two lines"
    said = f"{ROOT}/x and /data/someone/hub\nhf_abcdefghijklmnopqrstuvwxyzABCDEFGH in /found/llava/y"
    line = one_line(said, Path("/found/llava"))
    assert line.startswith("…/x and …/hub ") and line.endswith(" in …/y") and "abcdefgh" not in line


def test_the_page_tells_of_what_failed(monkeypatch):
    rows = list(known_rows())[:2]
    results = [
        {"row": rows[0].plain(), "dtype": "float32", "outcome": "works", "said": "7 token ids equal",
         "commit": "a" * 40, "fetch_s": 3.0, "load_s": 2.0, "look_s": 1.0, "peak_gb": 0.5},
        {"row": rows[1].plain(), "dtype": "float32", "outcome": "fails", "said": "no | such repository"},
    ]  # fmt: skip
    text = page(results, ["family `x`: 9.0 GB more"], "transformers 5")
    assert "2 looked at: 1 works, 1 fails." in text and "no \\| such repository" in text
    assert "@aaaaaaaaaaaa | **works**" in text and "3 / 2 / 1 | 0.5 |" in text
    assert "## Left out\n\n- family `x`: 9.0 GB more" in text
    assert os.uname().nodename not in text


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with two checkpoints, of which one is cut off, and two dictionaries, of which one is cut off."""
    root = tmp_path_factory.mktemp("hub")
    tiny_smolvlm.build(root / "tiny" / "smol", kind="idefics3")
    tiny_paligemma.build(root / "tiny" / "pali")
    broken = sorted((root / "tiny" / "pali").glob("*.safetensors"))[0]
    broken.write_bytes(broken.read_bytes()[:-100])
    weights = written.random_weights(unit_rows=True)
    config = {"architecture": "jumprelu", "dtype": "float32", "metadata": {"sae_lens_version": "6.54.0"}}
    written.write_saelens(
        root / "tiny" / "saes" / "layer_3", weights, {**config, "apply_b_dec_to_input": False}
    )
    written.write_gemma_scope(root / "tiny" / "scope" / "layer_3", weights)
    file = root / "tiny" / "scope" / "layer_3" / "params.npz"
    file.write_bytes(file.read_bytes()[:500])
    with serving(root) as server:
        yield server


ROWS = [
    {"name": "smol", "family": "idefics3", "repository": "tiny/smol"},
    {"name": "cut_off", "family": "paligemma", "repository": "tiny/pali"},
    {"name": "absent", "family": "llava", "repository": "tiny/nothing"},
    {"name": "sae", "format": "saelens", "repository": "tiny/saes", "file": "layer_3"},
    {"name": "cut_off_sae", "format": "gemma_scope", "repository": "tiny/scope", "file": "layer_3"},
]


def run(hub, tmp_path, *arguments):
    """Run `python -m published` as `make published` does, with both sides in this environment."""
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(ROWS))
    command = [sys.executable, "-m", "published", "--rows", str(tmp_path / "rows.yaml"), *arguments]
    command += ["--folder", str(tmp_path / "found"), "--other-python", sys.executable]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "workflow_scripts"), str(ROOT / "tests")]),
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)


def test_sizes_are_told_before_anything_is_fetched(hub, tmp_path):
    hub.sent.clear()
    done = run(hub, tmp_path)
    assert done.returncode == 2, done.stderr
    assert "0.00 GB  family smol: tiny/smol" in done.stdout and "GB  in all" in done.stdout
    assert "no such repository" in done.stdout and "Nothing was fetched" in done.stdout
    assert hub.sent == [] and not (tmp_path / "found").exists()


@pytest.mark.long
def test_what_works_and_what_fails_is_told_by_row(hub, tmp_path):
    hub.sent.clear()
    done = run(hub, tmp_path, "--most-gb", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    results = {
        file.parent.name: json.loads(file.read_text()) for file in tmp_path.glob("found/*/result.json")
    }
    outcomes = {name: result["outcome"] for name, result in results.items()}
    said = {name: result["said"] for name, result in results.items()}
    assert outcomes == {"smol": "works", "sae": "works"} | dict.fromkeys(
        ("cut_off", "absent", "cut_off_sae"), "fails"
    )
    assert "token ids equal" in said["smol"] and "firings alike" in said["sae"]
    assert "no such repository" in said["absent"]
    assert all(str(tmp_path) not in line and "\n" not in line for line in said.values()), said
    text = (tmp_path / "found" / "page.md").read_text()
    assert "5 looked at: " in text and all(line.replace("|", "\\|") in text for line in said.values())
    fetched = len(hub.sent)
    again = run(hub, tmp_path, "--most-gb", "1")
    assert again.returncode == 1 and "smol" not in again.stdout.partition("in all")[2]
    assert len(hub.sent) == fetched, "what was downloaded stays"
    assert "only" not in run(hub, tmp_path, "--only", "nobody").stdout


def test_a_broken_file_fails_alone_in_a_look(hub, tmp_path):
    """The looks themselves, in this process: what ours saw is what theirs saw."""
    from published import ours, theirs

    spec = {
        "family": "idefics3",
        "folder": str(hub.root / "tiny" / "smol"),
        "vision_tower": None,
        "dtype": "float32",
    }
    found, facts = ours.look_at_model(spec)
    assert compare.models(found, theirs.look_at_model(spec), "float32")[0]
    assert facts["shape"] == "2 blocks of width 32, 9 image tokens"
    with pytest.raises(Exception, match="cannot be loaded as family 'paligemma'"):
        ours.look_at_model({**spec, "family": "paligemma", "folder": str(hub.root / "tiny" / "pali")})


def test_a_dictionary_of_another_scale_is_noticed(hub, tmp_path):
    pytest.importorskip("sae_lens")
    from published import ours, theirs

    path = hub.root / "tiny" / "saes" / "layer_3"
    found, facts = ours.look_at_dictionary({"format": "saelens", "path": str(path), "k": None})
    assert facts["shape"] == "jumprelu, 16 x 96" and (found["z"] > 0).any()
    np.savez(tmp_path / "ours.npz", **found)
    spec = {"release": None, "path": str(path), "residuals": str(tmp_path / "ours.npz")}
    expected = theirs.look_at_dictionary(spec)
    assert compare.dictionaries(found, expected)[0]
    scaled = written.random_weights(unit_rows=True)
    scaled["threshold"] = torch.full_like(scaled["threshold"], 2.0)
    (tmp_path / "other").mkdir()
    other = written.write_saelens(
        tmp_path / "other" / "sae", scaled, json.loads((path / "cfg.json").read_text())
    )
    assert not compare.dictionaries(found, theirs.look_at_dictionary({**spec, "path": str(other)}))[0]
