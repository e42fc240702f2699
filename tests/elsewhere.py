"""A project that uses the workflow as a module from its own folder, and a checkout that cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from dependable.checkout import copy_checkout

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "workflow" / "config.yaml"
# What the whole of the parent's rules is known by, written whenever the Snakefile is read.
FACTS = """

import json

from vlmdiff.config.targets import plain

facts = {one.name: [sorted(one.params.keys()), one.name in workflow._localrules] for one in workflow.rules}
files = {
    one.name: {
        "output": list(map(plain, one.output)),
        "log": list(map(plain, one.log)),
        "benchmark": plain(one.benchmark or ""),
        "environment": one.conda_env,
        "resources": {name: str(getattr(value, "raw", value)) for name, value in one.resources.items()},
    }
    for one in workflow.rules
}
told = {"default": workflow.default_target, "report": workflow.report_text}
with open("facts.json", "w") as file:
    json.dump({"rules": facts, "files": files, **told}, file)
"""
PARENT = """configfile: "mine.yaml"


rule count:
    input:
        "results/tiny/world/data/{name}/samples.jsonl",
    output:
        "own/{name}.txt",
    shell:
        "wc -l < {input} > {output}"


MODULE


rule fetch_model:
    output:
        "own/model.txt",
    shell:
        "echo ours > {output}"
"""
MODULE = f"""module vlmdiff:
    snakefile:
        {str(ROOT / "Snakefile")!r}
    config:
        config["vlmdiff"]


use rule * from vlmdiff as vd_*"""


def write_parent(folder: Path, module: str = MODULE, **changed: Any) -> Path:
    """Write a project with two rules of its own that uses the workflow; return its folder.

    Args:
        folder: where to put it.
        module: its statements about the workflow.
        changed: keys of the workflow's config, in place of the tiny experiment's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Snakefile").write_text(PARENT.replace("MODULE", module) + FACTS)
    values = {"seed": "a key of its own", "vlmdiff": yaml.safe_load(TINY.read_text()) | changed}
    (folder / "mine.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder


def facts(folder: Path) -> dict[str, Any]:
    """Return what the parent's Snakefile wrote down when it was read last."""
    return json.loads((folder / "facts.json").read_text())


def snakemake(
    *arguments: str, folder: Path, before: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake on one core in a folder.

    Args:
        arguments: of Snakemake.
        folder: working directory of the process.
        before: a command that runs it.
        environment: variables beside those of this process.
    """
    command = [*before, sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    variables = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **environment}
    return subprocess.run(command, cwd=folder, env=variables, text=True, capture_output=True, check=False)


def hosted(folder: Path) -> dict[str, str]:
    """Make the working tree a repository that `github("someone/vlmdiff", …)` fetches.

    Returns:
        the environment in which git finds it.
    """
    copy_checkout(folder)
    for words in (
        ["init", "--quiet", "--initial-branch", "trunk"],
        ["add", "--all"],
        ["commit", "--quiet", "-m", "all"],
    ):
        author = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *author, *words], cwd=folder, check=True)
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{folder}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/someone/vlmdiff",
    }


def read_only(checkout: Path) -> tuple[str, ...] | None:
    """Return a command that runs another one for which a folder is read-only.

    Returns:
        None where the system does not allow that.
    """
    mount = f"mount --bind {checkout} {checkout} && mount -o remount,bind,ro {checkout}"
    before = ("unshare", "--map-root-user", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    try:
        tried = subprocess.run([*before, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return before if tried.returncode == 0 else None
