"""Paths of a configuration that lead nowhere: what is missing, and what may be meant."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path

from vlmdiff.config.checkpoint_files import something_else
from vlmdiff.config.places import ELSEWHERE

# How people write a repository of the hub, by its name or by its page.
REPOSITORY = re.compile(
    r"(?P<page>(?:hf|huggingface):(?://)?|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)?"
    r"(?(page)(?:datasets/|models/)?)(?P<name>[\w.-]+/[\w.-]+)"
    r"(?:(?:@|/(?:tree|blob|resolve)/)(?P<revision>[\w.-]+).*)?/?",
    re.IGNORECASE,
)
# The samples file of a folder, and how files end that may be meant for it.
SAMPLES_FILES = ("samples.jsonl", "samples.csv")
READ, TABULAR = (".csv", ".jsonl"), (".csv", ".jsonl", ".json", ".tsv", ".txt", ".xlsx", ".parquet")
SHOWN = 3


def is_there(path: str | Path) -> bool:
    """Tell whether a path leads somewhere; one that the system cannot even look up does not."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def first_absent(file: str) -> Path:
    """Return the first part of a path that is not there, with what leads to it."""
    path = Path(file)
    while not is_there(path.parent):
        path = path.parent
    return path


def tables_in(folder: Path) -> str:
    """Say what lies in a folder without a samples file that may be meant for one, and what to do."""
    files = [one for one in folder.iterdir() if one.is_file()] if os.access(folder, os.R_OK) else []
    found = sorted(one.name for one in files if one.suffix.lower() in TABULAR)
    if not found:
        inner = sorted(one.parent for name in SAMPLES_FILES for one in folder.glob(f"*/{name}"))
        return f"did you mean {inner[0]}?" if inner else "write one (docs/understand/formats.md)"
    told = f"the folder holds {', '.join(found[:SHOWN])}{', …' if len(found) > SHOWN else ''}"
    if readable := [name for name in found if name.lower().endswith(READ)]:
        name = Path(readable[0])
        return f"{told}: write {folder / name}, or rename it to samples{name.suffix.lower()}"
    return f"{told}: save it as samples.csv, or as samples.jsonl with one JSON object a line"


def found_instead(said: str, absent: Path) -> str | None:
    """Say what is where the first absent part of a path should be; None if nothing of the kind."""
    here, name = absent.parent, absent.name
    if name == "config.json" and (other := something_else(here)):
        return other
    if here.is_file():
        return f"{here} is a file: name its folder, {here.parent}"
    if name in SAMPLES_FILES and here == Path(said):
        return tables_in(here)
    if here == Path(said):
        inner = sorted(one.parent for one in here.glob(f"*/{name}"))
        meant = f"did you mean {inner[0]}?" if inner else "name the folder that holds it, or put it there"
        return f"the folder is there, {name} is not: {meant}"
    siblings = [one.name for one in here.iterdir()] if os.access(here, os.R_OK) else []
    if name in siblings:
        return f"{absent} is a link that leads nowhere: correct it"
    near = get_close_matches(name, siblings, n=1)
    return f"did you mean {here / near[0]}?" if near else None


def advice(said: str, file: str) -> str:
    """Say what may be meant by a path that is not there.

    Args:
        said: what the configuration says.
        file: the file that has to be there because of it.
    """
    if said.startswith(("~", "$")):
        return "`~` and variables are not replaced here: write the whole path"
    for prefix in ELSEWHERE:
        if said.lower().startswith(prefix):
            return f"did you mean {prefix}{said[len(prefix) :].strip()}?"
    repository, absent = REPOSITORY.fullmatch(said), first_absent(file)
    is_page = repository is not None and repository["page"] is not None
    if not is_page and (instead := found_instead(said, absent)):
        return instead
    # A samples file is never read from the hub.
    if is_page or (repository and len(absent.parts) == 1 and Path(file).suffix.lower() not in READ):
        name, revision = repository["name"], repository["revision"] or "REVISION"
        return f"a repository of the hub is written hub:{name}@{revision}"
    return "correct the path, or put the files there"


def not_there(said: str, file: str) -> str:
    """Say of a path that leads nowhere what was found, what is missing and where, and what may be meant.

    Args:
        said: what the configuration says.
        file: the file that has to be there because of it.
    """
    absent = first_absent(file)
    what = file if absent == Path(file) else f"folder {absent}"
    if absent.name in SAMPLES_FILES and absent.parent == Path(said):
        what = "samples.jsonl or samples.csv in it"
    elif not absent.is_absolute():
        what += f" in {Path.cwd()}"
    return f"found '{said}', but there is no {what}; {advice(said, file)}"
