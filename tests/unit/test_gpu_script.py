"""The script for GPUs runs at toy sizes on a CPU, so that it is ready when a GPU is at hand."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[1] / "gpu" / "run.py"


def run(*arguments: str, **values) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=3600, **values)


@pytest.mark.long
@pytest.mark.slow
def test_every_check_holds_on_a_cpu(tmp_path):
    sections = ["operations", "step_times"]
    done = run("--device", "cpu", "--small", "--only", *sections, "--out", str(tmp_path / "table.csv"))
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(tmp_path / "table.csv")
    checked = table[table.holds.notna()]
    assert set(checked.holds) == {"yes"} and len(checked) > 40
    assert set(table.section) == set(sections) and not (table.what == "left out").any()


@pytest.mark.long
def test_tritons_loops_hold_by_their_interpreter(tmp_path):
    sections, out = ["loops", "operations"], tmp_path / "table.csv"
    done = run("--device", "cpu", "--small", "--interpret", "--only", *sections, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(out)
    checked = table[table.holds.notna()]
    assert set(checked.holds) == {"yes"}
    assert (checked.section == "loops").sum() >= 20


@pytest.mark.slow
@pytest.mark.long
def test_the_longer_sections_run_too(tmp_path):
    out = tmp_path / "table.csv"
    done = run("--device", "cpu", "--small", "--only", "trainings", "forward_passes", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not pd.read_csv(out).what.isin(["left out", "failed"]).any()


def test_a_wrong_result_fails_the_run(monkeypatch, capsys):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import outcomes
    import run as script

    wrong = outcomes.at_most("operations", "size", "error", float("nan"), 1e-4)
    assert wrong.holds is False
    monkeypatch.setattr(script, "run_section", lambda name, setting: [wrong])
    assert script.main(["--device", "cpu", "--small", "--only", "operations"]) == 1
    assert "NO" in capsys.readouterr().out
    monkeypatch.setattr(script, "lacking", lambda names: ["numba"])
    assert script.main(["--device", "cpu"]) == 2
    assert "missing: numba" in capsys.readouterr().err
