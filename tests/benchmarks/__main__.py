"""`python -m benchmarks`: run the benchmarks, print their table, and write it as CSV."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import time
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
MODULES = (
    "topk_step",
    "batch_topk_step",
    "jumprelu_step",
    "contrast",
    "shards",
    "extraction",
    "patching",
    "statistics_pass",
    "scoring",
    "own_words",
    "memory",
    "dag",
)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=MODULES, default=MODULES, help="which benchmarks")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of all contestants (default 1)")
    parser.add_argument(
        "--output", type=Path, default=Path("results/benchmarks/table.csv"), help="CSV to write"
    )
    return parser.parse_args()


def main() -> None:
    """Run what is asked for, with threads pinned before any numerical library is imported."""
    chosen = options()
    for variable in THREADS:
        os.environ[variable] = str(chosen.threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["HF_HUB_OFFLINE"] = "1"
    import pandas as pd
    import torch

    from benchmarks.harness import COLUMNS, show

    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    rows: list[dict[str, object]] = []
    for name in chosen.only:
        started = time.monotonic()
        found = importlib.import_module(f"benchmarks.{name}").rows(chosen.rounds)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        rows += found
        show(found)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(chosen.output, index=False)
    show(rows)
    print(
        f"{platform.processor() or platform.machine()}, {chosen.threads} thread(s), torch {torch.__version__}"
    )
    print(f"written to {chosen.output}")


if __name__ == "__main__":
    main()
