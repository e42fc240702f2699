"""What people install: the environment by conda, the library by pip; and the page of the results folder."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import elsewhere
import pytest
import yaml
from dependable.checkout import copy_checkout
from packaging.requirements import Requirement

from vlmdiff.config import document as config_document
from vlmdiff.tables import document as tables_document

ROOT = elsewhere.ROOT
LIBRARY = ROOT / "workflow_scripts" / "vlmdiff"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Brought along by others under the one version that they want.
OF_ANOTHER = {"pydantic_core"}
CONFIG = "results/tiny/config.yaml"
# Answers what Snakemake asks of conda. An environment is a `python` that notes each start of it.
CONDA = """#!/bin/bash
set -eu
case "${{1-}} ${{2-}}" in
    "info --json") echo '{{"conda_prefix": "{base}", "platform": "linux-64"}}' ;;
    "config --get") echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
    "env create")
        while [ "$1" != --file ]; do shift; done; file="$2"
        while [ "$1" != --prefix ]; do shift; done; mkdir -p "$2/bin"
        cp "$file" "{base}/asked-for-$(ls "{base}" | wc -l).yaml"
        printf '#!/bin/sh\\necho "$@" >> "{base}/starts"\\nexec "{python}" "$@"\\n' > "$2/bin/python"
        chmod +x "$2/bin/python" ;;
    *) echo "conda 25.1.0" ;;
esac
"""


@pytest.fixture
def conda(tmp_path: Path) -> dict[str, str]:
    """The environment in which Snakemake finds a stand-in for conda, and no library but its own."""
    base = tmp_path / "conda"
    (base / "bin").mkdir(parents=True)
    (base / "bin" / "conda").write_text(CONDA.format(base=base, python=sys.executable))
    (base / "bin" / "conda").chmod(0o755)
    (base / "bin" / "activate").write_text('export PATH="$1/bin:$PATH"\n')
    return {
        "PATH": f"{base / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "tests" / "without_libraries"),
        "WITHOUT_LIBRARIES": " ".join(sorted(imported() - known_to_snakemake())),
    }


def imported() -> set[str]:
    """Return the top modules, not Python's and not its own, that the library imports."""
    found = set()
    for file in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"vlmdiff"}


def known_to_snakemake() -> set[str]:
    """Return the top modules of Snakemake and of all that it requires."""
    todo, seen = ["snakemake"], set()
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name not in seen:
            seen.add(name)
            needed = [Requirement(one) for one in requires(name) or ()]
            todo += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return {
        module
        for module, names in packages_distributions().items()
        if any(name.lower().replace("_", "-") in seen for name in names)
    }


def pinned() -> dict[str, str]:
    """Return the version of each distribution in requirements.txt."""
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "envs" / "requirements.txt").read_text(), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in lines}


def test_the_conda_environment_has_the_pins():
    given = yaml.safe_load((ROOT / "envs" / "vlmdiff.yaml").read_text())
    *_, packages = given["dependencies"]
    found = dict(one.split("==") for one in packages["pip"])
    assert {name.lower().replace("_", "-"): version for name, version in found.items()} == pinned(), (
        "run make envs/vlmdiff.yaml"
    )


def test_jobs_run_in_conda_environments_that_follow_the_pins(tmp_path, conda):
    assert {"torch", "numpy", "h5py", "xxhash"} <= set(conda["WITHOUT_LIBRARIES"].split())
    checkout = copy_checkout(tmp_path / "checkout")
    snakefile = ("--snakefile", str(checkout / "Snakefile"), "--configfile", str(elsewhere.TINY))
    place = tmp_path / "place"
    place.mkdir()
    first = elsewhere.snakemake("--sdm", "conda", *snakefile, "--", CONFIG, folder=place, **conda)
    assert first.returncode == 0, first.stdout + first.stderr
    (asked,) = (tmp_path / "conda").glob("asked-for-*.yaml")
    assert asked.read_bytes() == (ROOT / "envs" / "vlmdiff.yaml").read_bytes()
    # Snakemake asks for its version first.
    assert (tmp_path / "conda" / "starts").read_text().splitlines()[-1].endswith(".write_config.py")
    assert yaml.safe_load((place / CONFIG).read_text())["experiment"] == "tiny"

    pins = checkout / "envs" / "requirements.txt"
    pins.write_text(pins.read_text().replace(f"xxhash=={pinned()['xxhash']}", "xxhash==0.0.1"))
    subprocess.run([sys.executable, "envs/to_conda.py"], cwd=checkout, check=True)
    second = elsewhere.snakemake("--sdm", "conda", "-n", *snakefile, "--", CONFIG, folder=place, **conda)
    said = second.stdout + second.stderr
    assert second.returncode == 0, said
    assert "will be created" in said
    assert "Software environment definition has changed" in said


