"""What only a device can tell: are dictionaries right on it, do trainings resume, how fast is it, what fits?

    python tests/gpu/run.py                  # on a machine with a GPU; about five minutes
    python tests/gpu/run.py --small --device cpu              # the same checks at toy sizes, on a CPU
    python tests/gpu/run.py --small --device cpu --interpret  # and Triton's loops by its interpreter
    python tests/gpu/run.py --only step_times --out results/gpu.csv

Nothing of this project need be installed: torch, triton, lightning, transformers, h5py, numba and pandas are
enough for most of it. What else it wants is printed first, and a section that lacks it is left out; wheels
that are unpacked into a folder on PYTHONPATH will do.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
for folder in (TESTS, TESTS.parent / "workflow_scripts", TESTS / "gpu"):
    sys.path.insert(0, str(folder))

from outcomes import Row, Setting, shown  # noqa: E402

SECTIONS = ("loops", "operations", "trainings", "step_times", "forward_passes")
NEEDED = ("torch", "pytorch_lightning", "transformers", "h5py", "numba", "pandas")
ALSO = ("triton", "jaxtyping", "xxhash", "safetensors", "pyarrow", "PIL", "tokenizers", "pydantic")


def lacking(modules: Sequence[str]) -> list[str]:
    """Return which of the modules cannot be found."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


def run_section(name: str, setting: Setting) -> list[Row]:
    """Run one section; what goes wrong in it becomes a row, and the others still run."""
    started = time.perf_counter()
    try:
        rows = importlib.import_module(name).rows(setting)
    except ImportError as error:
        return [Row(name, "", "left out", note=f"{error.name or error} is missing", holds=None)]
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        return [Row(name, "", "failed", note=f"{type(error).__name__}: {error}"[:120], holds=False)]
    return [*rows, Row(name, "", "seconds of this section", time.perf_counter() - started)]


def machine(device: str) -> str:
    """Describe what the numbers belong to."""
    import torch

    card = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return f"{card}, torch {torch.__version__}, Python {platform.python_version()}"


def open_loops(device: str, interpret: bool) -> None:
    """Choose the loops as a training does; by Triton's interpreter on any device if asked to."""
    import torch

    from vlmdiff.dictionaries import loops

    if interpret:
        os.environ["TRITON_INTERPRET"] = "1"
        loops.DEVICE = device
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    loops.DEVICE_LOOPS.open(torch.device(device))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections, print their table, and return 1 if a check does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--small", action="store_true", help="toy sizes")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--interpret", action="store_true", help="Triton's loops by its interpreter, slowly")
    parser.add_argument("--minutes", type=float, default=8, help="no section starts after so long")
    parser.add_argument("--out", type=Path, help="CSV file for the table")
    options = parser.parse_args(arguments)
    if missing := lacking(NEEDED):
        print(f"missing: {', '.join(missing)}; install them, nothing runs without them", file=sys.stderr)
        return 2
    print(f"also wanted, and missing here: {', '.join(lacking(ALSO)) or 'nothing'}")
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("found no GPU that torch can use; add --device cpu --small to try the script", file=sys.stderr)
        return 2
    print(machine(options.device), flush=True)
    open_loops(options.device, options.interpret)
    setting, started, rows = Setting(options.device, options.small), time.monotonic(), []
    for name in options.only:
        late = time.monotonic() - started > 60 * options.minutes
        found = [Row(name, "", "left out", note="no time is left")] if late else run_section(name, setting)
        rows += found
        print(f"{name}: done after {time.monotonic() - started:.0f} s", flush=True)
    table = shown(rows)
    print(table.to_string(index=False))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        table.assign(machine=machine(options.device)).to_csv(options.out, index=False)
    return int(any(row.holds is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
