"""Costs of a run from files as Snakemake writes them."""

import json

import pytest

from vlmdiff.figures.costs import SHOWN, costs
from vlmdiff.summary.costs import cost_table, summarise_costs
from vlmdiff.tables.costs import COSTS
from vlmdiff.tables.io import read_table

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def benchmark(path, *runs):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{s}\t0:00:01\t{rss}\t1\t1\t1\t0\t0\t50\t{cpu}\n" for s, cpu, rss in runs]
    path.write_text(HEADER + "".join(lines))


@pytest.fixture
def folder(tmp_path):
    # A repeated job counts once, with its last run; what could not be measured is `-`.
    benchmark(tmp_path / "b/train/seed_0/layer_0.tsv", (99.0, 99.0, 900.0), (10.0, 8.0, 300.0))
    benchmark(tmp_path / "b/train/seed_0/layer_1.tsv", (30.0, 20.0, 500.0))
    benchmark(tmp_path / "b/write_config.tsv", (0.5, "-", "-"))
    return tmp_path / "b"


def test_jobs_are_summed_by_rule(folder, tmp_path):
    summarise_costs(folder, tmp_path / "costs.csv")
    table = read_table(tmp_path / "costs.csv", COSTS)
    assert table["rule"].tolist() == ["train", "write_config"]
    train = table.iloc[0]
    assert (train["jobs"], train["wall_s"], train["cpu_s"], train["memory_max_mb"]) == (2, 40.0, 28.0, 500.0)
    assert (train["wall_median_s"], train["wall_max_s"]) == (20.0, 30.0)
    assert train["share"] == pytest.approx(40 / 40.5, abs=1e-6)
    assert table["share"].sum() == pytest.approx(1, abs=1e-5)
    assert table.iloc[1]["cpu_s"] == 0 and table["memory_max_mb"].isna().tolist() == [False, True]


def test_processor_time_and_memory_are_what_jobs_noted(folder, tmp_path):
    """Of jobs that a warm process ran Snakemake sees one that waits."""
    noted = {"files": {}, "cpu_seconds": 25.5, "memory_max_mb": 900.25}
    for place, log in (("a", "train/seed_0/layer_1"), ("b", "train/seed_0/layer_1"), ("c", "other")):
        path = tmp_path / "provenance" / f"{place}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**noted, "log": f"results/some/logs/{log}.log"}))
    (tmp_path / "provenance" / "older.json").write_text(json.dumps({"files": {}}))
    train = cost_table(folder).iloc[0]
    assert (train["wall_s"], train["cpu_s"], train["memory_max_mb"]) == (40.0, 33.5, 900.25)


def test_sums_have_the_decimals_that_were_measured(tmp_path):
    # In binary, 1.1 + 2.2 + 208.1 is 211.39999999999998 and 0.1 + 0.2 is 0.30000000000000004.
    for i, (wall, cpu) in enumerate([(1.1, 0.1), (2.2, 0.2), (208.1, 0.0)]):
        benchmark(tmp_path / f"b/train/{i}.tsv", (wall, cpu, 300.13))
    benchmark(tmp_path / "b/other.tsv", (0.35, 0.1, 1.0))
    summarise_costs(tmp_path / "b", tmp_path / "costs.csv")
    assert (tmp_path / "costs.csv").read_text().splitlines()[1:] == [
        "train,3,211.4,2.2,208.1,0.3,300.13,0.998347",
        "other,1,0.35,0.35,0.35,0.1,1.0,0.001653",
    ]


def test_no_files_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the experiment first"):
        cost_table(tmp_path)


def test_the_figure_shows_the_dearest_rules_and_sums_the_others(tmp_path):
    for i in range(SHOWN + 3):
        benchmark(tmp_path / f"rule_{i:02d}.tsv", (100.0 - i, 1.0, 1.0))
    axis = costs(cost_table(tmp_path)).axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels[0] == "rule_00 (1)" and labels[-1] == "3 other rules (3)"
    widths = [bar.get_width() for bar in axis.patches]
    assert sum(widths[: SHOWN + 1]) == pytest.approx(sum(100.0 - i for i in range(SHOWN + 3)))
