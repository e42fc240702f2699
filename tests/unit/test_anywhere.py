"""The workflow runs from any folder, from a read-only checkout, and as a module of another workflow."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import elsewhere
import pytest
import yaml
from dependable.checkout import copy_checkout
from dry_runs import DryRunError, DryRuns

from vlmdiff.config import places
from vlmdiff.config.load import load_config
from vlmdiff.runtime.digest import script_digest

ROOT = elsewhere.ROOT
# Wherever its part of the documentation is.
(PAGE,) = (ROOT / "docs").rglob("anywhere.md")
SAMPLES = "results/tiny/world/data/text_val/samples.jsonl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside of the checkout."""
    return tmp_path_factory.mktemp("anywhere")


@pytest.fixture(scope="module")
def dry(folder: Path) -> Iterator[DryRuns]:
    """Dry runs, started in that folder."""
    with DryRuns(folder) as runs:
        yield runs


def parent(folder: Path, name: str, **given) -> tuple[str, ...]:
    """Write a project that uses the workflow; return how Snakemake is told to run it."""
    place = elsewhere.write_parent(folder / name, **given)
    return ("--directory", str(place), "--snakefile", str(place / "Snakefile"))


@pytest.mark.long
def test_rules_of_a_module_run_with_those_of_the_workflow_that_uses_it(tmp_path):
    place = elsewhere.write_parent(tmp_path / "parent", resources={"generate_world": {"mem_mb": 777}})
    run = elsewhere.snakemake("own/text_val.txt", folder=place)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "rule vd_generate_world" in run.stderr
    assert "mem_mb=777" in run.stderr
    assert (place / "own" / "text_val.txt").read_text().strip() == "60"
    record = json.loads(
        (place / "results/tiny/provenance/world/data/text_val/samples.jsonl.json").read_text()
    )
    assert record["code"] == script_digest(ROOT / "workflow_scripts" / "generate_world.py")
    again = elsewhere.snakemake("--dry-run", "own/text_val.txt", folder=place)
    assert "Nothing to be done" in again.stdout


@pytest.mark.long
def test_a_module_leaves_the_rules_and_targets_of_its_parent_alone(folder, dry):
    arguments = parent(folder, "parent")
    # The parent's own target, made by its own rule, is the default one.
    assert dry.plan(*arguments, "own/text_val.txt").jobs == {"count": 1, "vd_generate_world": 1}
    assert dry.plan(*arguments, "own/model.txt").jobs == {"fetch_model": 1}
    found = elsewhere.facts(folder / "parent")
    assert found["default"] == "count"
    assert found["report"] is None
    assert found["rules"]["count"] == [[], False]
    assert found["rules"]["fetch_model"] == [[], False]
    assert found["rules"]["vd_generate_world"] == [["code", "places", "world"], False]
    assert found["rules"]["vd_fetch_model"][1] is found["rules"]["vd_verify"][1] is True
    scripts = len(list((ROOT / "workflow_scripts").glob("*.py")))
    targets = (
        "all",
        "sources",
        "world_models",
        "descriptions",
        "controls",
        "stages",
        "sensitivity",
        "scoreboard",
        "chosen",
    )
    # Rules that use another one's script.
    inherited = ("score_other_dictionary", "match_seeds_of_comparison", "rank_chosen", "ablate_chosen")
    assert len(found["rules"]) == scripts + len(["count", "fetch_model", *targets, *inherited])


def test_a_module_makes_what_the_workflow_itself_makes(folder, dry):
    alone = dry.plan("--snakefile", str(ROOT / "Snakefile"), "--configfile", str(elsewhere.TINY)).jobs
    within = dry.plan(*parent(folder, "whole"), "vd_all").jobs
    assert within == {f"vd_{rule}": count for rule, count in alone.items()}


def test_single_rules_are_used_and_changed_and_two_experiments_lie_side_by_side(folder, dry):
    module = (
        elsewhere.MODULE.replace(
            "use rule * from vlmdiff as vd_*", "use rule generate_world from vlmdiff as vd_generate_world"
        )
        + "\n\n\nuse rule write_config from vlmdiff as vd_write_config with:\n    threads: 7\n\n\n"
        + elsewhere.MODULE.replace("module vlmdiff", "module other")
        .replace("from vlmdiff as vd_*", "from other as other_*")
        .replace('config["vlmdiff"]', 'config["vlmdiff"] | {"experiment": "second"}')
    )
    arguments = parent(folder, "single", module=module)
    plan = dry.plan(*arguments, SAMPLES, "results/tiny/config.yaml", "results/second/config.yaml")
    assert plan.jobs == {"vd_generate_world": 1, "vd_write_config": 1, "other_write_config": 1}
    rules = elsewhere.facts(folder / "single")["rules"]
    assert rules["vd_write_config"] == rules["other_write_config"] == [["code", "config", "places"], False]
    assert {name for name in rules if name.startswith("vd_")} == {"vd_generate_world", "vd_write_config"}


