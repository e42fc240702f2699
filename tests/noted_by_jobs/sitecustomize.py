"""Python imports this at its start where a test has put this folder on PYTHONPATH (tests/traces_of_jobs.py).

A job then notes at its end which modules of the library it has imported and which files it has opened.
"""

import atexit
import json
import os
import sys
from pathlib import Path

opened = set()


def note_file(event: str, arguments: tuple) -> None:
    """Remember a file that is opened by name; files that compiled libraries open are not seen."""
    if event == "open" and isinstance(arguments[0], str | os.PathLike):
        opened.add(str(Path(os.fsdecode(arguments[0])).absolute()))


def note_job() -> None:
    """Write what a job did under the rule's name; nothing if this process is no job."""
    job = getattr(sys.modules["__main__"], "snakemake", None)
    folder = os.environ.get("TRACES_OF_JOBS")
    if folder and hasattr(job, "rule"):
        values = {
            "imported": sorted(name for name in sys.modules if name.partition(".")[0] == "vlmdiff"),
            "opened": sorted(opened),
            "declared": sorted(
                {str(Path(str(file)).absolute()) for file in (*job.input, *job.output, *job.log)}
            ),
        }
        Path(folder, f"{job.rule}.{os.getpid()}.json").write_text(json.dumps(values))


if os.environ.get("TRACES_OF_JOBS"):
    sys.addaudithook(note_file)
    atexit.register(note_job)
