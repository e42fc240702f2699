"""Peak memory of the streaming stages at one and at eight times as many samples, each in its own process."""

from __future__ import annotations

import multiprocessing
import re
import tempfile
from pathlib import Path

from benchmarks.harness import Goal, ratio_row
from benchmarks.synthetic_shards import write_shards

D_MODEL, D_SAE, K, SAMPLES = 512, 4096, 32, 1_000


def own_peak() -> float:
    """Return this process's peak memory in MB since it was started (getrusage counts its parent's too)."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def statistics_peak(paths: list[Path], dictionary: Path, output: Path, answer: multiprocessing.Queue) -> None:
    """Run the statistics stage and tell the process's peak memory."""
    import torch

    from vlmdiff.features.statistics import feature_statistics

    torch.set_num_threads(1)
    outputs = [output / f"{name}.parquet" for name in ("statistics", "totals", "top_samples")]
    feature_statistics(paths, dictionary, 0, outputs, 20)
    answer.put(own_peak())


def contrast_peak(tables: Path, output: Path, answer: multiprocessing.Queue) -> None:
    """Run the contrast stage on two sides of the same table and tell the peak memory."""
    from vlmdiff.features.contrast import contrast_concept

    files = ([tables / "statistics.parquet"], [tables / "totals.parquet"])
    criteria = {"min_odds_ratio": 3.0, "min_frequency_difference": 0.005, "fdr": 0.05}
    target = {"dataset": "d", "groups": ["group_0", "group_1"], "without": []}
    baseline = {"dataset": "d", "groups": None, "without": ["group_0", "group_1"]}
    contrast_concept("c", target, baseline, files, files, D_SAE, criteria, output / "contrast.parquet")
    answer.put(own_peak())


def peak(work, *arguments) -> float:
    """Run work in a fresh process; return its peak memory in MB."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=work, args=(*arguments, answer))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{work.__name__} failed in its process")
    return answer.get()


def rows(rounds: int) -> list[dict[str, object]]:
    """Measure the statistics and the contrast at 1 x and 8 x; peak memory needs no rounds."""
    from benchmarks.peers import started
    from vlmdiff.dictionaries.files import save_dictionary

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        save_dictionary(started(D_MODEL, D_SAE, K), root / "dictionary", {})
        for times in (1, 8):
            paths = write_shards(root / f"shards_{times}", times * SAMPLES, D_MODEL)
            output = root / f"tables_{times}"
            output.mkdir()
            found["statistics", times] = peak(statistics_peak, paths, root / "dictionary", output)
            found["contrast", times] = peak(contrast_peak, output, output)
            for path in paths:
                path.unlink()
    return [
        ratio_row(
            "memory", f"{SAMPLES} and {8 * SAMPLES} samples, {D_MODEL} x {D_SAE}",
            f"{stage}: peak at 8 x ({found[stage, 8]:.0f} MB) / at 1 x ({found[stage, 1]:.0f} MB)",
            found[stage, 8] / found[stage, 1], Goal(most=1.1),
        )
        for stage in ("statistics", "contrast")
    ]  # fmt: skip
