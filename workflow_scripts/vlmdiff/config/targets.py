"""Why nothing makes what somebody asked for, and what is near it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import PurePath
from types import MappingProxyType

# A wildcard of a rule's output, `{name,constraint}`; of a constraint only braces of one level are read.
WILDCARD = re.compile(r"\{(\w+)(?:,((?:[^{}]|\{[^{}]*\})*))?\}")
CHOICES = re.compile(r"[\w|]+")
# A whole number as jobs write it: another way to write it would be another file of the same job.
NUMBER = r"0|[1-9]\d*"
SHOWN = 12
# What `vlmdiff.config.together` puts behind the name of a rule.
LAYERS = re.compile(r"_(alone|\d+_\d+)$")
# A layer in the path of an output, in a rule whose jobs make the files of several layers.
LAYER = re.compile(r"(?<=/layer_)\d+(?=[/.])")
# Rules whose jobs may wait for each other, and what to ask for in the place of `--until`: Snakemake takes all
# jobs of such a rule for its last ones, never starts those that wait, and calls that a bug of its own.
STARVING = MappingProxyType(
    {
        "train_dictionary": "`--until evaluate_dictionary`, or for files by name",
        "prepare_dataset": "the target `sources`",
    }
)


def constraints(pattern: str) -> dict[str, str]:
    """Return the regular expression that each wildcard of an output must match."""
    found = list(WILDCARD.finditer(pattern))
    # A wildcard that comes again is constrained where it comes first.
    return {match[1]: ".+" for match in found} | {match[1]: match[2] for match in found if match[2]}


def plain(pattern: str) -> str:
    """Return an output's path without the constraints of its wildcards."""
    return WILDCARD.sub(r"{\1}", pattern)


def by_layer(pattern: str, layers: str) -> str:
    """Return an output with a wildcard in the place of its layer; `layers` is its constraint."""
    return LAYER.sub(f"{{layer,{layers}}}", pattern, count=1)


def loose(pattern: str) -> re.Pattern:
    """Return what an output matches whatever the values of its wildcards, none of which holds a slash."""
    parts, end, seen = [], 0, set()
    for match in WILDCARD.finditer(pattern):
        name = match[1]
        parts += [
            re.escape(pattern[end : match.start()]),
            f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)",
        ]
        end = match.end()
        seen.add(name)
    return re.compile("".join(parts) + re.escape(pattern[end:]))


def wrong_values(target: str, pattern: str) -> dict[str, str] | None:
    """Return the wildcards with values that are not allowed, and their constraints; None without a match."""
    found = loose(pattern).fullmatch(target)
    if found is None:
        return None
    allowed = constraints(pattern)
    return {
        name: allowed[name]
        for name, value in found.groupdict().items()
        if not re.fullmatch(allowed[name], value)
    }


def expected(name: str, value: str, constraint: str) -> str:
    """Say what a wildcard was found to be, and what it may be."""
    if not CHOICES.fullmatch(constraint):
        known = "a whole number" if constraint == NUMBER else "something else"
        return (
            f"{name}: found '{value}', expected {known if constraint != '(?!)' else 'nothing of this kind'}"
        )
    choices = constraint.split("|")
    near = get_close_matches(value, choices, n=1)
    listed = ", ".join(choices[:SHOWN]) + (" …" if len(choices) > SHOWN else "")
    return f"{name}: found '{value}', expected one of {listed}" + (
        f"; did you mean {near[0]}?" if near else ""
    )


def starves(rule: str) -> bool:
    """Tell whether the jobs of a rule may wait for each other, whichever layers it stands for."""
    return LAYERS.sub("", rule) in STARVING


def explain_starving(rule: str) -> str:
    """Say in one line that `--until` a rule whose jobs wait for each other comes to no end."""
    why = "its jobs may wait for each other, and Snakemake would never start those that wait"
    return f"--until {rule}: {why}; ask for {STARVING[LAYERS.sub('', rule)]}"


def explain_target(
    target: str, outputs: Mapping[str, Iterable[str]], files: Iterable[str], experiment: str
) -> str:
    """Say in one line why no rule makes a target.

    Args:
        target: a file or the name of a rule that nobody knows, or of a rule that makes many files.
        outputs: the outputs of each rule, wildcards and their constraints included.
        files: files that can be asked for.
        experiment: name of the experiment.
    """
    if target in outputs:
        return (
            f"{target} makes one set of files for each of many cases; ask for a file, such as "
            f"{plain(next(iter(outputs[target])))} with values for what stands in braces"
            + (f", or make all with `--until {target}`" if not starves(target) else "")
        )
    parts = PurePath(target).parts
    if len(parts) > 2 and parts[0] == "results" and parts[1] != experiment:
        return (
            f"{target}: results of experiment '{parts[1]}', but this configuration describes '{experiment}'; "
            "name the other one with --configfile"
        )
    patterns = [pattern for rule in outputs.values() for pattern in rule]
    wrong = [(found, pattern) for pattern in patterns if (found := wrong_values(target, pattern))]
    if wrong:
        found, pattern = min(wrong, key=lambda pair: len(pair[0]))
        values = loose(pattern).fullmatch(target).groupdict()
        reasons = [expected(name, values[name], constraint) for name, constraint in found.items()]
        return f"{target}: {'; '.join(reasons)}"
    near = get_close_matches(target, [*outputs, *files], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`snakemake --list-target-rules` lists targets"
    return f"{target}: nothing of this name can be made; {hint}"
