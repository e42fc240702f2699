"""Records of outputs: what is compared, what is refused, what is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from vlmdiff.runtime.failures import failure_summary
from vlmdiff.runtime.job import job
from vlmdiff.runtime.records import DamagedFileError, check_inputs, read_record, record_path, write_records
from vlmdiff.runtime.verification import NoRecordsError, verify
from vlmdiff.summary.provenance import is_of_a_former_rule, write_provenance

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty experiment in a working directory of its own, with threads as they were at the end."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    folder = Path("results/some")
    folder.mkdir(parents=True)
    return folder


def frame(outputs=(), inputs=(), log="job.log", rule="some_rule", **params):
    """What Snakemake hands to a script, as far as the job's frame looks at it."""
    return SimpleNamespace(
        log=[log], threads=1, rule=rule, wildcards={"layer": "2"}, params=params,
        input=[str(one) for one in inputs], output=[str(one) for one in outputs],
    )  # fmt: skip


def made(path: Path, content: bytes = b"some content", **params) -> Path:
    """Write an output in a job of its own."""
    with job(frame([path], **params)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path


def shard(path: Path, model: str = "m") -> Path:
    """Write an HDF5 file with checksums in its attributes, in a job of its own."""
    with job(frame([path])), h5py.File(path, "w") as file:
        file.attrs["model"] = model
        dataset = file.create_dataset("values", data=np.arange(100, dtype=np.uint16))
        dataset.attrs["checksum"] = "abc"
    return path


def test_records_lie_beside_the_results_in_a_tree_of_their_own():
    assert record_path("results/some/a/b.csv") == Path("results/some/provenance/a/b.csv.json")
    for other in ("resources/world/x.json", "/data/x.json", "results/x", "results/some/provenance/a.json"):
        assert record_path(other) is None


def test_a_job_records_checksum_origin_and_inputs(results):
    first = made(results / "first.csv")
    with job(frame([results / "second.csv"], [first], seed=7, code="abc")):
        (results / "second.csv").write_text("x")
    record = read_record(record_path(results / "second.csv"))
    assert record["files"]["."]["bytes"] == 1
    assert (record["rule"], record["seed"], record["code"]) == ("some_rule", 7, "abc")
    assert record["inputs"][str(first)] == {".": read_record(record_path(first))["files"]["."]["xxh3_128"]}
    assert record["software"]["python"] == sys.version.split()[0]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file.write_bytes(b"some cOntent"), "checksum differs"),
        (lambda file: file.write_bytes(b""), "found 0 bytes, expected 12"),
        (lambda file: file.write_bytes(b"\0" * 12), "checksum differs"),
    ],
)
def test_a_damaged_input_is_refused_before_the_job_starts(results, damage, words):
    file = made(results / "table.csv")
    damage(file)
    with pytest.raises(SystemExit), job(frame([results / "out.csv"], [file])):
        pytest.fail("the job's body ran")
    last = Path("job.log").read_text().strip().splitlines()[-1]
    for word in (words, str(file), "Delete", "run snakemake again", "some_rule[layer=2]", "job.log"):
        assert word in last
    assert not (results / "out.csv").exists()


def test_an_edit_is_accepted_when_its_record_is_deleted(results):
    file = made(results / "table.csv")
    file.write_bytes(b"mine")
    record_path(file).unlink()
    check_inputs([file])


def test_files_of_others_are_not_compared(results):
    Path("mine.csv").write_text("x")
    check_inputs(["mine.csv", results / "never_made.csv"])


def test_an_unreadable_record_does_not_stop_a_job_but_is_told_by_verify(results):
    file = made(results / "table.csv")
    record_path(file).write_text("{")
    check_inputs([file])
    with pytest.raises(DamagedFileError, match=r"table\.csv\.json"):
        verify(results)


def test_folders_are_compared_file_by_file(results):
    folder = results / "snapshots"
    with job(frame([folder])):
        (folder / "50").mkdir(parents=True)
        (folder / "50" / "weights").write_bytes(b"abc")
    (folder / ".snakemake_timestamp").touch()
    check_inputs([folder])
    (folder / "75").touch()
    with pytest.raises(DamagedFileError, match="did not write this file"):
        check_inputs([folder])
    (folder / "75").unlink()
    (folder / "50" / "weights").unlink()
    with pytest.raises(DamagedFileError, match="no such file"):
        check_inputs([folder])


