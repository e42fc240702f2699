"""Everything that can be changed in an experiment that was run: its configuration, the code, its files."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import subprocess
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from staleness_values import NO_OTHER, dotted, first_fit, leaves, other_value, with_value

from vlmdiff.runtime import digest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "workflow_scripts"
PAGE = SCRIPTS / "vlmdiff" / "explorer" / "page"
EDIT = b"\nEDITED = True\n"
# Sections with a target and a control.
SIDES = (
    "ablation.rank_on", "ablation.report_on", "heads.report_on", "steering.rank_on", "steering.report_on",
)  # fmt: skip
# Entries of the same kind have keys of the same kind.
ENTRIES = re.compile(
    r"^(models|dictionaries|evaluation|comparisons|concepts|world\.datasets|world\.controls)\.\w+"
)


@dataclass(frozen=True)
class Change:
    """One change of an experiment that is up to date.

    Attributes:
        name: what is changed, in words.
        kind: changes of one kind are alike; the quick test tries one of them.
        config: the changed configuration, or None.
        file: the changed file, relative to the project, or None.
        content: bytes that the file ends with, or None if it is deleted.
    """

    name: str
    kind: str
    config: dict[str, Any] | None = None
    file: str | None = None
    content: bytes | None = None


def tracked_files(root: Path = ROOT) -> list[Path]:
    """Return all files of the project that git knows or does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout.decode().split("\0")
    return [Path(name) for name in names if name and (root / name).is_file()]


def setting_changes(values: dict[str, Any], whole: dict[str, Any]) -> Iterator[Change]:
    """Yield a change for every key of the configuration that has another valid value.

    Args:
        values: the configuration as the user wrote it.
        whole: the same with all defaults.
    """
    for path, value in leaves(whole):
        key = dotted(path)
        if first_fit(key, NO_OTHER) is None:
            changed = with_value(values, path, other_value(path, value))
            yield Change(f"config {key}", ENTRIES.sub(r"\1.*", key), config=changed)


