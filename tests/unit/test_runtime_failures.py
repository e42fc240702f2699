"""One failure, one line, the true cause, once; whatever failed, and however it said so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest
import torch
from pydantic import BaseModel

from vlmdiff.dictionaries.launch import first_reason
from vlmdiff.runtime.causes import LONGEST, cause, one_line
from vlmdiff.runtime.failures import failure_summary
from vlmdiff.runtime.job import TOLD_AT_THE_END, job, next_step

ROOT = Path(__file__).parents[2]


class Section(BaseModel):
    """Two values that can be wrong."""

    first: int
    second: int


def chained() -> None:
    try:
        {}["layer"]
    except KeyError as error:
        raise RuntimeError("no such layer\nin this model") from error


def raised_while_handling() -> None:
    try:
        h5py.File("/nowhere/shard.h5")
    except OSError:
        raise ValueError("cannot go on")  # noqa: B904


def hidden() -> None:
    try:
        {}["layer"]
    except KeyError:
        raise RuntimeError("use another layer") from None


def several() -> None:
    raise ExceptionGroup("two of them", [OSError(28, "No space left on device"), ValueError("other")])


FAILURES = {
    "lines": (lambda: (_ for _ in ()).throw(ValueError("a:\n  b\n\n  c")), "ValueError: a: b; c"),
    "pydantic": (
        lambda: Section(first="x", second="y"),
        "2 validation errors for Section; first; Input should",
    ),
    "torch": (
        lambda: torch.nn.Linear(2, 2).load_state_dict({"odd": torch.zeros(1)}),
        'Error(s) in loading state_dict for Linear: Missing key(s) in state_dict: "weight", "bias".',
    ),
    "h5py": (lambda: h5py.File("/nowhere/shard.h5"), "FileNotFoundError: [Errno 2]"),
    "chained": (chained, "RuntimeError: no such layer; in this model (because of KeyError: 'layer')"),
    "while handling": (
        raised_while_handling,
        "ValueError: cannot go on (because of FileNotFoundError: [Errno 2]",
    ),
    "hidden": (hidden, "RuntimeError: use another layer. Log"),
    "several": (several, "two of them (2 sub-exceptions) (because of OSError: [Errno 28] No space left"),
    "no words": (lambda: (_ for _ in ()).throw(MemoryError()), "MemoryError. Log"),
    "exit": (lambda: sys.exit("no card\nof this kind"), "SystemExit: no card; of this kind"),
    "exit 0": (lambda: sys.exit(0), "SystemExit: 0. Log"),
    "control": (lambda: (_ for _ in ()).throw(ValueError("a\x1b[31m\u2028b\rc")), "a<U+001B>[31m; b; c"),
    "interrupt": (lambda: (_ for _ in ()).throw(KeyboardInterrupt()), "KeyboardInterrupt. Log"),
}


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv(TOLD_AT_THE_END, "1")
    return tmp_path / "logs" / "some_rule" / "a.log"


def frame(log: Path) -> SimpleNamespace:
    parts = {"input": [], "output": [], "params": {}, "wildcards": {"layer": "2"}}
    return SimpleNamespace(log=[str(log)], threads=1, rule="some_rule", **parts)


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_one_line_with_its_cause_told_once(name, log, capsys):
    fail, words = FAILURES[name]
    with pytest.raises(SystemExit) as end, job(frame(log)):
        fail()
    assert end.value.code == 1
    said = failure_summary(log.parents[1], since=0)
    assert "\n" not in said
    assert said.startswith("some_rule[layer=2] failed: ")
    assert words in said
    assert f"Log: {log}. Next: " in said
    # The summary tells it at the end of the run; the traceback is for the log alone.
    assert "failed" not in capsys.readouterr().err
    assert ("Traceback" in log.read_text()) == (name != "interrupt")


def test_a_run_that_nobody_summarises_is_told_by_the_job(log, capsys, monkeypatch):
    monkeypatch.delenv(TOLD_AT_THE_END)
    with pytest.raises(SystemExit), job(frame(log)):
        raise ValueError("a\nb")
    shown = [line for line in capsys.readouterr().err.splitlines() if "started with" not in line]
    assert len(shown) == 1 and "some_rule[layer=2] failed: ValueError: a; b. Log: " in shown[0]


def led_by(first: BaseException, text: str) -> BaseException:
    error = RuntimeError(text)
    error.__cause__ = first
    return error


def while_handling(first: BaseException, error: BaseException) -> BaseException:
    error.__context__ = first
    return error


FULL = OSError(28, "No space")
WRAPS = (
    lambda error: error,
    lambda error: led_by(error, "x"),
    lambda error: led_by(while_handling(ZeroDivisionError(), led_by(error, "y")), "x"),
    lambda error: while_handling(error, KeyError("x")),
    lambda error: ExceptionGroup("g", [ValueError("x"), led_by(error, "y")]),
)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ExceptionGroup("g", [ValueError("x"), ValueError("y")]), "because of ValueError: x"),
        (led_by(KeyError(0), "found 10 layers"), "because of KeyError: 0"),
        (led_by(OSError(5), "shard 5 of 8"), "because of OSError: 5"),
        (led_by(MemoryError(), "the batch failed"), "because of MemoryError"),
        (led_by(ValueError("no such layer"), "found no such layers"), "because of ValueError: no such layer"),
        (led_by(ExceptionGroup("g", [led_by(KeyError("a"), "inner")]), "a"), "because of KeyError: 'a'"),
        (led_by(ValueError("no such layer"), "sae.npz: no such layer; name another"), None),
        (led_by(KeyError(0), "cannot be read (KeyError: 0); download it again"), None),
        (led_by(MemoryError(), "cannot be read (MemoryError)"), None),
        (led_by(while_handling(ZeroDivisionError(), MemoryError()), "x"), "because of MemoryError"),
        (led_by(while_handling(KeyError(0), FULL), "x"), "because of OSError: [Errno 28] No space"),
        (ExceptionGroup("g", [ValueError("x"), led_by(MemoryError(), "y")]), "because of MemoryError"),
    ],
)  # fmt: skip
def test_a_cause_is_told_unless_the_message_repeats_it(error, told):
    text = cause(error)
    assert text.endswith(f"({told})") if told else text == f"RuntimeError: {error}"


@pytest.mark.parametrize(
    ("error", "step"),
    [
        *((wrap(error), "give the rule more memory") for wrap in WRAPS for error in (
            MemoryError(), OSError(12, "Cannot allocate memory"), torch.OutOfMemoryError("CUDA"),
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        )),
        *((wrap(error), "free disk space") for wrap in WRAPS for error in (
            FULL, OSError(122, "Disk quota exceeded"), RuntimeError("write failed: No space left on device"),
        )),
        *((wrap(error), "fix the cause") for wrap in WRAPS for error in (ValueError("x"), OSError(5, "I/O"))),
        (while_handling(MemoryError(), KeyboardInterrupt()), "run snakemake again"),
    ],
)  # fmt: skip
def test_what_to_do_is_found_anywhere_in_the_chain(error, step):
    assert next_step(error).startswith(step)


def test_a_message_of_any_length_stays_a_line():
    text = cause(ValueError("\n".join(f"layers.{i}.weight" for i in range(5000))))
    assert "\n" not in text and len(text) < LONGEST + 100
    assert text.endswith("(cut; the log has all of it)")
    assert one_line("expected (\na,\nb)\nfound = \nc") == "expected ( a, b); found = c"


@pytest.mark.parametrize(
    "after",
    [
        "2026-01-01 00:00:00,000 WARNING py.warnings: /x.py:1: UserWarning: late\n  warn()",
        "\rsteps: 100%|##########| 5/5",
        "2026-01-01 00:00:00,000 WARNING vlmdiff.other: it failed: not really",
        "free(): invalid size",
    ],
)
def test_what_comes_after_the_last_word_changes_nothing(log, after):
    with job(frame(log)):
        pass
    log.write_text(f"{log.read_text()}{after}\n")
    assert "No job failed by itself" in failure_summary(log.parents[1], since=0)
    with pytest.raises(SystemExit), job(frame(log)):
        raise ValueError("the cause")
    log.write_text(f"{log.read_text()}{after}\n")
    said = failure_summary(log.parents[1], since=0)
    assert said.startswith("some_rule[layer=2] failed: ValueError: the cause. Log: ")


def run_job(log: Path, body: str) -> subprocess.CompletedProcess:
    """Run a job in a process of its own, whatever becomes of it."""
    script = f"""