def test_an_exchanged_shard_is_noticed_by_its_attributes_alone(results):
    one, two = shard(results / "one.h5"), shard(results / "two.h5", model="n")
    check_inputs([one, two])
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    for file in (one, two):
        with pytest.raises(DamagedFileError, match="altered"):
            check_inputs([file])


def test_verify_reads_shards_to_their_last_byte(results):
    file = shard(results / "one.h5")
    verify(results)
    with h5py.File(file, "r+") as opened:
        opened["values"][99] = 0
    check_inputs([file])  # its reader compares the values
    with pytest.raises(DamagedFileError, match=r"one\.h5"):
        verify(results)


def test_verify_names_every_damaged_file_and_counts_missing_ones(results, capsys):
    files = [made(results / f"{name}.csv") for name in "abcd"]
    files[0].write_bytes(b"x")
    files[1].write_bytes(b"some c0ntent")
    files[2].unlink()
    with pytest.raises(DamagedFileError) as caught:
        verify(results)
    assert "2 of the results" in str(caught.value)
    assert f"(rm -r {files[0]} {files[1]}) and run the experiment again" in str(caught.value)
    assert all(str(file) in str(caught.value) for file in files[:2])
    assert str(files[3]) not in str(caught.value)
    assert "4 records compared: 2 files damaged, 1 not there" in capsys.readouterr().err


def test_where_nothing_was_made_nothing_is_verified(results):
    with pytest.raises(NoRecordsError, match="found no records of results.*name its config"):
        verify(results)


def test_a_failed_job_leaves_no_record(results):
    with pytest.raises(SystemExit), job(frame([results / "out.csv"])):
        (results / "out.csv").write_text("half")
        raise OSError(28, "No space left on device")
    assert not record_path(results / "out.csv").exists()
    assert "free disk space" in Path("job.log").read_text().splitlines()[-1]


def test_a_traceback_of_a_job_holds_no_token_and_no_terminal_codes(results, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "very-secret-value")
    with pytest.raises(SystemExit), job(frame()):
        raise RuntimeError("401 for https://me:pass@hub/x?key=1 with very-secret-value \x1b[2J")
    assert "Traceback" in Path("job.log").read_text()
    for text in (Path("job.log").read_text(), capsys.readouterr().err):
        assert "401 for" in text
        assert not any(word in text for word in ("very-secret-value", "me:pass", "key=1", "\x1b"))


def test_links_into_a_cache_are_recorded_by_what_they_lead_to(results):
    blob = Path("cache") / "0a1b"
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    link = results / "config.json"
    link.symlink_to(blob.resolve())
    write_records([link], {})
    assert read_record(record_path(link))["files"]["."]["xxh3_128"] == "link 0a1b"
    check_inputs([link])


def test_a_killed_job_and_a_failed_one_each_get_a_line(results):
    logs = results / "logs"
    (logs / "rule").mkdir(parents=True)
    with pytest.raises(SystemExit), job(frame(log=str(logs / "rule" / "failed.log"))):
        raise ValueError("no such layer")
    with job(frame(log=str(logs / "rule" / "fine.log"))):
        pass
    (logs / "rule" / "killed.log").write_text("INFO vlmdiff: rule started with 1 thread(s)\n")
    lines = failure_summary(logs, since=0).splitlines()
    assert len(lines) == 2
    assert "ValueError: no such layer" in lines[0] and "Next:" in lines[0]
    assert "killed" in lines[1] and str(logs / "rule" / "killed.log") in lines[1]
    later = (logs / "rule" / "killed.log").stat().st_mtime + 9
    assert "No job failed" in failure_summary(logs, since=later)


