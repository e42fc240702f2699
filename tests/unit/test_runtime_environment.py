"""What a user's environment says changes no figure, stops no job, and is no error where it cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from vlmdiff.kernels import compiled
from vlmdiff.runtime.digest import imported_names, parse
from vlmdiff.runtime.environment import InterpreterError, default_style, neutralise, prepare_jobs

ROOT = Path(__file__).parents[2]
JOB = """
import sys, types, warnings
from vlmdiff.runtime.job import job
parts = dict(wildcards={}, params={}, input=[], output=[])
with job(types.SimpleNamespace(log=[sys.argv[1] + "/job.log"], threads=1, rule="plot", **parts)):
    import matplotlib.pyplot
    import pandas as pd
    from matplotlib.figure import Figure
    from vlmdiff.figures.save import save_figure
    from vlmdiff.figures.style import new_figure, styled
    warnings.warn("a remark", FutureWarning)

    @styled
    def draw(frame: pd.DataFrame) -> Figure:
        figure = new_figure(60.0, 40.0)
        axis = figure.subplots()
        axis.plot(frame["x"], frame["y"], label="line")
        axis.set(xlabel="x (1.5)", title="Überschrift", yscale="log")
        axis.legend()
        return figure

    figure = draw(pd.DataFrame({"x": [0.0, 1.5, 2.5], "y": [1.0, 20.5, 300.0]}))
    save_figure(figure, [f"{sys.argv[1]}/figure.{kind}" for kind in ("pdf", "svg", "png")])
"""
STYLE = """
font.size: 30
font.family: serif
axes.grid: True
axes.formatter.use_locale: True
savefig.bbox: tight
savefig.transparent: True
figure.dpi: 17
svg.fonttype: none
pdf.compression: 0
path.sketch: 3, 50, 2
lines.linestyle: :
not.a.key: 7
"""


def drawn(folder: Path, **variables: str) -> dict[str, bytes]:
    """Draw a figure in a job under an environment; return its files."""
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": "workflow_scripts", **variables}
    command = [sys.executable, "-c", JOB, str(folder)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.suffix: path.read_bytes() for path in folder.glob("figure.*")}


def test_a_figure_is_the_same_byte_for_byte_in_a_hostile_environment(tmp_path):
    style = tmp_path / "matplotlibrc"
    style.write_bytes(STYLE.encode() + b"# not \xff UTF-8\n")
    hostile = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline", "MATPLOTLIBRC": str(style),
        "MPLCONFIGDIR": "/proc/nothing", "XDG_CACHE_HOME": "/proc/nothing", "HOME": "/proc/nothing",
        "PYTHONWARNINGS": "error::FutureWarning", "PYTHONHASHSEED": "7", "LC_ALL": "C", "LANG": "de_DE.UTF-8",
        "TZ": "Asia/Tokyo", "COLUMNS": "7", "NO_COLOR": "1", "NUMBA_CACHE_DIR": "/proc/nothing",
        "SOURCE_DATE_EPOCH": "1",
    }  # fmt: skip
    plain = drawn(tmp_path / "plain")
    assert set(plain) == {".pdf", ".svg", ".png"}
    assert drawn(tmp_path / "hostile", **hostile) == plain


def test_the_environment_of_a_job_is_neutral(monkeypatch):
    for name, value in (("MPLBACKEND", "nbagg"), ("MATPLOTLIBRC", "/mine"), ("NUMBA_DISABLE_JIT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "warnoptions", ["error"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        neutralise()
        warnings.warn("a remark", ImportWarning, stacklevel=1)
        with warnings.catch_warnings(record=True) as seen:
            warnings.warn("a remark", UserWarning, stacklevel=1)
    assert len(seen) == 1
    assert os.environ["MPLBACKEND"] == "agg"
    assert os.environ["MATPLOTLIBRC"] == default_style()
    assert Path(default_style()).parent.name == "mpl-data"
    assert "NUMBA_DISABLE_JIT" not in os.environ


def places(monkeypatch, tmp_path, *usable: int) -> list[Path]:
    """Offer three folders for compiled loops, of which some can be used."""
    found = [tmp_path / str(i) if i in usable else Path(f"/proc/nothing/{i}") for i in range(3)]
    monkeypatch.setattr(compiled, "folders", lambda: iter(found))
    return found


def test_compiled_loops_are_kept_where_they_can_be(monkeypatch, tmp_path):
    found = places(monkeypatch, tmp_path, 1, 2)
    assert compiled.cache_folder() == found[1]
    places(monkeypatch, tmp_path)
    assert compiled.cache_folder() is None


def test_compiled_loops_are_read_from_no_folder_in_which_others_write(monkeypatch, tmp_path):
    found = places(monkeypatch, tmp_path, 0, 1)
    found[0].mkdir()
    found[0].chmod(0o777)
    assert compiled.cache_folder() == found[1]


def test_every_room_with_compiled_loops_is_in_the_name_of_their_folder():
    users = {
        file.relative_to(compiled.LIBRARY).parts[0]
        for file in compiled.LIBRARY.rglob("*.py")
        if {"vlmdiff.kernels.compiled.compiled", "vlmdiff.kernels.compiled.parallel"}
        & set(imported_names(parse(file)))
    }
    assert users == set(compiled.ROOMS)


def test_loops_are_compiled_where_nothing_can_be_kept(tmp_path):
    """Neither beside the sources, nor in the user's folder, nor in a temporary one."""
    script = """
import tempfile
from pathlib import Path
def refuse(*args, **kwargs):
    raise PermissionError(13, "Permission denied")
Path.mkdir = refuse
tempfile.gettempdir = lambda: "/proc/nothing"
from vlmdiff.kernels import compiled
assert compiled.CACHE is None
@compiled.compiled
def twice(x):
    return 2 * x
print(twice(21))
"""
    environment = {**os.environ, "PYTHONPATH": "workflow_scripts", "NUMBA_CACHE_DIR": "/proc/nothing"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "42", done.stderr


@pytest.mark.parametrize("name", ["my env", "it's", 'a"b', "a$b"])
def test_an_interpreter_that_snakemake_cannot_start_is_refused_with_what_to_do(monkeypatch, tmp_path, name):
    monkeypatch.setattr(sys, "executable", str(tmp_path / name / "bin" / "python"))
    with pytest.raises(InterpreterError, match="cannot start scripts with blanks or quotes.*python3 -m venv"):
        prepare_jobs()


def test_jobs_get_their_environment_unless_the_user_has_one(monkeypatch):
    monkeypatch.setattr(os, "environ", {"OMP_WAIT_POLICY": "ACTIVE"})
    prepare_jobs()
    assert os.environ == {
        "PYTHONUTF8": "1",
        "OMP_WAIT_POLICY": "ACTIVE",
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**30),
    }
