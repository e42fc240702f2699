"""Damaged samples, annotations and tables of data sets: refused with file, place and remedy, or harmless."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from damage import JUNK, damaged_bytes, damaged_json, dumped, nothing_left, outcome, picture, refused, tries
from hypothesis import assume, given
from hypothesis import strategies as st

from vlmdiff.data import tabular
from vlmdiff.data.prepare import prepare_dataset
from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.runtime.disk_errors import StorageError
from vlmdiff.runtime.reading import safe_name

LINE = {
    "sample_id": "a", "image": "a.png", "prompt": "what ?", "answer": "yes", "choices": ["yes", "no"],
    "group": "left of", "chat": True,
}  # fmt: skip
KEYS = tuple(LINE)


def load(folder: Path, text: str | bytes):
    (folder / "a.png").write_bytes(picture())
    file = folder / "samples.jsonl"
    file.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    return lambda: load_samples(file)


def kept(sample: Sample) -> dict:
    """Return a sample as its line said it."""
    return {key: value for key, value in sample.model_dump().items() if key in KEYS}


def prepare(folder: Path, **entry):
    """Return the preparation of a data set, which must leave nothing behind if it fails."""

    def run():
        folder.mkdir(exist_ok=True)
        (folder / "samples.jsonl").unlink(missing_ok=True)
        prepare_dataset("d", entry, folder / "samples.jsonl", folder / "counts.csv")
        return load_samples(folder / "samples.jsonl")

    return run


@tries(150)
@given(damage=damaged_json(LINE))
def test_a_damaged_line_is_refused_or_read_as_it_is(tmp_path, damage):
    _, _, line = damage
    samples, message = outcome(load(tmp_path, dumped(line) + "\n"), tmp_path / "samples.jsonl")
    if message is None:
        assert kept(samples[0]) == {"image": None, "answer": None, "choices": None, "chat": True} | {
            key: value for key, value in line.items() if key in KEYS
        }


@tries(60)
@given(data=damaged_bytes((dumped(LINE) + "\n").encode() * 3))
def test_damaged_bytes_of_a_file_are_refused_or_whole_lines(tmp_path, data):
    outcome(load(tmp_path, data), tmp_path / "samples.jsonl")


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe{}", b"[" * 100_000, b'{"sample_id": ' + b"9" * 5000 + b"}", b"\xef\xbb\xbf{}", b"\x00\x00",
        b'{"a": 1', b"NaN", b"null", b"[]", b'"text"',
    ],
)  # fmt: skip
def test_what_is_no_line_of_json_is_refused(tmp_path, text):
    assert "samples.jsonl" in refused(load(tmp_path, text), tmp_path)


@tries(60)
@given(prompt=st.text(min_size=1, max_size=20))
def test_any_text_is_a_prompt_and_comes_back_as_it_was(tmp_path, prompt):
    """Separators of Unicode inside of a text end no line."""
    line = json.dumps({**LINE, "prompt": prompt}, ensure_ascii=False) + "\n"
    assert load(tmp_path, line * 1)()[0].prompt == prompt
    source = tmp_path / "own"
    source.mkdir(exist_ok=True)
    load(source, line)
    assert prepare(tmp_path / "d", kind="folder", path=str(source), samples=1)()[0].prompt == prompt


@pytest.mark.parametrize("name", ["\n", "a\tb", "a\u2028b", "a\x00", "a\x1b[2J", "a\x85"])
@pytest.mark.parametrize("key", ["sample_id", "group", "answer"])
def test_names_are_one_line_of_text(tmp_path, key, name):
    line = {**LINE, "choices": None, key: name}
    assert "control characters" in refused(load(tmp_path, dumped(line)), key)


def vsr(folder: Path, rows: object) -> dict:
    folder.mkdir(exist_ok=True)
    (folder / "a.jpg").write_bytes(picture("JPEG"))
    lines = rows if isinstance(rows, list) else [rows]
    (folder / "test.jsonl").write_text("".join(dumped(row) + "\n" for row in lines))
    return {"kind": "vsr", "source": str(folder), "split": "test", "samples": 1, "images": str(folder)}


VSR = {"image": "a.jpg", "image_link": "http://x/a.jpg", "caption": "The cat is on the mat.", "label": 1,
       "relation": "on"}  # fmt: skip


@tries(80)
@given(damage=damaged_json(VSR))
def test_damaged_vsr_annotations_are_refused_or_read_as_they_are(tmp_path, damage):
    path, new, row = damage
    entry = vsr(tmp_path / "source", row)
    samples, message = outcome(prepare(tmp_path / "d", **entry), tmp_path / "source", "datasets.d")
    if message is None:
        assert samples[0].answer == ("Yes" if int(row["label"]) == 1 else "No")
        assert (samples[0].caption, samples[0].relation) == (row["caption"].strip(), row["relation"])
    elif path == ("image_link",):
        pytest.fail("the link is not needed where images are local")


WHATS_UP = [
    {"image_path": "data/a.jpg", "caption_options": ["A mug on a table", "A mug under a table"]},
    {"image_path": "data/a.jpg", "caption_options": ["A cap under a bed", "A cap on a bed"]},
]


@tries(80)
@given(damage=damaged_json(WHATS_UP))
def test_damaged_whats_up_annotations_are_refused_or_read_as_they_are(tmp_path, damage):
    _, _, rows = damage
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    (source / "a.jpg").write_bytes(picture("JPEG"))
    (source / "x_dataset.json").write_text(dumped(rows))
    entry = {"kind": "whatsup", "source": str(source), "split": "x", "samples": 2}
    samples, message = outcome(prepare(tmp_path / "d", **entry), source, "datasets.d")
    if message is None:
        told = [caption for row in rows for caption in row["caption_options"]]
        assert {sample.caption for sample in samples} <= set(told)


QUESTIONS = {"questions": [{"question_id": 7, "image_id": 5, "question": "Where is the cat?"}]}
ANSWERS = {
    "annotations": [
        {"question_id": 7, "image_id": 5, "multiple_choice_answer": "yes", "question_type": "where",
         "answer_type": "other"}
    ]
}  # fmt: skip


@pytest.mark.parametrize("part", ["questions", "annotations"])
@tries(60)
@given(data=st.data())
def test_damaged_vqa_files_are_refused_or_read_as_they_are(tmp_path, part, data):
    files = {"questions": QUESTIONS, "annotations": ANSWERS}
    _, _, files[part] = data.draw(damaged_json(files[part]))
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    (source / "000000000005.jpg").write_bytes(picture("JPEG"))
    (source / "v2_train2014_questions.json").write_text(dumped(files["questions"]))
    (source / "v2_train2014_annotations.json").write_text(dumped(files["annotations"]))
    entry = {"kind": "vqav2", "source": str(source), "split": "train", "samples": 1, "images": str(source)}
    samples, message = outcome(prepare(tmp_path / "d", **entry), source, "datasets.d")
    if message is None:
        assert samples[0].prompt == files["questions"]["questions"][0]["question"].strip()
        assert samples[0].image == "images/000000000005.jpg"


GQA = {
    "01": {
        "question": "Is the cup to the left of the plate?", "imageId": "5", "answer": "yes",
        "types": {"structural": "verify", "semantic": "rel", "detailed": "relVerify"},
        "semantic": [{"operation": "verify rel", "dependencies": [0], "argument": "cup,left of,s (7)"}],
    }
}  # fmt: skip


@tries(80)
@given(damage=damaged_json(GQA))
def test_damaged_gqa_questions_are_refused_or_read_as_they_are(tmp_path, damage):
    _, _, rows = damage
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    (source / "5.jpg").write_bytes(picture("JPEG"))
    (source / "test_questions.json").write_text(dumped(rows))
    entry = {"kind": "gqa", "source": str(source), "split": "test", "samples": 1, "images": str(source)}
    samples, message = outcome(prepare(tmp_path / "d", **entry), source, "datasets.d")
    if message is None:
        (row,) = rows.values()
        assert samples[0].question == row["question"].strip()
        assert samples[0].answer == {"yes": "Yes", "no": "No"}.get(
            row["answer"].strip(), row["answer"].strip()
        )


@pytest.mark.parametrize("kind", ["vsr", "whatsup", "vqav2", "gqa", "folder"])
@tries(40)
@given(data=st.data())
def test_damaged_bytes_of_annotations_are_refused(tmp_path, kind, data):
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    for name in ("a.jpg", "a.png", "000000000005.jpg", "5.jpg"):
        (source / name).write_bytes(picture("JPEG"))
    names = {
        "vsr": ("test.jsonl", VSR), "whatsup": ("test_dataset.json", WHATS_UP),
        "vqav2": ("v2_test_questions.json", QUESTIONS), "folder": ("samples.jsonl", LINE),
        "gqa": ("test_questions.json", GQA),
    }  # fmt: skip
    (source / "v2_test_annotations.json").write_text(dumped(ANSWERS))
    name, whole = names[kind]
    (source / name).write_bytes(data.draw(damaged_bytes(dumped(whole).encode())))
    entry = {"kind": kind, "samples": 1}
    if kind == "folder":
        entry |= {"path": str(source), "on_missing": "skip"}
    else:
        entry |= {"source": str(source), "split": "test"}
    if kind in ("vsr", "vqav2", "gqa"):
        entry["images"] = str(source)
    outcome(prepare(tmp_path / "d", **entry), source, "datasets.d")


@tries(40)
@given(line=JUNK)
def test_a_folder_of_junk_is_refused(tmp_path, line):
    assume(line != LINE)
    source = tmp_path / "own"
    source.mkdir(exist_ok=True)
    (source / "samples.jsonl").write_text(dumped(line) + "\n")
    refused(prepare(tmp_path / "d", kind="folder", path=str(source), samples=1), source, "datasets.d")


TEXTS = "".join(f"document number {i} with more than eight words in it\n" for i in range(20))


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
@tries(15)
@given(data=st.data())
def test_damaged_text_tables_are_refused_or_texts(tmp_path, suffix, data):
    lines = [{"text": text} for text in TEXTS.splitlines()]
    whole = {
        "jsonl": "".join(json.dumps(line) + "\n" for line in lines).encode(),
        "json": json.dumps(lines).encode(),
        "csv": pd.DataFrame(lines).to_csv(index=False).encode(),
    }[suffix]
    file = tmp_path / f"train.{suffix}"
    file.write_bytes(data.draw(damaged_bytes(whole)))
    entry = {"kind": "text", "source": str(file), "samples": 2}
    samples, message = outcome(prepare(tmp_path / "d", **entry), file, "datasets.d")
    assert message is not None or all(sample.image is None for sample in samples)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "numbers", "other column"])
def test_a_damaged_parquet_source_is_refused(tmp_path, damage):
    file = tmp_path / "train.parquet"
    frame = pd.DataFrame({"text": TEXTS.splitlines()})
    frame = frame.assign(text=range(20)) if damage == "numbers" else frame
    frame.rename(columns={"text": "body"} if damage == "other column" else {}).to_parquet(file)
    if damage in ("truncated", "garbage"):
        content = file.read_bytes()
        file.write_bytes(content[:-20] if damage == "truncated" else b"PAR1" + bytes(200) + b"PAR1")
    with nothing_left(tmp_path):
        refused(lambda: prepare_dataset("d", {"kind": "text", "source": str(file), "samples": 2},
                                        tmp_path / "d.jsonl", tmp_path / "c.csv"), file)  # fmt: skip


def test_a_file_of_the_librarys_own_is_not_blamed_on_the_source(tmp_path, monkeypatch):
    source = tmp_path / "train.jsonl"
    source.write_text("{}\n")

    def without_room(*_, **__):
        raise OSError(30, "Read-only file system", "/hf/datasets/json")

    monkeypatch.setattr(tabular, "loader", lambda: without_room)
    with pytest.raises(
        StorageError, match="^/hf/datasets/json: cannot be used .Read-only.* set HF_HOME"
    ) as error:
        tabular.open_table(str(source), "train", 0)
    assert "damaged" not in str(error.value)


@tries(60)
@given(text=st.text(max_size=300))
def test_a_safe_name_is_one_harmless_part_of_a_path(text):
    name = safe_name(text)
    assert name and "/" not in name and not name.startswith(".") and name.isascii() and len(name) < 120
    assert safe_name(name) == name


@tries(40)
@given(one=st.text(max_size=20), other=st.text(max_size=20))
def test_different_texts_have_different_safe_names(one, other):
    assume(one != other)
    assert safe_name(one) != safe_name(other)
