"""A world training goes on only from a checkpoint folder that is whole and its own."""

from pathlib import Path

import pytest
import torch

from vlmdiff.runtime import files
from vlmdiff.world.leftovers import clear_leftovers
from vlmdiff.world.resumption import CheckpointFolder, Progress


@pytest.fixture
def saved(tmp_path) -> Path:
    """A folder as a run with a checkpoint every 4 steps leaves it after step 12."""
    model = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    folder = CheckpointFolder(tmp_path / "vlm", "ours")
    for step in (4, 8, 12):
        folder.save(model, optimiser, Progress(step=step))
    return tmp_path / "vlm"


def test_a_whole_folder_stays(saved):
    before = sorted(saved.iterdir())
    clear_leftovers(saved, "ours", 4)
    assert sorted(saved.iterdir()) == before


def test_no_folder_is_no_problem(tmp_path):
    clear_leftovers(tmp_path / "vlm", "ours", 4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "latest.pt").unlink(), "there is no latest.pt"),
        (lambda folder: (folder / "latest.pt").write_bytes(b"PK half"), "cannot be read"),
        (lambda folder: (folder / "attempt_0_step_000008.safetensors").unlink(), r"steps [8] are missing"),
        (lambda folder: (folder / "attempt_0_step_000012.safetensors").unlink(), r"steps [12] are missing"),
    ],
    ids=["no state", "damaged state", "a lost step", "the last step lost"],
)
def test_a_folder_that_is_not_whole_goes(saved, damage, told, caplog):
    damage(saved)
    clear_leftovers(saved, "ours", 4)
    assert not saved.exists()
    assert told in caplog.text and "training starts anew" in caplog.text


def test_weights_of_other_settings_go(saved, caplog):
    """Else a snapshot might be taken from a step at which only the other run kept weights."""
    assert CheckpointFolder(saved, "others").nearest_step(0, 9) == 8
    clear_leftovers(saved, "others", 6)
    assert not saved.exists() and "other code or settings" in caplog.text


def test_what_a_killed_save_left_does_not_keep_the_folder(saved):
    """`remove` takes away an empty folder only."""
    (saved / ".latest.pt.abcdefgh").mkdir()
    (saved / ".latest.pt.abcdefgh" / files.LOCK).touch()
    files.sweep_once.cache_clear()
    clear_leftovers(saved, "ours", 4)
    CheckpointFolder(saved, "ours").remove()
    assert not saved.exists()
