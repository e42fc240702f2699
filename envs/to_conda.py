"""Writes envs/vlmdiff.yaml, the environment of `snakemake --sdm conda`, from the pins of requirements.txt.

Snakemake copies that file before conda reads it, so that it cannot refer to another one. When the file
changes, Snakemake makes a new environment.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
HEAD = """\
# Written by `make envs/vlmdiff.yaml` from requirements.txt, the one place that pins the software.
channels: [conda-forge, nodefaults]
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def pins(text: str) -> list[str]:
    """Return the requirements in a file's text, without comments and blank lines."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def environment(requirements: str) -> str:
    """Write the environment with these requirements."""
    return HEAD + "".join(f"      - {pin}\n" for pin in pins(requirements))


if __name__ == "__main__":
    (FOLDER / "vlmdiff.yaml").write_text(environment((FOLDER / "requirements.txt").read_text()))