def test_a_crash_of_native_code_leaves_its_stack_in_the_log(tmp_path):
    script = f"""
import faulthandler, types
from vlmdiff.runtime.job import job
parts = dict(wildcards={{}}, params={{}}, input=[], output=[])
with job(types.SimpleNamespace(log=[{str(tmp_path / "job.log")!r}], threads=1, rule="r", **parts)):
    faulthandler._sigsegv()
"""
    environment = {**os.environ, "PYTHONPATH": "workflow_scripts"}
    run = subprocess.run([sys.executable, "-c", script], check=False, env=environment, cwd=ROOT)
    assert run.returncode < 0
    assert "Segmentation fault" in (tmp_path / "job.log").read_text()


def test_the_page_counts_jobs_by_version_and_rule(results):
    made(results / "a.csv", rule="one", seed=1, code="c1")
    made(results / "b.csv", rule="two", code="c2")
    record = record_path(results / "b.csv")
    content = json.loads(record.read_text())
    content["project"] = {"commit": "0123abc", "changed": True}
    record.write_text(json.dumps(content))
    write_provenance(
        results, results / "provenance.md", {"one", "two", "write_provenance"}, "write_provenance"
    )
    page = (results / "provenance.md").read_text()
    assert "2 jobs" in page
    assert "- commit `0123abc` with local changes: 1 jobs" in page
    assert "| `one` | 1 | `c1` | 1 | 1 |" in page
    assert "earlier runs" not in page


def test_the_page_says_what_fetched_models_are(results):
    made(results / "a.csv", rule="one", code="c1")
    told = {
        "base_lm/package.json": {
            "package": "tiny-lm==1.0",
            "file": "t.gguf",
            "sha256": "ab12",
            "quantised": {"Q4_1": 3, "F32": 2},
        },
        "vlm/hub.json": {"repository": "who/vlm", "revision": "main", "commit": "cd34"},
        "vlm/config.json": {},
    }
    for name, content in told.items():
        (results / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (results / "models" / name).write_text(json.dumps(content))
    write_provenance(results, results / "provenance.md", {"one", "write_provenance"}, "write_provenance")
    _, _, fetched = (results / "provenance.md").read_text().partition("## Fetched models\n")
    base, vlm = fetched.strip().splitlines()
    assert base.startswith("- `base_lm`: `t.gguf` of the package `tiny-lm==1.0`, SHA-256 `ab12`.")
    assert "(tensors: 2 in F32, 3 in Q4_1), and are read in float32" in base
    assert vlm == "- `vlm`: `who/vlm` of the hub, commit `cd34`"


def test_the_page_lists_apart_what_no_rule_makes_any_more(results):
    scripts = {"plot_new", "write_provenance"}
    made(results / "new.csv", rule="vd_plot_new", code="c1")
    for name in ("figures/old.svg", "figures/old.png", "figures/deleted.pdf"):
        made(results / name, rule="vd_plot_old", code="c2")
    (results / "figures/deleted.pdf").unlink()
    made(results / "theirs.csv", rule="other_rule", code="c3")
    write_provenance(results, results / "provenance.md", scripts, "vd_write_provenance")
    page, _, apart = (results / "provenance.md").read_text().partition("## Left by earlier runs\n")
    assert "`vd_plot_new`" in page and "`other_rule`" in page and "plot_old" not in page
    assert apart.splitlines()[-1] == "- `vd_plot_old`: `figures/old.png`, `figures/old.svg`"
    assert "delete" in apart.lower() and "deleted.pdf" not in apart


@pytest.mark.parametrize(
    ("rule", "own", "former"),
    [
        ("plot_old", "write_provenance", True),
        ("plot_new", "write_provenance", False),
        # The same results, made by a workflow that uses this one as a module.
        ("vd_plot_new", "write_provenance", False),
        # Of several groups of layers.
        ("plot_new_16_31", "write_provenance", False),
        ("plot_new_alone", "write_provenance", False),
        ("plot_old_16_31", "write_provenance", True),
        ("vd_plot_old", "vd_write_provenance", True),
        ("plot_old", "vd_write_provenance", False),
        ("plot_old", "again", False),
    ],
)
def test_a_rule_is_former_only_if_it_was_ours(rule, own, former):
    assert is_of_a_former_rule(rule, {"plot_new", "write_provenance"}, own) == former
    # Scripts that are not on this machine tell nothing.
    assert not is_of_a_former_rule(rule, set(), own)
