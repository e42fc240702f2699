"""Results are remade when, and only when, what they depend on changed (docs/develop/dependability.md).

Every change is made in a copy of the project and of the tiny experiment's results, and Snakemake itself is
asked what it would run. What it must plan is in staleness.yaml, reviewed by people.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from dry_runs import DryRuns
from published_dictionaries import write_llama_scope
from staleness_changes import (
    Change,
    applied,
    arranged_changes,
    code_changes,
    deletions,
    other_changes,
    output_changes,
    quick_choice,
    scripts_that_reach,
    setting_changes,
)
from staleness_table import NOT_REVIEWED, TABLE, Outcome, Table, copy_project, plan_all
from tiny_experiment import RESULTS, ROOT, TARGETS, settings, snakemake
from tiny_models import build_tiny_vlm
from traces_of_jobs import read_traces

from vlmdiff.config.load import load_config
from vlmdiff.runtime import digest
from vlmdiff.runtime.files import WORKPLACE

EVERYTHING = (*TARGETS, "descriptions")
GENERATED = (RESULTS, ".snakemake/metadata")
SCRIPTS = ROOT / "workflow_scripts"

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def copies(described_run, tmp_path_factory):
    """Two copies of the project and of the run's results, for two dry runs at a time."""
    return [copy_project(tmp_path_factory.mktemp("copy"), *GENERATED) for _ in range(2)]


@pytest.fixture(scope="module")
def every_change(copies, endpoint):
    """Every change of configuration, code and files."""
    values = settings(endpoint.server_port)
    whole = load_config(values).model_dump(mode="json")
    return [
        *setting_changes(values, whole),
        *arranged_changes(values),
        *code_changes(),
        *output_changes(copies[0], RESULTS),
        *deletions(copies[0], RESULTS),
        *other_changes(),
    ]


def starting() -> dict[str, set[str]]:
    """Return the rules of the jobs with which each change of the table begins."""
    return {
        name: {job.partition(" ")[0] for job in outcome.starts}
        for name, outcome in Table.read().outcomes.items()
    }


@pytest.fixture(scope="module")
def outcomes(request, every_change, copies, tiny_config):
    """What the changes plan: all of them, or sixty of different kinds."""
    option = request.config.getoption
    writes = option("--write-staleness")
    changes = every_change if option("--every-change") or writes else quick_choice(every_change, starting())
    with DryRuns(copies[0]) as runs:
        arguments = ("--configfile", str(tiny_config))
        assert runs.plan(*EVERYTHING, *arguments).jobs == {}, (
            "the run that everything is held against is stale"
        )
        totals = runs.plan(*EVERYTHING, *arguments, "--forceall").jobs
    totals = {rule: count for rule, count in sorted(totals.items()) if rule not in EVERYTHING}
    plans = plan_all(changes, copies, tiny_config, EVERYTHING)
    found = {name: Outcome.of(plan, totals) for name, plan in plans.items()}
    if writes:
        Table(totals, found, Table.read().why if TABLE.exists() else {}).write()
    return totals, found


def test_every_change_plans_exactly_the_reviewed_jobs(outcomes):
    totals, found = outcomes
    table = Table.read()
    assert totals == table.totals
    wrong = {
        name: f"planned {', '.join(outcome.plans) or 'nothing'}; starts with {', '.join(outcome.starts)}"
        for name, outcome in found.items()
        if outcome != table.outcomes.get(name)
    }
    assert wrong == {}


def test_the_table_has_every_change_and_was_reviewed(every_change):
    table = Table.read()
    assert sorted(change.name for change in every_change) == sorted(table.outcomes)
    assert [why for why in table.why.values() if NOT_REVIEWED in why] == []


def test_some_change_makes_every_rule_stale(outcomes):
    totals, found = outcomes
    starting = {job.partition(" ")[0] for outcome in found.values() for job in outcome.starts}
    assert set(totals) - starting == set()


def test_code_in_one_group_of_the_table_is_in_the_digests_of_the_same_rules(every_change):
    """The quick test tries one module of those that the same scripts reach; this is what it relies on."""
    table, scripts, by_scripts = Table.read(), scripts_that_reach(), {}
    for name in (change.name for change in every_change if change.name in scripts):
        by_scripts.setdefault(scripts[name], set()).add(table.outcomes[name])
    assert [sorted(names) for names, outcomes in by_scripts.items() if len(outcomes) > 1] == []


@pytest.fixture(scope="module")
def jobs(request, described_run, traces):
    """Traces of all jobs of the run."""
    if request.config.getoption("--reuse-run"):
        pytest.skip("jobs of an earlier run left no traces")
    found = read_traces(traces)
    assert {job.rule for job in found} == set(Table.read().totals)
    return found


