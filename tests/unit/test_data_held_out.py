"""Samples whose image was used before are left out of what is reported on, whatever its name was."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pandas as pd
import pytest
from damage import picture

from vlmdiff.data.held_out import HeldOutError, NamedSet, held_out_samples, hold_out
from vlmdiff.data.prepare import prepare_dataset
from vlmdiff.tables.data import HELD_OUT
from vlmdiff.tables.io import read_table

VSR = Path(__file__).parents[2] / "resources" / "vsr_random"
A, B, C, D = (picture(size=(5, n)) for n in (3, 4, 5, 6))


def write(folder: Path, *rows: tuple[str, str, bytes | None], **more) -> Path:
    """Write a data set of (sample_id, prompt, image)."""
    folder.mkdir()
    lines = []
    for number, (sample_id, prompt, image) in enumerate(rows):
        name = None if image is None else f"{folder.name}{number}.png"
        if name is not None:
            (folder / name).write_bytes(image)
        line = {"sample_id": sample_id, "prompt": prompt, "image": name, "group": "g", **more}
        lines.append(json.dumps(line) + "\n")
    (folder / "samples.jsonl").write_text("".join(lines))
    return folder / "samples.jsonl"


def run(folder: Path, report: Path, *before: Path, policy: str = "drop", counts=(99, 99, 99)) -> pd.DataFrame:
    sets = [
        NamedSet(file.parent.name, f"key.of.{file.parent.name}", file, count)
        for file, count in zip((report, *before), counts, strict=False)
    ]
    hold_out(sets[0], sets[1:], policy, folder / "held_out.csv")
    return read_table(folder / "held_out.csv", HELD_OUT)


@pytest.fixture
def sets(tmp_path):
    """Test data, and two sets that were used before: one shows A under another question, one shows C."""
    return (
        write(tmp_path / "test", ("t0", "is it red ?", A), ("t1", "is it blue ?", B), ("t2", "why ?", C),
              ("t3", "who ?", D), ("t4", "when ?", A)),
        write(tmp_path / "train", ("n0", "what ?", B + b"longer"), ("n1", "which ?", A)),
        write(tmp_path / "ranked", ("r0", "which ?", A), ("r1", "where ?", C)),
    )  # fmt: skip


def test_an_image_that_was_used_before_drops_its_samples(sets, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        table = run(tmp_path, *sets)
    assert table["sample_id"].tolist() == ["t0", "t1", "t2", "t3", "t4"]
    assert table["kept"].tolist() == [False, True, False, True, False]
    assert table["reason"].tolist() == ["shared image", "", "shared image", "", "shared image"]
    # The first set that used it is named.
    assert table["shared_with"].tolist() == ["train", "", "ranked", "", "train"]
    assert table["shared_sample"].tolist() == ["n1", "", "r1", "", "n1"]
    assert set(table["dataset"]) == {"test"}
    assert table["image"].nunique() == 4 and table["image"][0] == table["image"][4]
    assert (
        "3 of 5 samples of 'test' were used before (2 in 'train', 1 in 'ranked'): they are left out"
        in caplog.text
    )


def test_all_are_reported_on_if_so_configured_and_marked(sets, tmp_path, caplog):
    dropped = run(tmp_path, *sets)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        kept = run(tmp_path, *sets, policy="keep")
    assert kept["kept"].all()
    pd.testing.assert_frame_equal(kept.drop(columns="kept"), dropped.drop(columns="kept"))
    assert "they are still reported on" in caplog.text


def test_nothing_shared_leaves_everything_and_says_nothing(sets, tmp_path, caplog):
    other = write(tmp_path / "other", ("o", "is it red ?", B + b"x"))
    with caplog.at_level(logging.WARNING):
        table = run(tmp_path, sets[0], other)
    assert table["kept"].all() and (table["reason"] == "").all() and not caplog.text


def test_only_samples_that_the_configuration_uses_count(sets, tmp_path):
    table = run(tmp_path, *sets, counts=(4, 1, 1))
    # Of each set used before the first sample: A in `ranked`.
    assert table["sample_id"].tolist() == ["t0", "t1", "t2", "t3"]
    assert table["shared_with"].tolist() == ["ranked", "", "", ""]


@pytest.mark.parametrize("policy", ["drop", "keep"])
def test_a_whole_sample_is_refused_with_both_names_and_keys(policy, sets, tmp_path):
    used = write(tmp_path / "used", ("u0", "why ?", A), ("u1", "why ?", C), ("u2", "who ?", D))
    with pytest.raises(HeldOutError) as error:
        run(tmp_path, sets[0], sets[1], used, policy=policy)
    message = str(error.value)
    assert message.startswith(
        "key.of.test: 2 samples of data set 'test' were used before, with the same text"
    )
    assert "'t2' is 'u1' of 'used' (key.of.used), 't3' is 'u2' of 'used' (key.of.used);" in message
    assert not (tmp_path / "held_out.csv").exists()


def test_another_template_is_another_text(sets, tmp_path):
    used = write(tmp_path / "used", ("u", "who ?", D), chat=False)
    assert run(tmp_path, sets[0], used)["kept"].tolist() == [True, True, True, False, True]


def test_texts_without_images_share_nothing_but_themselves(tmp_path):
    report = write(tmp_path / "report", ("a", "one text", None), ("b", "two texts", None))
    assert run(tmp_path, report, write(tmp_path / "other", ("c", "three texts", None)))["kept"].all()
    with pytest.raises(
        HeldOutError, match=r"key\.of\.report: 1 samples .*'b' is 'd' of 'same' \(key\.of\.same\)"
    ):
        run(tmp_path, report, write(tmp_path / "same", ("d", "two texts", None)))


def test_if_every_image_was_used_nothing_is_left_to_report_on(tmp_path):
    report = write(tmp_path / "report", ("a", "what ?", A), ("b", "who ?", B))
    used = write(tmp_path / "used", ("c", "which ?", B), ("d", "whom ?", A))
    with pytest.raises(
        HeldOutError, match=r"key\.of\.report: every one of the 2 samples .* \(2 in 'used'\).*keep"
    ):
        run(tmp_path, report, used)
    assert run(tmp_path, report, used, policy="keep")["kept"].all()


def test_the_first_samples_that_are_held_out_are_taken(sets, tmp_path, caplog):
    run(tmp_path, *sets)
    caplog.clear()
    taken = [
        [one.sample_id for one in held_out_samples(tmp_path / "held_out.csv", sets[0], count)]
        for count in (1, 2)
    ]
    assert taken == [["t1"], ["t1", "t3"]] and not caplog.text
    with caplog.at_level(logging.WARNING):
        few = held_out_samples(tmp_path / "held_out.csv", sets[0], 3)
    assert [one.sample_id for one in few] == ["t1", "t3"]
    assert "2 samples are held out, fewer than the 3 asked for: all are used" in caplog.text


@pytest.fixture(scope="module")
def vsr(tmp_path_factory) -> dict[str, Path]:
    """Train and test of VSR's random split, from the real annotations, with a picture for each name."""
    root = tmp_path_factory.mktemp("vsr")
    (root / "coco").mkdir()
    names = {
        json.loads(line)["image"]
        for split in ("train", "test")
        for line in (VSR / f"{split}.jsonl").read_text().splitlines()
    }
    for number, name in enumerate(sorted(names)):
        pixels = number.to_bytes(4, "big") * 3
        (root / "coco" / name).write_bytes(b"P6 2 2 255\n" + pixels)
    files = {}
    for split, samples in (("train", 7680), ("test", 2195)):
        entry = {
            "kind": "vsr",
            "source": str(VSR),
            "split": split,
            "samples": samples,
            "images": str(root / "coco"),
        }
        files[split] = root / split / "samples.jsonl"
        prepare_dataset(split, entry, files[split], root / split / "counts.csv")
    return files