def test_what_a_module_statement_says_of_a_rule_counts_and_what_it_does_not_say_is_as_always(folder, dry):
    module = (
        elsewhere.MODULE
        + "\n\n\nuse rule write_config from vlmdiff as vd_write_config with:\n"
        + '    log:\n        "own.log",\n    resources:\n        mem_mb=9,\n'
        + "\n\n\nuse rule write_provenance from vlmdiff as again with:\n"
        + "    output:\n        'results/tiny/again.md',\n"
    )
    arguments = parent(folder, "inherited", module=module)
    dry.plan(*arguments, "results/tiny/again.md", "--set-resources", "vd_verify:runtime=3")
    found = elsewhere.facts(folder / "inherited")
    said, again = (found["files"][name] for name in ("vd_write_config", "again"))
    assert (said["log"], said["benchmark"]) == (["own.log"], "results/tiny/benchmarks/write_config.tsv")
    # What it says nothing of stays.
    assert "runtime" in said["resources"]
    assert again["log"] == ["results/tiny/logs/write_provenance.log"]
    assert again["environment"] == "../envs/vlmdiff.yaml"
    assert found["rules"]["again"][0] == ["code", "places"]
    assert said["resources"]["mem_mb"] == "9"
    assert found["files"]["vd_verify"]["resources"]["runtime"] == "3"