def script_of(rule: str) -> Path:
    """Return the script of a rule, which may be that of a rule that it uses."""
    text = "".join(file.read_text() for file in sorted((ROOT / "rules").glob("*.smk")))
    used = {name: other for other, name in re.findall(r"^use rule (\w+) as (\w+) with:", text, re.MULTILINE)}
    return SCRIPTS / f"{used.get(rule, rule)}.py"


def test_jobs_import_nothing_that_their_digest_does_not_see(jobs):
    """`sys.modules` at the end of every job of a real run, against the syntax trees that were digested."""
    # Every job imports what the package of its frame imports.
    framed, unseen = digest.direct_imports(digest.LIBRARY / "runtime" / "__init__.py"), {}
    for job in jobs:
        files = {digest.module_file(name) for name in job.imported} - framed
        bearing = {file for file in files if digest.bears_results(file) and file.name != "__init__.py"}
        if escaped := bearing - set(digest.reachable_modules(script_of(job.rule))):
            unseen[job.rule] = sorted(escaped)
    assert unseen == {}


# No inputs on purpose: states of interrupted trainings; benchmarks and records, which come with outputs.
UNDECLARED = ("checkpoints", "world/checkpoints", "benchmarks", "provenance")


def in_workplace(file: str) -> bool:
    """Tell whether a file is an output that is being written."""
    return any(WORKPLACE.fullmatch(part) for part in Path(file).parts)


def test_jobs_open_no_results_beside_their_inputs(jobs):
    """What a job opens lies in the folder of something that it declares, so that Snakemake knows of it."""
    strange = {}
    for job in jobs:
        known = [f"{ROOT / RESULTS / name}/" for name in UNDECLARED]
        known += [f"{Path(file).parent}/" for file in job.declared]
        generated = {
            file
            for file in job.opened
            if file.startswith((f"{ROOT}/results/", f"{ROOT}/resources/")) and not in_workplace(file)
        }
        if found := {file for file in generated if not file.startswith(tuple(known))}:
            strange[job.rule] = sorted(found)
    assert strange == {}


def test_packages_hold_no_code_that_bears_results():
    """Python runs a package's `__init__` before its modules; only an import by name puts it in a digest."""
    for file in sorted(SCRIPTS.rglob("__init__.py")):
        code = [line for line in file.read_text().splitlines() if line and not line.startswith('"""')]
        assert not code or not digest.bears_results(file), file


def scramble_times(folder: Path, seed: int) -> None:
    """Give every file and folder below a folder a random time of the last day."""
    rng = random.Random(seed)
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    now = max(path.stat().st_mtime for path in paths)
    for path in paths:
        moment = now - rng.uniform(0, 86_400)
        os.utime(path, (moment, moment))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_a_copy_with_other_times_plans_nothing(described_run, tiny_config, tmp_path, seed):
    copy = copy_project(tmp_path / "copy", *GENERATED)
    scramble_times(copy, seed)
    with DryRuns(copy) as runs:
        assert runs.plan(*EVERYTHING, "--configfile", str(tiny_config)).reasons == ()


def test_a_fresh_clone_with_the_results_plans_nothing(described_run, tiny_config, tmp_path):
    """Its files are all newer than the results, shipped checkpoints among them."""
    copy = copy_project(tmp_path / "clone", *GENERATED)
    for file in copy.rglob("*"):
        if RESULTS not in str(file) and file.is_file():
            file.touch()
    with DryRuns(copy) as runs:
        assert runs.plan(*EVERYTHING, "--configfile", str(tiny_config)).reasons == ()


def test_other_layout_comments_and_docstrings_plan_nothing(described_run, tiny_config, tmp_path):
    """Of all code at once: other line lengths, a comment at the end of every file, no docstring as it was."""
    copy = copy_project(tmp_path / "copy", *GENERATED)
    code = copy / "workflow_scripts"
    before = {file: file.read_text() for file in code.rglob("*.py")}
    for file, text in before.items():
        file.write_text(text.replace('"""', '"""Reworded. ', 1) + "\n# A remark.\n")
    ruff = Path(sys.executable).with_name("ruff")
    subprocess.run([ruff, "format", "--quiet", "--line-length", "60", code], check=True)
    assert all(file.read_text() != text for file, text in before.items())
    with DryRuns(copy) as runs:
        assert runs.plan(*EVERYTHING, "--configfile", str(tiny_config)).reasons == ()


def planned_files(printed: str) -> list[str]:
    """Return the outputs, logs and benchmarks of the planned jobs."""
    kinds = ("    output: ", "    log: ", "    benchmark: ")
    lines = [line for line in printed.splitlines() if line.startswith(kinds)]
    return [
        file
        for line in lines
        for file in line.partition(": ")[2].removesuffix(" (send to report)").split(", ")
    ]


