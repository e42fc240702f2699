"""Rules say what they do, and their script, log, benchmark, resources and digest carry their name."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import elsewhere
import rule_lints
from dry_runs import DryRuns
from rule_texts import FILES, RULES

from vlmdiff.config.resources import NEEDS

ROOT = Path(__file__).parents[2]
TARGETS = {"all", "descriptions", "controls", "stages", "sensitivity", "sources", "world_models"}
TARGETS |= {"scoreboard", "chosen"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return the outputs, log, benchmark, environment and resources of all rules."""
    folder = elsewhere.write_parent(tmp_path_factory.mktemp("parent"))
    with DryRuns(folder) as runs:
        runs.plan("own/model.txt")
    own = {"count", "fetch_model"}
    found = elsewhere.facts(folder)["files"]
    return {name.removeprefix("vd_"): one for name, one in found.items() if name not in own}


def directive(rule: str, name: str) -> str | None:
    """Return the first line of what a rule gives for a directive."""
    found = re.search(rf"^    {name}:\n\s+(.+?),?\n", RULES[rule], flags=re.MULTILINE)
    return found and found[1]


def test_all_rules_are_read():
    written = sum(len(re.findall(r"^ *rule\b.*:$", file.read_text(), re.MULTILINE)) for file in FILES)
    assert len(RULES) == written > 70
    assert {name for name in RULES if directive(name, "script") is None} == TARGETS


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_what_it_does(name):
    # One line, of which `snakemake --list-rules` makes a table of contents.
    (sentence,) = re.findall(r'\A    """([^"\n]+)"""\n', RULES[name])
    assert sentence[0].isupper()
    assert sentence.endswith(".")
    assert sentence.startswith("Target: ") == (name in TARGETS | {"verify"})


@pytest.mark.parametrize("name", sorted(RULES.keys() - TARGETS))
def test_what_belongs_to_a_rule_carries_its_name(name, files):
    assert directive(name, "script") == f'"../workflow_scripts/{name}.py"'
    one = files[name]
    (log,) = one["log"]
    job = re.fullmatch(rf"results/tiny/logs/({name}(/.+)?)\.log", log)[1]
    # `verify` makes nothing, which nobody has to measure.
    assert one["benchmark"] == ("" if name == "verify" else f"results/tiny/benchmarks/{job}.tsv")
    assert one["environment"] == "../envs/vlmdiff.yaml"
    assert {"mem_mb", "runtime"} <= set(one["resources"])


def test_no_two_rules_share_a_log_or_a_benchmark(files):
    """A job that finds its log in use by another process ends that one, as of an interrupted run."""
    for kind in ("log", "benchmark"):
        found = [str(one[kind][0] if kind == "log" else one[kind]) for one in files.values() if one[kind]]
        assert len(found) > 60
        assert [name for name, count in Counter(found).items() if count > 1] == []


def test_jobs_are_called_as_the_parts_of_their_output_that_differ(files):
    logs = {name: one["log"][0] for name, one in files.items() if one["log"]}
    for name, job in {
        "extract_activations": "{model}/{dataset}/{layers}/shard_{block}",
        "import_dictionary": "{dictionary}/layer_{layer}",
        "evaluate_ablation": "seed_{seed}/{concept}/ablation_{scope}",
        "plot_comparisons": "{target}/{concept}",
    }.items():
        assert logs[name] == f"results/tiny/logs/{name}/{job}.log"
    assert logs["write_summary"] == "results/tiny/logs/write_summary.log"


def test_resources_are_planned_for_rules_that_exist():
    assert NEEDS.keys() <= RULES.keys() - TARGETS


def test_results_have_a_page_that_names_every_folder(files):
    page = (ROOT / "results" / "README.md").read_text()
    rows = re.findall(r"^\| (.+?) \|", page, flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w.]+)/?`", row)}
    written = {Path(file).parts[2] for one in files.values() for file in one["output"]}
    # Records, logs and measurements are written for every job; trainings that stopped go on from a state, and
    # those that ended are kept.
    assert named == written | {"provenance", "logs", "benchmarks", "checkpoints", "finished"}


def test_helpers_of_rules_have_no_folder_of_their_own():
    assert [folder.name for folder in (ROOT / "rules").iterdir() if folder.is_dir()] == ["captions"]


def test_lints_are_read_and_one_advice_is_not_followed():
    printed = (
        "Lints for snakefile a.smk:\n    * Mixed rules and functions in same snakefile.:\n      Small.\n"
        '    * Absolute path "/x" in line 3:\n      Do not define\n      absolute paths.\n\n'
        "Lints for rule b (line 4, rules/b.smk):\n    * No log directive defined:\n      Without one\n"
    )
    said = rule_lints.followed(printed)
    assert [one.split(":")[0] for one in said] == ['Absolute path "/x" in line 3', "No log directive defined"]
