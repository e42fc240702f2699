"""The rules of the workflow as they are written, by name."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]
# A rule of its own, or one for each of several groups of layers, whose names begin alike.
RULE = re.compile(r"^((?:    )?)rule(?: (\w+))?:\n((?:(?:\1    .*)?\n)+)", re.MULTILINE)
NAMED = re.compile(r"^ +name:\n +f\"(\w+)\{suffix\}\"\n", re.MULTILINE)


def rules(files: list[Path] = FILES) -> dict[str, str]:
    """Return the text of each rule, without its first line and as if it stood alone."""
    found = {}
    for file in files:
        for indent, name, body in RULE.findall(file.read_text()):
            own = name or NAMED.search(body)[1]
            found[own] = NAMED.sub("", textwrap.indent(textwrap.dedent(body), "    ") if indent else body)
    return found


RULES = rules()
