"""Rules say what they do, and their script, log, benchmark, resources and digest carry their name."""

import re
from pathlib import Path

import pytest
import rule_lints

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]
RULE = re.compile(r"^rule (\w+):\n((?:(?:[ ]+.*)?\n)+)", re.MULTILINE)
RULES = {name: body for file in FILES for name, body in RULE.findall(file.read_text())}
TARGETS = {"all", "descriptions", "controls", "stages", "sensitivity", "world_models"}
# What is computed from the resources of another rule.
RESOURCES = {"train_dictionary": "training_resources()", "estimate_scale": "scale_resources()"}


def directive(rule: str, name: str) -> str | None:
    """Return the first line of what a rule gives for a directive."""
    found = re.search(rf"^    {name}:\n\s+(.+?),?\n", RULES[rule], flags=re.MULTILINE)
    return found and found[1]


def test_all_rules_are_read():
    assert len(RULES) == sum(file.read_text().count("\nrule ") for file in FILES) > 70
    assert {name for name in RULES if directive(name, "script") is None} == TARGETS


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_what_it_does(name):
    # One line, of which `snakemake --list-rules` makes a table of contents.
    (sentence,) = re.findall(r'\A    """([^"\n]+)"""\n', RULES[name])
    assert sentence[0].isupper()
    assert sentence.endswith(".")
    assert sentence.startswith("Target: ") == (name in TARGETS | {"verify"})


@pytest.mark.parametrize("name", sorted(RULES.keys() - TARGETS))
def test_what_belongs_to_a_rule_carries_its_name(name):
    assert directive(name, "script") == f'"../workflow_scripts/{name}.py"'
    assert directive(name, "conda") == '"../envs/vlmdiff.yaml"'
    assert f'code=code_digest("{name}")' in RULES[name]
    resources = RESOURCES.get(name, f'rule_resources("{name}", ')
    assert directive(name, "resources").startswith(f"**{resources}")
    jobs = re.fullmatch(r'logs\("(.+)"\)', directive(name, "log"))[1]
    assert re.fullmatch(rf"{name}(/.+)?", jobs)
    # `verify` makes nothing, which nobody has to measure.
    assert directive(name, "benchmark") == (None if name == "verify" else f'benchmarks("{jobs}")')


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
