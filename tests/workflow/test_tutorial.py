"""docs/start/your_own_model.md is followed to the letter, on two tiny checkpoints and 60 photos."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import own_photos
import pandas as pd
import pytest
import yaml

from vlmdiff.config.load import load_config

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "start" / "your_own_model.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What the page's title promises, on two cores.
PROMISED_SECONDS = 15 * 60
LONGEST = 15


def blocks(kind: str) -> list[str]:
    """Return the page's code blocks of a kind, in order."""
    return [text for found, text in BLOCK.findall(PAGE.read_text()) if found == kind]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout as the page expects it, with two checkpoints and 60 photos in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("Makefile", "Snakefile", "rules", "workflow_scripts", "resources", "envs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "config").mkdir()
    own_photos.write_checkpoints(folder / "checkpoints")
    own_photos.write_photos(folder / "photos", photos=60)
    return folder


def follow(command: str, folder: Path, seconds: int | None = None) -> str:
    """Run a block of the page in a shell and return what it prints."""
    # The environment is there; what else would tell so is younger than a link to it.
    command = re.sub(r"^make ", "make -o .venv/installed ", command).replace("--cores all", "--cores 2")
    run = subprocess.run(
        ["bash", "-euc", command],
        cwd=folder,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


@pytest.fixture(scope="module")
def written(checkout):
    """The checkout with the config that the page's command writes."""
    follow(blocks("sh")[0], checkout)
    return checkout


def test_the_samples_look_as_the_page_shows_them(checkout):
    shown = blocks("csv")[0].splitlines()
    found = (checkout / "photos" / "samples.csv").read_text().splitlines()
    assert shown[0] == found[0]
    assert set(shown) <= set(found)


def test_the_page_names_what_is_there(checkout):
    for line in blocks("text")[0].splitlines():
        assert (checkout / line.split()[0]).is_dir()


def test_a_config_of_fifteen_lines_is_enough(written, monkeypatch):
    monkeypatch.chdir(written)
    by_hand, by_command = blocks("yaml")[0], (written / "config" / "mine.yaml").read_text()
    assert max(len(by_hand.splitlines()), len(by_command.splitlines())) <= LONGEST
    one, other = (load_config(yaml.safe_load(text), name="mine") for text in (by_hand, by_command))
    # They differ in the name of the concept and in its words.
    assert one.dictionaries == other.dictionaries and one.layers == other.layers
    assert one.concepts["space"].target == other.concepts["left_of_above"].target


@pytest.mark.workflow
def test_mistakes_would_be_told_before_anything_runs(written):
    _, dry_run, *_ = blocks("sh")
    assert "evaluate_ablation" in follow(dry_run, written)
    assert not (written / "results").exists()
    samples = written / "photos" / "samples.csv"
    right = samples.read_text()
    samples.write_text(right.replace("photo 007.png", "photo 777.png", 1))
    with pytest.raises(AssertionError, match="photo 777.png"):
        follow(dry_run, written)
    samples.write_text(right)


@pytest.mark.long
@pytest.mark.workflow
def test_the_first_result_is_there_in_time(written):
    activate, run = blocks("sh")[1].splitlines()[0], blocks("sh")[2]
    follow(f"{activate}\n{run}", written, PROMISED_SECONDS)
    summary = (written / "results" / "mine" / "summary.md").read_text()
    assert summary.startswith("# Summary of experiment mine")
    funnel = pd.read_csv(written / "results/mine/features/main/seed_0/left_of_above/funnel.csv")
    assert funnel.loc[(funnel["layer"] < 0) & (funnel["stage"] == "all"), "features"].item() == 3 * 256
    again = follow(f"{activate}\n{run}", written)
    assert "Nothing to be done" in again
