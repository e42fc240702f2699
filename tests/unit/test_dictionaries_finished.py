"""A finished dictionary has a second name, from which it is taken while nothing has changed."""

import os

import pytest
from small_trainings import STAGE, content, train
from sparse_activations import write_sparse_shards

from vlmdiff.dictionaries.finished import NOTE, Finished
from vlmdiff.dictionaries.training import settings_digest


@pytest.fixture
def made(tmp_path):
    """What a training writes."""
    folder = tmp_path / "layer_3"
    (folder / "snapshots" / "50").mkdir(parents=True)
    (folder / "snapshots" / ".snakemake_timestamp").touch()
    (folder / "sae_weights.safetensors").write_bytes(b"weights")
    (folder / "cfg.json").write_text("{}")
    (folder / "snapshots" / "50" / "cfg.json").write_text("{ }")
    return folder


@pytest.fixture
def finished(made, tmp_path):
    one = Finished(tmp_path / "kept" / "layer_3", "digest")
    one.keep(made)
    return one


def test_it_takes_no_room_and_outlives_the_outputs(finished, made):
    kept = finished.folder / "sae_weights.safetensors"
    assert kept.samefile(made / "sae_weights.safetensors")
    expected = content(made)
    for file in made.rglob("*"):
        if file.is_file():
            file.unlink()
    assert finished.usable()
    finished.put(made)
    del expected["snapshots/.snakemake_timestamp"]
    assert content(made) == expected


def test_it_comes_back_as_new(finished, made):
    for file in finished.folder.rglob("*"):
        os.utime(file, (1, 1))
    finished.put(made)
    assert all(file.stat().st_mtime > 1e9 for file in made.rglob("*.json"))


def test_other_settings_and_other_content_are_not_taken(finished, made):
    assert not Finished(finished.folder, "another").usable()
    # Who writes into an output writes into its second name.
    (made / "cfg.json").write_text("{'changed': 1}")
    assert not finished.usable()


def test_other_versions_of_libraries_are_not_taken(finished, monkeypatch):
    monkeypatch.setattr("vlmdiff.dictionaries.finished.software", lambda: {"torch": "0"})
    assert not Finished(finished.folder, "digest").usable()


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"settings": "digest", "files": {"nothing": "0"}}'])
def test_a_damaged_note_is_not_taken(finished, damage):
    (finished.folder / NOTE).write_text(damage)
    assert not finished.usable()


def test_nothing_is_kept_where_there_are_no_links(made, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refused)
    one = Finished(tmp_path / "kept", "digest")
    one.keep(made)
    assert not one.usable()
    assert not (tmp_path / "kept").exists()


def test_a_dictionary_without_snapshots_has_an_empty_folder_of_them(tmp_path):
    made = tmp_path / "layer_0"
    made.mkdir()
    (made / "cfg.json").write_text("{}")
    one = Finished(tmp_path / "kept", "digest")
    one.keep(made)
    one.put(tmp_path / "again")
    assert list((tmp_path / "again" / "snapshots").iterdir()) == []


def test_a_training_is_not_repeated_unless_something_changed(tmp_path):
    shards = write_sparse_shards(tmp_path / "shards", scale=30.0)
    folder, work, kept = tmp_path / "made", tmp_path / "work", tmp_path / "kept"
    stage = STAGE | {"steps": 5, "snapshots": [100]}
    train(shards, folder, work, stage=stage, kept=kept)
    inode = (folder / "sae_weights.safetensors").stat().st_ino
    first = content(folder)
    train(shards, folder, work, stage=stage, kept=kept)
    assert (folder / "sae_weights.safetensors").stat().st_ino == inode
    assert content(folder) == first
    for changed in ({"seed": 4}, {"code": "newer"}, {"stage": stage | {"steps": 6}}, {"order": 9}):
        train(shards, folder, work, **({"stage": stage, "kept": kept} | changed))
        assert (folder / "sae_weights.safetensors").stat().st_ino != inode
        assert (content(folder) == first) is ("code" in changed)


def test_another_input_scale_is_another_training(tmp_path):
    shards, scale = write_sparse_shards(tmp_path / "shards", scale=30.0), tmp_path / "scale.json"
    digests = [settings_digest(shards, 0, "random", None)]
    for text in ('{"input_scale": 0.5}', '{"input_scale": 0.25}'):
        scale.write_text(text)
        digests.append(settings_digest(shards, 0, "random", scale))
    assert len(set(digests)) == 3
