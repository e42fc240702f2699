"""A killed run, one core and another order of jobs all end with the bytes of an uninterrupted run.

A part of the small experiment: world trainings, shards, warm starts, snapshots, statistics. `make kill` kills
all of it many times.
"""

import json
import shutil
from pathlib import Path

import h5py
import pytest
from dependable.campaign import VICTIMS, Campaign
from dependable.checkout import PART, RESULTS, copy_checkout
from dependable.compare import compared_files, differences, leftovers

KILLS = 5

pytestmark = [pytest.mark.workflow, pytest.mark.slow, pytest.mark.long]


def test_a_killed_run_ends_as_one_on_another_number_of_cores_in_another_order(small_run, tmp_path):
    checkout = copy_checkout(tmp_path)
    campaign = Campaign(checkout, ["--cores", "2", *PART], KILLS, seed=1, minutes=20)
    try:
        tally = campaign.run()
    finally:
        campaign.clean_up()
    assert tally.total() == KILLS and all(tally.kills[victim] for victim in VICTIMS)
    assert differences(small_run / RESULTS, checkout / RESULTS) == []
    assert leftovers(checkout / RESULTS) == []


def alter(path: Path) -> None:
    """Change one value or one byte of a file."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file["position"][-1] += 1
    elif path.name == "training.json" or "provenance" in path.parts:
        path.write_text(json.dumps({**json.loads(path.read_text()), "steps": -1}))
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def test_the_comparison_sees_a_changed_byte(small_run, tmp_path):
    """In any kind of file; else nothing above would mean anything."""
    original = small_run / RESULTS
    copy = shutil.copytree(original, tmp_path / "copy")
    assert differences(original, copy) == []
    files = compared_files(copy)
    written = {name: path for name, path in files.items() if path.stat().st_size}
    kinds = {
        path.name if path.name == "training.json" else path.suffix: name for name, path in written.items()
    }
    assert {".h5", ".safetensors", ".parquet", ".csv", ".json", "training.json", ".png"} <= kinds.keys()
    for name in kinds.values():
        before = files[name].read_bytes()
        alter(files[name])
        assert differences(original, copy) == [f"differs: {name}"]
        files[name].write_bytes(before)
    (copy / "extra.csv").touch()
    assert differences(original, copy) == [f"only in {copy}: extra.csv"]
    assert differences(copy, original) == [f"only in {copy}: extra.csv"]
