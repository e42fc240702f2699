"""Digests follow imports and ignore comments; files are whole or absent; jobs fail readably."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from vlmdiff.runtime import digest, files, seeds
from vlmdiff.runtime.job import job
from vlmdiff.runtime.progress import progress

SCRIPTS = Path(__file__).parents[2] / "workflow_scripts"


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small library: a script that reaches room/used.py through room/middle.py; room/other.py is aside."""
    root = tmp_path / "workflow_scripts"
    room = root / "vlmdiff" / "room"
    room.mkdir(parents=True)
    for package in (root / "vlmdiff", room):
        (package / "__init__.py").write_text('"""A package."""\n')
    (room / "used.py").write_text("def used():\n    return 1\n")
    (room / "other.py").write_text("def other():\n    return 1\n")
    (room / "middle.py").write_text("from vlmdiff.room.used import used\n")
    (root / "rule.py").write_text("from vlmdiff.room import middle\n")
    monkeypatch.setattr(digest, "LIBRARY", root / "vlmdiff")
    monkeypatch.setattr(digest, "KEPT", root / "kept" / "digests.json")
    return root


def fresh_digest(root: Path) -> str:
    """Digest the script as a new process would."""
    cached = (digest.parse, digest.direct_imports, digest.tree_facts, digest.kept_facts)
    for function in (*cached, digest.bears_results):
        function.cache_clear()
    return digest.script_digest(root / "rule.py")


@pytest.mark.parametrize(
    ("file", "text", "stale"),
    [
        ("vlmdiff/room/used.py", "def used():\n    return 2\n", True),
        ("vlmdiff/room/used.py", '"""Doc."""\ndef used():\n    """Doc."""\n    return 1  # why\n', False),
        ("vlmdiff/room/other.py", "def other():\n    return 2\n", False),
        ("rule.py", "from vlmdiff.room import middle\nx = 1\n", True),
        ("rule.py", "# a comment\nfrom vlmdiff.room   import middle\n", False),
    ],
)
def test_digest_changes_exactly_with_reached_code(library, file, text, stale):
    before = fresh_digest(library)
    (library / file).write_text(text)
    assert (fresh_digest(library) != before) is stale


@pytest.mark.parametrize(("way", "stale"), [("__init__", True), ("middle", False)])
def test_of_code_without_results_only_packages_lead_on(library, monkeypatch, way, stale):
    room = library / "vlmdiff" / "room"
    (room / f"{way}.py").write_text("from vlmdiff.room.used import used as name\n")
    (library / "rule.py").write_text(
        f"from vlmdiff.room{'' if way == '__init__' else '.middle'} import name\n"
    )
    monkeypatch.setattr(digest, "WITHOUT_RESULT", (room / f"{way}.py",))
    before = fresh_digest(library)
    (room / "used.py").write_text("def used():\n    return 2\n")
    assert (fresh_digest(library) != before) is stale


def test_a_member_of_a_package_that_bears_no_result_is_followed():
    """The world takes `derive_seed` from the package `runtime`, whose `__init__` changes no result."""
    assert digest.LIBRARY / "runtime" / "seeds.py" in digest.reachable_modules(SCRIPTS / "generate_world.py")


def test_kept_facts_change_no_digest(library):
    first = fresh_digest(library)
    assert digest.KEPT.is_file()
    assert fresh_digest(library) == first
    for damage in ("{", "[]", json.dumps(dict.fromkeys(json.loads(digest.KEPT.read_text()), {"tree": "x"}))):
        digest.KEPT.write_text(damage)
        assert fresh_digest(library) == first


def test_digests_need_no_writable_folder(library, monkeypatch, tmp_path):
    first = fresh_digest(library)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(digest, "KEPT", tmp_path / "file" / "digests.json")
    assert fresh_digest(library) == first


def test_digest_does_not_depend_on_the_folder(library, tmp_path, monkeypatch):
    before = fresh_digest(library)
    library.rename(tmp_path / "moved")
    monkeypatch.setattr(digest, "LIBRARY", tmp_path / "moved" / "vlmdiff")
    assert fresh_digest(tmp_path / "moved") == before


def test_every_script_of_the_workflow_reaches_only_known_files():
    for script in SCRIPTS.glob("*.py"):
        assert all(file.is_file() for file in digest.reachable_modules(script))


def imported(script):
    """Return the library files that a script imports, whatever they change, and what those import.

    A job's frame imports for failures alone: `test_staleness.py` looks at what real jobs import.
    """
    todo, seen = [script], set()
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            if current.parent.name != "runtime" or digest.bears_results(current):
                todo.extend(digest.direct_imports(current))
    return seen - {script}


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda script: script.stem)
def test_nothing_that_bears_results_hides_behind_a_file_that_bears_none(script):
    """A file that changes no result is not followed: what it imports has to be reached in another way."""
    bearing = {file for file in imported(script) if digest.bears_results(file) and file.name != "__init__.py"}
    assert bearing <= set(digest.reachable_modules(script))


def test_replacing_leaves_nothing_half_written(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), files.replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_replacing_folder_swaps_whole_folders(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with files.replacing_folder(target) as temporary:
        (temporary / "new").touch()
    assert [file.name for file in target.iterdir()] == ["new"]


def test_seeds_differ_by_name_and_stay_the_same():
    assert seeds.derive_seed(0, "train", 1) == seeds.derive_seed(0, "train", 1)
    assert len({seeds.derive_seed(0, "train", i) for i in range(100)}) == 100
    assert all(0 <= seeds.derive_seed(i) < 2**31 for i in range(100))


def frame(log: Path) -> SimpleNamespace:
    """What Snakemake hands to a script, as far as the job frame looks at it."""
    parts = {"input": [], "output": [], "params": {}, "wildcards": {"layer": "2"}}
    return SimpleNamespace(log=[str(log)], threads=1, rule="some_rule", **parts)


def test_a_failing_job_names_rule_wildcards_cause_and_log(tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "1")
    log = tmp_path / "job.log"
    with pytest.raises(SystemExit), job(frame(log)):
        raise ValueError("the shard is damaged")
    last = log.read_text().strip().splitlines()[-1]
    for word in ("some_rule[layer=2]", "ValueError", "the shard is damaged", str(log)):
        assert word in last
    assert "Traceback" in log.read_text()


def test_progress_tells_rate_and_time_left(caplog):
    with caplog.at_level(logging.INFO):
        assert list(progress(range(3), "batches", every_s=0.0)) == [0, 1, 2]
    assert "3/3 batches done" in caplog.text
