"""`make mutants`: put faults into the core, one at a time, and count how many the unit tests notice."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

# As tests/conftest.py says it, before the first child exists.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from mutation.bench import Bench, Outcome
from mutation.catalogue import Mutation, Room, read_rooms
from mutation.operators import ROOMS, room_faults, sample

ENOUGH = 0.9
TOLD = 50  # faults after which a line says how far it is
COLUMNS = {"faults": 8, "caught": 8, "by time": 9, "survived": 10, "broken": 8, "score": 9}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m mutation", description=__doc__)
    parser.add_argument("--room", nargs="+", help="of these rooms only")
    parser.add_argument("--only", nargs="+", help="faults whose name holds one of these texts")
    parser.add_argument(
        "--generated", type=int, default=100, help="as many faults made by rule, a random sample"
    )
    parser.add_argument("--seed", type=int, default=0, help="of that sample")
    parser.add_argument(
        "--old-notes",
        action="store_true",
        help="after a change of the library trust what tests called before",
    )
    parser.add_argument("--no-list", action="store_true", help="without the reviewed list")
    return parser.parse_args()


def wanted(mutations: Iterable[Mutation], options: argparse.Namespace) -> list[Mutation]:
    """Keep what the command line asks for."""
    return [one for one in mutations if not options.only or any(text in one.name for text in options.only)]


def listed(rooms: list[Room], options: argparse.Namespace) -> list[Mutation]:
    """Return the faults of the reviewed list."""
    return [] if options.no_list else wanted((one for room in rooms for one in room.mutations), options)


def generated(rooms: list[Room], options: argparse.Namespace) -> list[Mutation]:
    """Return the sample of faults made by rule."""
    faults = [one for room in rooms if room.name in ROOMS for one in room_faults(room.name)]
    return wanted(sample(faults, options.generated, options.seed), options)


def try_all(bench: Bench, mutations: list[Mutation], rooms: list[Room]) -> list[Outcome]:
    """Try faults one after another, and name those that nobody noticed."""
    tests = {room.name: room.tests for room in rooms}
    outcomes = []
    for number, mutation in enumerate(mutations):
        if number and number % TOLD == 0:
            print(f"{number} of {len(mutations)}", flush=True)
        outcome = bench.attempt(mutation, tests[mutation.room])
        outcomes.append(outcome)
        if outcome.kind != "caught":
            print(f"{outcome.kind:9}{mutation.room}/{mutation.name} ({outcome.tests} tests)", flush=True)
    return outcomes


def show(title: str, outcomes: list[Outcome]) -> bool:
    """Print a table by room; tell whether enough were noticed."""
    heads = "".join(f"{name:>{width}}" for name, width in COLUMNS.items())
    print(f"\n{title}\n{'room':16}{heads}")
    kinds = {room: Counter() for room in dict.fromkeys(one.mutation.room for one in outcomes)}
    for one in outcomes:
        kinds[one.mutation.room][one.kind] += 1
    kinds["all"] = sum(kinds.values(), Counter())
    for room, count in kinds.items():
        total = sum(count.values())
        noticed = count["caught"] + count["timeout"]
        cells = (count["caught"], count["timeout"], count["survived"], count["broken"])
        row = "".join(f"{cell:>{width}}" for cell, width in zip((total, *cells), COLUMNS.values()))
        print(f"{room:16}{row}{noticed / total:>9.1%}")
    every = kinds["all"]
    return (every["caught"] + every["timeout"]) >= ENOUGH * sum(every.values()) and not every["broken"]


def main() -> int:
    """Try everything that is asked for; 1 if fewer than nine in ten are noticed."""
    options = arguments()
    rooms = [room for room in read_rooms() if not options.room or room.name in options.room]
    parts = {
        "reviewed list": listed(rooms, options),
        "sample of faults made by rule": generated(rooms, options),
    }
    used = {mutation.room for mutations in parts.values() for mutation in mutations}
    if not used:
        print("no fault has such a name")
        return 1
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        files = dict.fromkeys(file for room in rooms if room.name in used for file in room.tests)
        bench = Bench(Path(folder), list(files), options.old_notes)
        print(f"tests without a fault: {time.monotonic() - started:.0f} s", flush=True)
        enough = [
            show(title, try_all(bench, mutations, rooms)) for title, mutations in parts.items() if mutations
        ]
    print(f"{time.monotonic() - started:.0f} s")
    return 0 if all(enough) else 1


if __name__ == "__main__":
    sys.exit(main())
