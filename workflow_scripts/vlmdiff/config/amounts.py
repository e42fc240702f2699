"""What a configuration may ask of the machine for a rule, by the names that Snakemake knows."""

from __future__ import annotations

import re
from typing import Any

DURATION = re.compile(r"(\d+(\.\d+)?\s*(s|m|h|d|w)[a-z]*\s*)+")
# Resources that are numbers, with the least that makes sense.
LEAST = {"mem_mb": 1, "disk_mb": 1, "runtime": 1, "gpu": 0}
# What is said in another place.
ELSEWHERE = {
    "mem": "`mem_mb`, a number of megabytes",
    "mem_mib": "`mem_mb`, a number of megabytes",
    "threads": "`threads`, a key of the whole configuration",
    "nodes": "`nodes` of the dictionary that is trained",
    "tasks": "`devices` and `nodes` of the dictionary that is trained",
    "tasks_per_gpu": "`devices` of the dictionary that is trained",
}


def amount_problem(name: str, value: Any) -> str | None:
    """Say what is wrong with a resource of a rule; None if nothing is.

    Args:
        name: as Snakemake knows it.
        value: as it was written.
    """
    if name in ELSEWHERE:
        return f"found '{value}', expected {ELSEWHERE[name]}"
    if name.startswith("_"):
        return "unknown resource: names with an underscore in front are Snakemake's own"
    if isinstance(value, bool):
        return f"found {str(value).lower()}, expected a number or a text"
    least = LEAST.get(name)
    if least is None or (name == "runtime" and isinstance(value, str) and DURATION.fullmatch(value)):
        return None
    if isinstance(value, int) and value >= least:
        return None
    words = {
        "runtime": "minutes, or a duration such as 12h",
        "gpu": "a number of GPUs; `gpu_model` names their kind",
    }
    return f"found {value!r}, expected {words.get(name, 'megabytes')}, at least {least}"


def check_amounts(resources: Any) -> Any:
    """Return what a configuration asks of the machine, as it was written.

    Args:
        resources: by rule, then by name.

    Raises:
        ValueError: naming rule, resource, what was found and what was expected.
    """
    for rule, asked in resources.items() if isinstance(resources, dict) else ():
        for name, value in asked.items() if isinstance(asked, dict) else ():
            if problem := amount_problem(str(name), value):
                raise ValueError(f"{rule}.{name}: {problem}")
    return resources