def swapped(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Return a copy of a configuration in which two keys have each other's value."""
    changed, found = copy.deepcopy(values), []
    for key in keys:
        *sections, last = key.split(".")
        section = changed
        for name in sections:
            section = section[name]
        found.append((section, last))
    (one, first), (two, second) = found
    one[first], two[second] = two[second], one[first]
    return changed


def arranged_changes(values: dict[str, Any]) -> Iterator[Change]:
    """Yield changes of several keys at once: sections that change places, come or go."""
    pairs = [
        ("concepts.truth.target", "concepts.truth.baseline"),
        ("concepts.spatial.target", "concepts.spatial.baseline"),
        ("diff.null", "diff.null_check"),
        *((f"{key}.target", f"{key}.control") for key in SIDES),
        ("models.vlm.path", "models.vlm_50.path"),
        ("models.base_lm.path", "models.lm_continued.path"),
    ]
    explicit = copy.deepcopy(values)
    explicit["diff"].setdefault("null", "null_text")
    for one, two in pairs:
        yield Change(f"swapped {one} and {two}", one, config=swapped(explicit, one, two))
    grid = swapped(values, "stages.grid.data", "stages.grid.model")
    grid = swapped(grid, "stages.grid.data_then_model", "stages.grid.model_then_data")
    yield Change("swapped the ways round the stage grid", "stages.grid", config=grid)
    for section, model, adapted in (
        ("diff", "vlm_50", "adapted_50"),
        ("comparisons.tuned_50", "vlm_shuffled", "adapted_shuffled"),
        ("comparisons.eps_high", "vlm_50", "adapted_50"),
    ):
        path = tuple(section.split("."))
        other = with_value(with_value(values, (*path, "model"), model), (*path, "adapted"), adapted)
        yield Change(f"changed {section}.model and its dictionary", f"{section}.model", config=other)
    for section, nothing in (("stages", {}), ("steering", None), ("comparisons", {})):
        less = with_value(values, (section,), nothing)
        if section == "comparisons":
            # They name some of them.
            less = with_value(with_value(less, ("diff", "untuned"), None), ("scoreboard",), None)
        yield Change(f"without {section}", section, config=less)
    further = {
        "models.unread": {"family": "llava", "path": "world:vlm_25"},
        "dictionaries.unread": values["dictionaries"]["adapted"],
        "datasets.unread": {"path": "resources/unread", "samples": 8},
        "world.datasets.unread": {"kind": "text", "scenes": "train", "samples": 8},
        "comparisons.further": {"target": "sensitivity", "about": "eps = 0.01", "eps": 0.01},
        "concepts.further": values["concepts"]["counting"],
    }
    for key, value in further.items():
        yield Change(f"added {key}", key, config=with_value(values, tuple(key.split(".")), value))
    # Shipped models are wider than the tiny experiment plans.
    shipped = with_value(values, ("models", "base_lm", "planned"), None)
    shipped = with_value(shipped, ("scoreboard", "submissions"), {})
    yield Change(
        "added world.models", "world.models", config=with_value(shipped, ("world", "models"), "shipped")
    )
    turned = {**values, "concepts": dict(reversed(values["concepts"].items()))}
    yield Change("turned round the order of concepts", "concepts order", config=turned)


def scripts_that_reach() -> dict[str, frozenset[str]]:
    """Return for every file of code, by its change's name, the scripts whose digest it is part of."""
    reached = {script.stem: set(digest.reachable_modules(script)) for script in SCRIPTS.glob("*.py")}
    return {
        f"code {file.relative_to(SCRIPTS)}": frozenset(
            name for name, files in reached.items() if file in files
        )
        for file in sorted(SCRIPTS.rglob("*.py"))
    }


def code_changes() -> Iterator[Change]:
    """Yield an edit of every file of code; alike are those that the same scripts reach."""
    for name, scripts in scripts_that_reach().items():
        file = f"workflow_scripts/{name.removeprefix('code ')}"
        yield Change(name, f"code of {sorted(scripts)}", file=file, content=EDIT)
    for path in sorted(PAGE.iterdir()):
        name = f"vlmdiff/explorer/page/{path.name}"
        yield Change(f"code {name}", "page", file=f"workflow_scripts/{name}", content=b"\n")


def recorded_outputs(root: Path) -> dict[str, list[str]]:
    """Return the outputs of each rule that Snakemake has records of."""
    folder, found = root / ".snakemake" / "metadata", {}
    for record in folder.rglob("*"):
        if record.is_file():
            # A long name is cut into folders, which start with @.
            name = "".join(part.removeprefix("@") for part in record.relative_to(folder).parts)
            output = urlsafe_b64decode(name).decode()
            found.setdefault(json.loads(record.read_text())["rule"], []).append(output)
    return {rule: sorted(outputs) for rule, outputs in sorted(found.items())}


def output_changes(root: Path, results: str) -> Iterator[Change]:
    """Yield an edit of one output of every rule and name."""
    for rule, outputs in recorded_outputs(root).items():
        by_name: dict[str, str] = {}
        for output in outputs:
            if output.startswith(f"{results}/"):
                by_name.setdefault(Path(output).name, output)
        for name, output in sorted(by_name.items()):
            figure = rule.startswith("plot_") and Path(name).suffix in {".pdf", ".png", ".svg"}
            file, what = output, name
            if (root / output).is_dir():
                inside = sorted(path for path in (root / output).rglob("*") if path.is_file())
                inside = [path for path in inside if not path.name.startswith(".")]
                if not inside:
                    continue
                file, what = str(inside[0].relative_to(root)), f"a file of {name}/"
            name = f"file {what} of {rule}"
            kind = f"file of a figure {Path(output).suffix}" if figure else name
            yield Change(name, kind, file=file, content=b"\n")


def deletions(root: Path, results: str) -> Iterator[Change]:
    """Yield the loss of one file that each rule made."""
    for rule, outputs in recorded_outputs(root).items():
        own = (name for name in outputs if name.startswith(f"{results}/") and (root / name).is_file())
        if output := next(own, None):
            yield Change(
                f"deleted {Path(output).name} of {rule}", f"deleted {rule.partition('_')[0]}", file=output
            )


def one_of_each_kind(changes: Sequence[Change], seed: int = 0) -> list[Change]:
    """Return one change of each kind, drawn by a seed."""
    by_kind: dict[str, list[Change]] = {}
    for change in changes:
        by_kind.setdefault(change.kind, []).append(change)
    rng = random.Random(seed)
    return [rng.choice(alike) for alike in by_kind.values()]


def quick_choice(changes: Sequence[Change], starts: Mapping[str, set[str]], size: int = 60) -> list[Change]:
    """Return a few changes of different kinds with which every rule becomes stale by itself.

    Args:
        changes: all of them.
        starts: rules of the jobs with which each change begins, by its name.
        size: how many changes, at least; more if the rules need them.
    """
    chosen, left = [], set().union(*starts.values())
    others = []
    # Changes that begin with few rules come first: one that begins with many tells little of each.
    for change in sorted(one_of_each_kind(changes), key=lambda one: len(starts.get(one.name, ()))):
        new = starts.get(change.name, set()) & left
        (chosen if new else others).append(change)
        left -= new
    for change in changes if left else ():
        if starts.get(change.name, set()) & left:
            chosen.append(change)
            left -= starts[change.name]
    random.Random(0).shuffle(others)
    return chosen + others[: max(0, size - len(chosen))]


def other_changes(root: Path = ROOT) -> Iterator[Change]:
    """Yield edits of files that bear no results, as far as Snakemake is told."""
    comment = b"\n# A remark.\n"
    files = ["Snakefile", "profiles/default/config.yaml", "envs/requirements.txt", "envs/vlmdiff.yaml"]
    files += [str(file.relative_to(root)) for file in sorted((root / "rules").rglob("*.smk"))]
    files += ["rules/captions/workflow.rst", "README.md", "docs/README.md", "config/config.yaml"]
    for file in files:
        yield Change(f"remark in {file}", f"remark in {Path(file).suffix}", file=file, content=comment)


@contextmanager
def applied(change: Change, folder: Path, config: Path) -> Iterator[Sequence[str]]:
    """Make a change in a copy of the project and undo it; yield arguments for Snakemake.

    Args:
        change: what is changed.
        folder: the copy.
        config: file of the unchanged configuration.
    """
    if change.config is not None:
        file = folder / "changed.yaml"
        file.write_text(yaml.safe_dump(change.config, sort_keys=False))
        yield ["--configfile", str(file)]
        file.unlink()
        return
    file = folder / change.file
    before, stat = file.read_bytes(), file.stat()
    try:
        if change.content is None:
            file.unlink()
        else:
            file.write_bytes(before + change.content)
        yield ["--configfile", str(config)]
    finally:
        file.write_bytes(before)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