@pytest.mark.long
def test_two_experiments_in_one_folder_share_nothing(copies, endpoint, tiny_config):
    copy, other = copies[0], copies[0] / "other.yaml"
    values = {**settings(endpoint.server_port), "experiment": "tiny_other"}
    other.write_text(yaml.safe_dump(values, sort_keys=False))
    before = {file: file.stat().st_mtime_ns for file in (copy / RESULTS).rglob("*")}
    dry = snakemake("-n", *EVERYTHING, config=other, folder=copy)
    files = planned_files(dry.stdout + dry.stderr)
    assert len(files) > 600
    assert [file for file in files if not file.startswith("results/tiny_other/")] == []
    made = "results/tiny_other/world/data/text_val/samples.jsonl"
    run = snakemake(made, config=other, folder=copy)
    assert run.returncode == 0, run.stdout + run.stderr
    assert {file: file.stat().st_mtime_ns for file in (copy / RESULTS).rglob("*")} == before
    with DryRuns(copy) as runs:
        assert runs.plan(*EVERYTHING, "--configfile", str(tiny_config)).reasons == ()
        # The other way round: a change of the first experiment's code-free files leaves the other as it is.
        assert runs.plan(made, "--configfile", str(other)).reasons == ()
    shutil.rmtree(copy / "results" / "tiny_other")


def test_files_of_local_sources_are_inputs(copies, endpoint, tmp_path):
    """Checkpoints, dictionaries and data sets of one's own, wherever they lie."""
    build_tiny_vlm(tmp_path / "model", num_hidden_layers=2)
    shapes = {"W_enc": (32, 64), "b_enc": (64,), "W_dec": (64, 32), "b_dec": (32,)}
    for layer in (0, 1):
        hook = f"blocks.{layer}.hook_resid_post"
        sizes = {
            "d_model": 32,
            "d_sae": 64,
            "expansion_factor": 2,
            "hook_point_in": hook,
            "hook_point_out": hook,
        }
        weights = {name: torch.ones(shape) for name, shape in shapes.items()}
        write_llama_scope(tmp_path / f"dictionary/L{layer}R", weights, **sizes)
    for name in ("text/data/train-0.jsonl", "text/train-1.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(
            json.dumps({"text": f"{name} holds this document of more than eight words"})
        )
    names = [
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "chat_template.jinja",
        "processor_config.json",
    ]
    names = [*(f"model/{name}" for name in names), "text/data/train-0.jsonl", "text/train-1.jsonl"]
    scope = ("hyperparams.json", "checkpoints/final.safetensors")
    names += [f"dictionary/L{layer}R/{name}" for layer in (0, 1) for name in scope]
    # What links lead to is an input as well: of a link Snakemake sees the time of its target alone.
    linked = ["blobs/1/final.safetensors", "blobs/tokenizer.json", "blobs/train-1.jsonl"]
    (tmp_path / "blobs").mkdir()
    for name, target in (
        ("dictionary/L1R/checkpoints", "blobs/1"),
        ("model/tokenizer.json", "blobs/tokenizer.json"),
        ("text/train-1.jsonl", "blobs/train-1.jsonl"),
    ):
        (tmp_path / name).rename(tmp_path / target)
        (tmp_path / name).symlink_to(tmp_path / target)
    values = {**settings(endpoint.server_port), "experiment": "tiny_local"}
    values["models"]["vlm"]["path"] = str(tmp_path / "model")
    values["datasets"] |= {"own_text": {"kind": "text", "source": str(tmp_path / "text"), "samples": 8}}
    published = {"source": str(tmp_path / "dictionary"), "format": "llama_scope", "file": "L{layer}R"}
    values["dictionaries"] |= {"base": published}
    values["dictionaries"]["null_text"]["dataset"] = "own_text"
    config = copies[0] / "local.yaml"
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    run = snakemake("-n", config=config, folder=copies[0])
    assert run.returncode == 0, run.stdout + run.stderr
    lines = [line for line in run.stdout.splitlines() if line.startswith("    input: ")]
    given = {file for line in lines for file in line.removeprefix("    input: ").split(", ")}
    assert {str(tmp_path / name) for name in [*names, *linked]} - given == set()


def test_weights_that_were_remade_alone_are_seen_later(copies, tiny_config):
    """A model's new weights come with the same config.json, whose checksum says that nothing changed."""
    model = f"{RESULTS}/world/models/vlm"
    for name, stale in (("config.json", False), ("model.safetensors", True)):
        content = b"" if name == "config.json" else b"\n"
        change = Change(name, name, file=f"{model}/{name}", content=content)
        with applied(change, copies[0], tiny_config) as arguments, DryRuns(copies[0]) as runs:
            assert ("extract_activations" in runs.plan(*EVERYTHING, *arguments).jobs) is stale
