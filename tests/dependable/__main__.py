"""`make kill`: many kills over the small experiment, compared with an uninterrupted run."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from dependable.campaign import Campaign
from dependable.checkout import RESULTS, copy_checkout
from dependable.compare import compared_files, differences, leftovers
from dependable.run import RunError, run_to_the_end


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m dependable", description=__doc__)
    parser.add_argument("--kills", type=int, default=40, help="how often something is killed")
    parser.add_argument("--seed", type=int, default=0, help="of moments and victims")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument(
        "--minutes", type=float, default=90, help="after that long the killing stops: a failure"
    )
    parser.add_argument("--folder", type=Path, help="keep both copies here; else they are removed")
    parser.add_argument("targets", nargs="*", help="of Snakemake; all if left out")
    return parser.parse_args()


def tell(line: str) -> None:
    """Print a line of progress with the time of day."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def compare(folder: Path, options: argparse.Namespace) -> int:
    """Run both, compare, print what was found and return the exit status."""
    snakemake = ["--cores", str(options.cores), *options.targets]
    started = time.monotonic()
    # Both at once: the checkout may be edited while the first one runs.
    whole, killed = copy_checkout(folder / "whole"), copy_checkout(folder / "killed")
    run_to_the_end(whole, *snakemake)
    tell(f"the uninterrupted run took {time.monotonic() - started:.0f} s")
    campaign = Campaign(killed, snakemake, options.kills, options.seed, options.minutes, tell)
    try:
        tally = campaign.run()
    except RunError as error:
        tell(f"FAILED: {error}")
        return 1
    finally:
        campaign.clean_up()
    found, left = differences(whole / RESULTS, killed / RESULTS), leftovers(killed / RESULTS)
    for line in [*found, *(f"left behind: {name}" for name in left)]:
        tell(line)
    ages = f"jobs were {min(tally.ages):.1f} to {max(tally.ages):.1f} s old, half of them less than "
    tell(f"{ages}{statistics.median(tally.ages):.1f} s")
    compared = len(compared_files(whole / RESULTS))
    outcome = "FAILED" if found or left else "identical"
    counts = f"{compared} files compared, {len(found)} differ, {len(left)} left behind"
    tell(f"{outcome}: {tally.summary()}; {counts}")
    return 1 if found or left else 0


def main() -> int:
    """Do it in a folder of its own."""
    options = arguments()
    if options.folder is not None:
        return compare(options.folder, options)
    with tempfile.TemporaryDirectory(prefix="dependable-") as folder:
        return compare(Path(folder), options)


if __name__ == "__main__":
    sys.exit(main())
