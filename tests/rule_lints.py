"""`snakemake --lint`, except for one of its advices: run it as a script, from the folder of the workflow.

Snakemake wants all functions of a workflow in one file. Here a function stands directly above the
rule that uses it, so that a rule can be read without another file.
"""

from __future__ import annotations

import re
import subprocess
import sys

NOT_FOLLOWED = "Mixed rules and functions in same snakefile."
LINT = re.compile(r"^    \* (.+):\n((?:      .*\n)*)", re.MULTILINE)


def followed(printed: str) -> list[str]:
    """Return what Snakemake's linter says of rules, without the advice that is not followed."""
    return [f"{title}: {text.strip()}" for title, text in LINT.findall(printed) if title != NOT_FOLLOWED]


def main() -> int:
    """Print what is left; return 1 if anything is, or if the linter failed."""
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint"], capture_output=True, text=True, check=False
    )
    printed = run.stdout + run.stderr
    left = followed(printed)
    if run.returncode and not LINT.search(printed):
        left.append(printed)
    print("\n".join(left) or "Rules are as Snakemake's linter wants them.")
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