import faulthandler, os, signal, sys, types
from vlmdiff.runtime.job import job
parts = dict(wildcards={{}}, params={{}}, input=[], output=[])
def innermost():
    {body}
with job(types.SimpleNamespace(log=[{str(log)!r}], threads=1, rule="some_rule", **parts)) as log:
    log.info("half of it done")
    innermost()
"""
    environment = {**os.environ, "PYTHONPATH": "workflow_scripts"}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, check=False, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("faulthandler._sigsegv()", "some_rule, a crashed: Segmentation fault in innermost ("),
        ("os.abort()", "some_rule, a crashed: Aborted in innermost ("),
        ("os.kill(os.getpid(), signal.SIGBUS)", "crashed: Bus error in innermost ("),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "was killed, or is still running on a cluster; its log ends with",
        ),
        ("os.kill(os.getpid(), signal.SIGTERM)", "was killed"),
        ("os._exit(3)", "half of it done'. Log:"),
    ],
)
def test_a_job_without_a_last_word_is_told_by_how_it_ended(log, body, words):
    done = run_job(log, body)
    assert done.returncode != 0
    said = failure_summary(log.parents[1], since=0)
    assert "\n" not in said and words in said and str(log) in said
    assert ("memory" in said) == ("killed" in said or "Bus" in said)
    assert "Traceback" not in done.stderr


RECORD = "2026-01-01 10:00:00,000 INFO vlmdiff: some_rule started with 1 thread(s)\n"
RAISED = "Traceback (most recent call last):\n  File x, line 1, in <module>\n    import h5py\n"
GROUP = """  + Exception Group Traceback (most recent call last):
  |   File x, line 1, in <module>
  | ExceptionGroup: g (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | ValueError: a
    +------------------------------------
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{RAISED}ModuleNotFoundError: No h5py\n", "failed: ModuleNotFoundError: No h5py."),
        (f"{RECORD}{RAISED}yaml.scanner.Odd: found\na tab\n", "failed: yaml.scanner.Odd: found; a tab."),
        (f"{RAISED}ValueError: first\nsecond\nthird\n", "failed: ValueError: first; second; third."),
        (f"{RAISED}RuntimeError: a\nncclSystemError: b\n\nc\n", "RuntimeError: a; ncclSystemError: b."),
        *(
            (f"{RAISED}ValueError: first\nsecond\n{after}\n", "failed: ValueError: first; second.")
            for after in (
                "Exception ignored in: <x>", "srun: error: n1: task 0: Exited", "terminate called after",
                "W1128 10:00:00 torch", "[W1128 10:00:00 socket.cpp:1]", "[rank0]:[E1128 10:00:00 x.cpp:1]",
            )
        ),
        *(
            (
                RECORD + "".join(f"{rank}{line}\n" for line in f"{RAISED}RuntimeError: a\nb".splitlines()),
                "failed: RuntimeError: a; b.",
            )
            for rank in ("[rank1]: ", "[rank12]: ", "[default0]:", "[0]: ")
        ),
        (f"{RAISED}KeyError: 1\n\nDuring it, another:\n\n{RAISED}MemoryError\n", "failed: MemoryError."),
        (f"{RAISED}KeyboardInterrupt\n", "failed: KeyboardInterrupt."),
        ('  File "x.py", line 3\n    a b\nSyntaxError: invalid syntax\n', "failed: SyntaxError: inv"),
        (GROUP, "failed: ExceptionGroup: g (2 sub-exceptions)."),
        (f"{RAISED}ValueError: x\n{RECORD}", "was killed"),
        (f"{RECORD}loading: 3 of 4\n", "ends with: 'loading: 3 of 4'"),
        ("", "ended before its first word; Snakemake's message above tells why."),
        ("\n \n", "ended before its first word; Snakemake's message above tells why."),
    ],
)  # fmt: skip
def test_a_job_that_died_outside_of_its_frame_tells_what_its_log_ends_with(tmp_path, text, words):
    (tmp_path / "some_rule.log").write_text(text)
    said = failure_summary(tmp_path, since=0)
    assert said.startswith("some_rule ") and words in said and "\n" not in said
    assert ("memory or time" in said) == ("killed" in said)
    assert f"Log: {tmp_path / 'some_rule.log'}. Next: " in said