CONFIG = '    config:\n        config["vlmdiff"]\n'
REFUSED = {
    "prefix": (elsewhere.MODULE.replace(CONFIG, '    prefix: "x"\n' + CONFIG), {}, "`experiment` in the mod"),
    "replaced": (
        elsewhere.MODULE.replace(CONFIG, '    replace_prefix: {"results": "x"}\n' + CONFIG),
        {},
        "`experiment` in the mod",
    ),
    "no_config": (elsewhere.MODULE.replace(CONFIG, ""), {}, "module: found no `config`"),
    "resources": (
        elsewhere.MODULE,
        {"resources": {"train_dict": {"gpu": 1}}},
        "did you mean train_dictionary?",
    ),
    "key": (elsewhere.MODULE, {"sed": 1}, "sed: unknown key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_module_statement_that_cannot_work_is_refused(case, folder, dry):
    module, changed, words = REFUSED[case]
    with pytest.raises(DryRunError) as refused:
        dry.plan(*parent(folder, case, module=module, **changed), SAMPLES)
    assert words in str(refused.value)


class Served(SimpleHTTPRequestHandler):
    """Serves the checkout."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, directory=str(ROOT))

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_rules_without_the_files_beside_them_are_refused(folder, dry):
    with ThreadingHTTPServer(("127.0.0.1", 0), Served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/Snakefile"
        module = elsewhere.MODULE.replace(str(ROOT / "Snakefile"), address)
        with pytest.raises(DryRunError, match="expected them in a folder, or by Snakemake's github"):
            dry.plan(*parent(folder, "single_files", module=module), SAMPLES)
        server.shutdown()


def test_modules_of_two_clones_are_refused(folder, dry):
    other = copy_checkout(folder / "clone")
    second = elsewhere.MODULE.replace(str(ROOT / "Snakefile"), str(other / "Snakefile"))
    second = second.replace("vlmdiff:", "second:").replace("from vlmdiff as vd_*", "from second as second_*")
    with pytest.raises(DryRunError, match="use modules of one clone"):
        dry.plan(*parent(folder, "two_clones", module=f"{elsewhere.MODULE}\n\n\n{second}"), SAMPLES)


@pytest.mark.long
def test_a_module_is_fetched_from_a_hosting_provider(tmp_path):
    environment = elsewhere.hosted(tmp_path / "hosted") | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    fetched = 'github("someone/vlmdiff", path="Snakefile", branch="trunk")'
    # As the workflow catalogue's `snakedeploy` writes it.
    module = (
        f"module vlmdiff:\n    snakefile:\n        {fetched}\n    config:\n        config['vlmdiff']\n\n\n"
    )
    place = elsewhere.write_parent(tmp_path / "parent", module=module + "use rule * from vlmdiff")
    text = (place / "Snakefile").read_text().replace("rule fetch_model:", "rule other:")
    (place / "Snakefile").write_text(text)
    run = elsewhere.snakemake("own/text_val.txt", folder=place, **environment)
    assert run.returncode == 0, run.stderr[-3000:]
    assert (place / "own" / "text_val.txt").read_text().strip() == "60"
    (world,) = (tmp_path / "cache").rglob("resources/world/vlm/config.json")
    assert world.read_bytes() == (ROOT / "resources/world/vlm/config.json").read_bytes()


def documented_parent(folder: Path) -> Path:
    """Write the project of the page on modules, with the tiny experiment; return its folder."""
    (text,) = re.findall(r"^```snakemake\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert '"/home/me/vlmdiff/Snakefile"' in text
    assert "results/builtin/" in text
    text = text.replace("/home/me/vlmdiff", str(ROOT)).replace("results/builtin/", "results/tiny/")
    place = elsewhere.write_parent(folder)
    (place / "Snakefile").write_text(text)
    return place


def test_the_documented_module_works(folder, dry):
    place = documented_parent(folder / "documented")
    jobs = dry.plan("--directory", str(place), "--snakefile", str(place / "Snakefile")).jobs
    assert jobs["mine"] == jobs["vd_write_summary"] == 1
    assert jobs["vd_train_dictionary"] > 1
    assert "vd_all" not in jobs


def test_the_documented_module_tells_its_plan_and_why_jobs_failed(tmp_path):
    place = documented_parent(tmp_path / "parent")
    changed = "use rule generate_world from vlmdiff as vd_generate_world with:\n"
    wrong = f"\n\n{changed}    params:\n        world=None,\n"
    (place / "Snakefile").write_text((place / "Snakefile").read_text() + wrong)
    run = elsewhere.snakemake(SAMPLES, folder=place)
    said = run.stdout + run.stderr
    assert run.returncode != 0
    assert "Activations that experiment 'tiny' stores" in said
    assert re.search(r"^vd_generate_world\[dataset=text_val\] failed: .*Log: ", said, re.MULTILINE), said


def test_the_documented_commands_plan_from_elsewhere(folder, dry):
    commands = re.findall(r"^snakemake (--snakefile .*?)(?:  +#.*)?$", PAGE.read_text(), re.MULTILINE)
    commands = [one for one in commands if "conda" not in one]
    assert len(commands) == 3
    for command in commands:
        words = command.replace("~/vlmdiff", str(ROOT)).replace("~", str(folder)).split()
        assert dry.plan(*words).jobs["all"] == 1


def test_the_default_experiment_is_planned_alike_from_anywhere(folder, dry):
    by_snakefile = dry.plan("--snakefile", str(ROOT / "Snakefile"))
    with DryRuns(ROOT) as at_home:
        by_directory = at_home.plan("--directory", str(folder / "other"))
    assert by_snakefile.jobs == by_directory.jobs
    assert by_snakefile.jobs["extract_activations"] > 1
    assert by_snakefile.jobs["all"] == 1


def test_a_config_of_the_folder_in_which_snakemake_runs_comes_first(folder, dry):
    place = folder / "own_config"
    (place / "config").mkdir(parents=True)
    shutil.copy(elsewhere.TINY, place / "config" / "config.yaml")
    assert dry.plan("--snakefile", str(ROOT / "Snakefile"), "--directory", str(place), SAMPLES).jobs == {
        "generate_world": 1
    }


def made_from_a_read_only_checkout(folder: Path, target: str, *arguments: str) -> Path:
    """Let Snakemake make a file in a folder, from a checkout that cannot be written; return the file."""
    before = elsewhere.read_only(ROOT)
    if before is None:
        pytest.skip("needs `unshare --map-root-user --mount`")
    run = elsewhere.snakemake(
        "--snakefile", str(ROOT / "Snakefile"), target, *arguments,
        folder=folder, before=before, XDG_CACHE_HOME=str(folder / "cache"),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return folder / target


def test_jobs_run_from_a_checkout_that_cannot_be_written(tmp_path):
    file = made_from_a_read_only_checkout(tmp_path, "results/builtin/world/data/text_val/samples.jsonl")
    assert len(file.read_text().splitlines()) == 800


@pytest.mark.long
def test_models_and_dictionaries_are_trained_from_a_checkout_that_cannot_be_written(tmp_path):
    target = "results/tiny/dictionaries/base/seed_0/layer_0/sae_weights.safetensors"
    file = made_from_a_read_only_checkout(tmp_path, target, "--configfile", str(elsewhere.TINY))
    assert file.is_file()


def test_a_path_leads_into_the_working_directory_first_and_then_to_what_is_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert places.located("resources/vsr_random") == str(ROOT / "resources" / "vsr_random")
    (tmp_path / "resources" / "vsr_random").mkdir(parents=True)
    assert places.located("resources/vsr_random") == "resources/vsr_random"
    # Neither what is nowhere, nor the project's other files, nor what lies outside of it.
    for path in ("resources/none", "tests/conftest.py", "resources/../tests", "hub:a/b", "resources/\0", ""):
        assert places.located(path) == path


def test_what_is_shipped_has_a_short_path_where_the_project_lies_in_the_working_directory(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert places.shipped("resources/world") == "resources/world"
    monkeypatch.chdir(ROOT.parent)
    assert places.shipped("resources/world") == f"{ROOT.name}/resources/world"


def test_sources_are_found_and_caches_stay_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((ROOT / "config" / "llava_more.yaml").read_text())
    name = next(name for name, one in values["datasets"].items() if one["kind"] == "vsr")
    values["datasets"][name] |= {"image_cache": "resources/world", "images": "resources/world/vlm"}
    found = load_config(values).datasets[name]
    assert found.source == str(ROOT / "resources" / "vsr_random")
    assert found.images == str(ROOT / "resources" / "world" / "vlm")
    assert found.image_cache == "resources/world"
