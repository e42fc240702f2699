"""docs/understand/figures.md, "A new figure": its code blocks make a figure as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import synthetic_tables as tables

from vlmdiff.config.load import load_config
from vlmdiff.config.products import summary_tables
from vlmdiff.tables.io import write_table
from vlmdiff.tables.models import DICTIONARY_METRICS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "understand" / "figures.md").read_text()
RECIPE = PAGE.partition("## A new figure")[2].partition("\n## ")[0]
BLOCKS = [dedent(text) for text in re.findall(r"^ *```\w+\n(.*?)^ *```$", RECIPE, flags=re.M | re.S)]
MODULE, ADAPTER, RULE, CAPTION = BLOCKS


def test_the_module_draws_a_table_and_says_that_one_is_empty():
    names: dict[str, Any] = {}
    exec(compile(MODULE, "sparsity.py", "exec"), names)
    draw, metrics = names["sparsity"], tables.dictionary_metrics(tables.STRONG)
    (axis,) = draw(metrics).axes
    shown = metrics[(metrics["snapshot"] == 100) & (metrics["tokens"] == "all")]
    assert sum(len(line.get_xdata()) for line in axis.lines) == len(shown) > 0
    empty = draw(metrics.iloc[:0])
    assert not empty.axes and [text.get_text() for text in empty.texts] == ["No dictionary was evaluated."]


def test_rule_adapter_and_caption_make_the_files(tmp_path):
    """Snakemake makes the figure in a copy of the workflow, from tables that lie where they belong."""
    for name in ("Snakefile", "config", "resources", "envs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("rules", "workflow_scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "workflow_scripts/vlmdiff/figures/sparsity.py").write_text(MODULE)
    (tmp_path / "workflow_scripts/plot_sparsity.py").write_text(ADAPTER)
    (tmp_path / "rules/captions/figures/sparsity.rst").write_text(CAPTION)
    with (tmp_path / "rules/figures.smk").open("a") as file:
        file.write(f"\n\n{RULE}")
    config = ROOT / "tests" / "workflow" / "config.yaml"
    values = yaml.safe_load(config.read_text())
    for path in summary_tables(load_config(values))["metrics"]:
        write_table(
            tables.dictionary_metrics(tables.STRONG),
            DICTIONARY_METRICS,
            tmp_path / "results" / values["experiment"] / path,
        )
    target = f"results/{values['experiment']}/figures/sparsity"
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", str(config)]
    command += ["--allowed-rules", "plot_sparsity", "--", f"{target}.svg"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert all((tmp_path / f"{target}.{ending}").stat().st_size > 500 for ending in ("pdf", "svg", "png"))
