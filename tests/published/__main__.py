"""Fetch published checkpoints and dictionaries, look at each, and write results/published/page.md."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from published.looks import ROOT, UNCOMPARED, WORKS, Side, look
from published.page import page
from published.rows import Row, RowError, known_rows, read_rows
from published.sizes import GB, Plan, disk_problem, plan, within

OTHER_PYTHON = ROOT / ".venv-published" / "bin" / "python"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m published", description=__doc__)
    parser.add_argument(
        "--most-gb", type=float, help="download at most so much; without it nothing is fetched"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows, by family or format")
    parser.add_argument("--rows", type=Path, help="a YAML file of rows to look at in place of the known ones")
    parser.add_argument("--again", action="store_true", help="look again at what worked before")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--minutes", type=float, default=60.0, help="for one look, without its download")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "results" / "published", help="of what is written"
    )
    parser.add_argument("--other-python", default=str(OTHER_PYTHON), help="that has the other libraries")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Row]:
    """Return the rows that are asked for.

    Raises:
        RowError: there is none of a name.
    """
    rows = list(known_rows()) if options.rows is None else read_rows(options.rows)
    names = {row.name for row in rows}
    if unknown := sorted(set(options.only or ()) - names):
        raise RowError(f"--only: no row {unknown}; there are {sorted(names)}")
    return [row for row in rows if not options.only or row.name in options.only]


def noted(row: Row, options: argparse.Namespace) -> dict | None:
    """Return what was found of a row before; None if nothing was, or of another checkpoint or precision."""
    file = options.folder / row.name / "result.json"
    found = json.loads(file.read_text()) if file.is_file() else None
    same = found and found["row"] == row.plain() and found["dtype"] == options.dtype
    return found if same else None


def told(plans: Sequence[Plan]) -> str:
    """Return the sizes that are to be downloaded, and their sum."""
    lines = [
        f"{one.missing / GB:8.2f} GB  {one.row.kind} {one.row.name}: {one.row.example.repository}"
        + (" (gated: accept its terms and log in)" if one.row.example.gated else "")
        + (f"\n             {one.problem.partition(';')[0]}" if one.problem else "")
        for one in sorted(plans, key=lambda found: found.missing)
    ]
    return "\n".join([*lines, f"{sum(one.missing for one in plans) / GB:8.2f} GB  in all"])


def other_versions(python: str) -> str:
    """Return the versions of the libraries on the other side.

    Raises:
        RowError: there is no such interpreter.
    """
    paths = os.pathsep.join([str(ROOT / "workflow_scripts"), str(ROOT / "tests")])
    try:
        done = subprocess.run(
            [python, "-m", "published.page"],
            env={**os.environ, "PYTHONPATH": paths}, text=True, capture_output=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        raise RowError(f"--other-python: {python} does not run ({error}); use `make published`") from error
    return done.stdout.strip()


def look_at_all(plans: Sequence[Plan], options: argparse.Namespace) -> list[dict]:
    """Look at one row after another; each result is written before the next row begins."""
    side, results = Side(options.other_python, options.dtype, options.minutes), []
    for one in plans:
        folder = options.folder / one.row.name
        before = noted(one.row, options)
        if before and before["outcome"] in (WORKS, UNCOMPARED) and not options.again:
            results.append(before)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{one.row.kind} {one.row.name}: {one.row.example.repository} …", flush=True)
        found = look(one.row, folder, side)
        (folder / "result.json").write_text(json.dumps(found, indent=2) + "\n")
        print(f"  {found['outcome']}: {found['said']}", flush=True)
        results.append(found)
    return results


def main(options: argparse.Namespace) -> int:
    """Plan, look, write the page; return the exit status: 1 if something fails or differs."""
    from huggingface_hub import constants

    others = other_versions(options.other_python)
    plans = [plan(row) for row in chosen(options)]
    print(told(plans))
    if options.most_gb is None:
        print('Nothing was fetched. Allow it: make published ARGS="--most-gb 5" takes the smallest first.')
        return 2
    allowed = within(plans, options.most_gb)
    if problem := disk_problem(allowed, Path(constants.HF_HUB_CACHE)):
        print(problem)
        return 2
    names = {one.row.name for one in allowed}
    left_out = [
        f"{one.row.kind} `{one.row.name}`: {one.missing / GB:.1f} GB more, over --most-gb {options.most_gb:g}"
        for one in plans
        if one.row.name not in names
    ]
    results = look_at_all(allowed, options)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "page.md").write_text(page(results, left_out, others))
    print(f"{options.folder / 'page.md'} is written")
    return int(any(one["outcome"] not in (WORKS, UNCOMPARED) for one in results))


if __name__ == "__main__":
    try:
        sys.exit(main(arguments()))
    except RowError as error:
        sys.exit(str(error))