def without_ids(file: Path) -> Path:
    """Write a data set once more beside itself, without the ids of its images."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    plain = file.parent / "plain.jsonl"
    plain.write_text("".join(json.dumps(line | {"image_id": None}) + "\n" for line in lines))
    return plain


def test_vsrs_random_split_shares_images_between_its_parts(vsr, tmp_path):
    """1,226 of 2,195 test rows, 56 %, show an image of the training rows."""
    report = NamedSet("vsr_test", "ablation.report_on.target", vsr["test"], 2195)
    used = NamedSet("vsr_val", "ablation.rank_on.target", vsr["train"], 7680)
    hold_out(report, [used], "drop", tmp_path / "ids.csv")
    table = read_table(tmp_path / "ids.csv", HELD_OUT)
    assert (len(table), (~table["kept"]).sum(), table["kept"].sum()) == (2195, 1226, 969)
    assert table["image"].str.fullmatch(r"coco:[1-9]\d*").all() and table["image"].nunique() == 1874
    # A set whose lines have no ids is compared by bytes, with the same result.
    plain = NamedSet("vsr_val", used.key, without_ids(vsr["train"]), 7680)
    hold_out(report, [plain], "drop", tmp_path / "bytes.csv")
    assert (read_table(tmp_path / "bytes.csv", HELD_OUT)["kept"] == table["kept"]).all()


@pytest.mark.parametrize(
    ("trained_on", "reported_on", "kept"), [(7680, 2195, 969), (500, 350, 326)], ids=["full", "first look"]
)
def test_the_ready_configs_say_how_many_rows_remain(trained_on, reported_on, kept, vsr, tmp_path):
    report = NamedSet("vsr_test", "r", vsr["test"], reported_on)
    hold_out(report, [NamedSet("vsr_val", "u", vsr["train"], trained_on)], "drop", tmp_path / "t.csv")
    assert read_table(tmp_path / "t.csv", HELD_OUT)["kept"].sum() == kept
    config = "llava_more.yaml" if trained_on == 7680 else "overlays/first_look.yaml"
    assert f"{kept} " in (VSR.parents[1] / "config" / config).read_text()
