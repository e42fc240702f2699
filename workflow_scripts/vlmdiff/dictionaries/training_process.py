"""One process of a training: `python -m vlmdiff.dictionaries.training_process SETTINGS`."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from vlmdiff.dictionaries.training import train_dictionary
from vlmdiff.runtime.causes import cause

log = logging.getLogger("vlmdiff")
# How a process says in its last line why it ended.
FAILED = "process failed: "


def main(settings: str) -> None:
    """Train; of all processes the first one tells its progress.

    Args:
        settings: JSON file with the arguments of `train_dictionary`.
    """
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING, format=f"[{rank}] %(name)s: %(message)s"
    )
    try:
        train_dictionary(**json.loads(Path(settings).read_text()))
    except BaseException as error:
        if isinstance(error, Exception):
            log.exception("traceback")
        log.error("%s%s", FAILED, cause(error))
        raise SystemExit(1) from None


if __name__ == "__main__":
    main(sys.argv[1])