def test_what_the_library_imports_are_its_dependencies_from_the_pins_on():
    given = {Requirement(one).name.lower().replace("_", "-"): one for one in PROJECT["dependencies"]}
    names = packages_distributions()
    needed = {names[module][0] for module in imported() if module in names} - OF_ANOTHER
    optional = {Requirement(one).name for extra in PROJECT["optional-dependencies"].values() for one in extra}
    assert {name.lower().replace("_", "-") for name in needed} - optional <= set(given)
    for name, line in given.items():
        (lower, upper) = sorted(Requirement(line).specifier, key=lambda part: part.operator, reverse=True)
        assert (lower.operator, lower.version) == (">=", pinned()[name]), line
        assert (upper.operator, upper.version) == ("<", str(int(pinned()[name].split(".")[0]) + 1)), line


def test_the_library_installs_with_pip_and_knows_that_it_has_no_workflow(tmp_path):
    source = tmp_path / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(LIBRARY, source / "workflow_scripts" / "vlmdiff", ignore=shutil.ignore_patterns("__pyc*"))
    offline = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("vlmdiff-*.whl")
    with zipfile.ZipFile(wheel) as files:
        packed = {name for name in files.namelist() if ".dist-info/" not in name}
    kept = {path for path in LIBRARY.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert packed == {path.relative_to(LIBRARY.parent).as_posix() for path in kept}

    target = tmp_path / "installed"
    subprocess.run([*pip, "install", *offline, "--target", str(target), str(wheel)], check=True)

    def run(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(target)}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, text=True, capture_output=True
        ).stdout

    assert run("-m", "vlmdiff.config.document") == config_document.DOCUMENT.read_text()
    tables = run("-m", "vlmdiff.tables.document")
    assert tables_document.DOCUMENT.read_text().endswith(tables)
    said = run(
        "-c", "from vlmdiff.config import places; print(places.ROOT, places.located('resources/world'))"
    )
    assert said.split() == ["None", "resources/world"]


def test_jobs_import_the_library_of_their_workflow_whatever_is_installed(tmp_path):
    other = tmp_path / "other" / "vlmdiff"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise RuntimeError('the wrong library')\n")
    run = elsewhere.snakemake(
        "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(elsewhere.TINY), "--", CONFIG,
        folder=tmp_path, PYTHONPATH=str(other.parent),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]


def test_the_page_is_all_that_git_keeps_of_results_and_cleaning_leaves_it(tmp_path):
    listed = subprocess.run(
        ["git", "ls-files", "results"], cwd=ROOT, text=True, capture_output=True, check=True
    ).stdout
    assert listed.split() == ["results/README.md"]
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("results/README.md", "results/builtin/summary.md", "results/report.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    subprocess.run(["make", "--silent", "clean"], cwd=tmp_path, check=True)
    assert [file.name for file in (tmp_path / "results").iterdir()] == ["README.md"]


def test_the_image_is_made_from_what_it_copies(tmp_path):
    lines = (ROOT / "envs" / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1:] for line in lines if line.startswith("COPY ")]
    for source, target in copied:
        place = tmp_path / target.removeprefix("/opt/vlmdiff/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, place)
    (made,) = (line.split()[-1] for line in lines if line.startswith("RUN make -C /opt/vlmdiff "))
    said = subprocess.run(
        ["make", "-n", made], cwd=tmp_path, text=True, capture_output=True, check=True
    ).stdout
    assert "pip install" in said
    assert "-r envs/requirements.txt" in said