def test_a_crash_after_the_end_is_a_crash(log):
    done = run_job(log, "import atexit; atexit.register(faulthandler._sigsegv)")
    assert done.returncode == -signal.SIGSEGV
    assert "finished after" in log.read_text()
    assert "some_rule, a crashed: Segmentation fault" in failure_summary(log.parents[1], since=0)


def test_a_job_that_failed_before_its_first_word_is_known_from_snakemake(log, tmp_path):
    """An adapter with an error in its syntax writes no log; a former log says nothing of this run."""
    log.parent.mkdir(parents=True)
    log.write_text("2026-01-01 00:00:00,000 INFO vlmdiff: some_rule finished after 3.0 s\n")
    os.utime(log, (1, 1))
    own = tmp_path / "snakemake.log"
    own.write_text(
        "Error in rule some_rule:\n    jobid: 0\n"
        f"    log: {log} (check log file(s) for error details)\n"
    )  # fmt: skip
    said = failure_summary(log.parents[1], since=100, snakemake_logs=[own, tmp_path / "absent.log"])
    assert said == f"The job of {log} failed before its first word; Snakemake's message above tells why"


def test_a_failure_that_snakemake_names_too_is_told_once(log, tmp_path):
    with pytest.raises(SystemExit), job(frame(log)):
        raise ValueError("odd layers")
    own = tmp_path / "snakemake.log"
    own.write_text(f"Error in rule r:\n    log: {log} (check log file(s) for error details)\n")
    assert failure_summary(log.parents[1], 0, [own]).count("odd layers") == 1
    assert "\n" not in failure_summary(log.parents[1], 0, [own])


def test_a_missing_package_of_the_frame_is_told_like_any_failure(log, monkeypatch):
    monkeypatch.setitem(sys.modules, "vlmdiff.runtime.records", None)
    with pytest.raises(SystemExit), job(frame(log)):
        pass
    assert "failed: ModuleNotFoundError: import of vlmdiff.runtime.records" in failure_summary(
        log.parents[1], 0
    )


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            [
                "[1] vlmdiff: process failed: DistBackendError: NCCL error",
                "[0] vlmdiff: process failed: DataError: x",
            ],
            "DataError: x",
        ),
        (
            [
                "[0] vlmdiff: process failed: RuntimeError: Connection closed by peer [127.0.0.1]:5",
                "  traceback : Signal 11 (SIGSEGV) received by PID 70",
            ],
            "a process was ended by SIGSEGV",
        ),
        (["[0] vlmdiff: process failed: RuntimeError: Connection reset"], "RuntimeError: Connection reset"),
        (["nothing of the kind"], None),
    ],
)
def test_of_several_processes_the_first_tells_that_did_not_only_lose_another(said, reason):
    assert first_reason(said) == reason
