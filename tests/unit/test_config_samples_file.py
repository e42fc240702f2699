"""Samples files as people write them: read into the same records, or refused with file, line and key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlmdiff.config.samples_file import count_samples, data_folder, find_samples, is_canonical, read_records
from vlmdiff.runtime.reading import DataError

LINE = {"sample_id": "a", "image": "pics/1.png", "prompt": "Is it red?", "answer": "Yes",
        "choices": ["Yes", "No"], "group": "colour"}  # fmt: skip
WHOLE = {"chat": True, **LINE}


def write(folder: Path, *rows: object, name: str = "samples.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def table(folder: Path, text: str, name: str = "samples.csv") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def refused(path: Path) -> str:
    with pytest.raises(DataError) as error:
        read_records(path)
    return str(error.value)


def test_a_folder_in_canonical_form_is_read_as_it_is(tmp_path):
    write(tmp_path, LINE, {"sample_id": "b", "prompt": "A text.", "group": "text", "chat": False, "more": 7})
    assert read_records(tmp_path) == [
        WHOLE,
        {"sample_id": "b", "image": None, "prompt": "A text.", "answer": None, "choices": None,
         "group": "text", "chat": False, "more": 7},
    ]  # fmt: skip
    assert is_canonical(tmp_path) and is_canonical(tmp_path / "samples.jsonl")
    assert count_samples(tmp_path) == 2


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"sample_id": 12}, {"sample_id": "12"}),
        ({"sample_id": None}, {"sample_id": "row_2"}),
        ({"group": 3}, {"group": "3"}),
        ({"answer": 2, "choices": [2, 3.5]}, {"answer": "2", "choices": ["2", "3.5"]}),
        ({"images": ["x/7.png"], "image": ...}, {"image": "x/7.png"}),
        ({"image": ["x/7.png"]}, {"image": "x/7.png"}),
        ({"image": []}, {"image": None}),
        ({"images": "7.png", "image": ...}, {"image": "7.png"}),
    ],
)  # fmt: skip
def test_what_people_write_otherwise_is_rewritten(tmp_path, change, expected):
    row = {key: value for key, value in ({**LINE, **change}).items() if value is not ...}
    write(tmp_path, {**LINE, "sample_id": "first"}, row)
    assert read_records(tmp_path)[1] == {**WHOLE, **expected}
    assert not is_canonical(tmp_path)


def test_ids_that_are_not_there_are_numbered_by_place(tmp_path):
    write(tmp_path, {"prompt": "a", "group": "g"}, {"sample_id": 9, "prompt": "b", "group": "g"},
          {"prompt": "c", "group": "g"})  # fmt: skip
    assert [one["sample_id"] for one in read_records(tmp_path)] == ["row_1", "9", "row_3"]


def test_whole_paths_within_the_folder_are_taken_links_followed(tmp_path):
    folder, link = tmp_path / "photos", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    write(folder, {**LINE, "image": str(folder / "1.png")},
          {**LINE, "sample_id": "b", "image": str(link / "in" / "2.png")})  # fmt: skip
    assert [one["image"] for one in read_records(link)] == ["1.png", "in/2.png"]
    write(folder, LINE, {**LINE, "sample_id": "b", "image": "/elsewhere/2.png"})
    message = refused(folder)
    assert "samples.jsonl" in message and "line 2: image: found '/elsewhere/2.png'" in message
    assert f"within the file's folder, {folder}" in message


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_has_the_same_keys_as_columns(tmp_path, separator):
    rows = [
        ["sample_id", "image", "prompt", "answer", "choices", "group", "chat", "note", ""],
        ["1", "photos/é 1.jpg", '"Is it ""red""?\nReally"', "Yes", "Yes| No", "colour", "", "n", "0"],
        ["", "", "A text.", "", "", "text", "FALSE", "", "1"],
    ]
    file = table(tmp_path, "\ufeff" + "\n".join(separator.join(row) for row in rows) + "\n\n")
    assert read_records(tmp_path) == read_records(file) == [
        {"sample_id": "1", "image": "photos/é 1.jpg", "prompt": 'Is it "red"?\nReally', "answer": "Yes",
         "choices": ["Yes", "No"], "group": "colour", "chat": True, "note": "n"},
        {"sample_id": "row_2", "image": None, "prompt": "A text.", "answer": None, "choices": None,
         "group": "text", "chat": False},
    ]  # fmt: skip
    assert not is_canonical(tmp_path)
    assert data_folder(tmp_path) == data_folder(file) == tmp_path


HEADER = "sample_id,image,prompt,group\n"


@pytest.mark.parametrize(
    "text, expected",
    [
        (HEADER + "a,1.png,what ?,g\nb,2.png,yes, no,g\n", "line 3: found 5 cells, the header has 4"),
        (HEADER + "a,1.png,what ?\n", "line 2: found 3 cells, the header has 4"),
        ("prompt,group,group\na,b,c\n", "the header names ['group'] twice"),
        (
            "image,question,kind\n1.png,what ?,g\n",
            "the first line names no column prompt and group, found image, question, kind",
        ),
        (HEADER, "found no samples"),
        ("", "found no samples"),
        (HEADER + 'a,1.png,"what ?,g\n', "not CSV"),
        (HEADER + "a,1.png,what ?,g\na,2.png,who ?,g\n", "line 3: sample_id: 'a' was used in line 2"),
        (HEADER + "a,../1.png,what ?,g\n", "line 2: image: expected a path within"),
        ("image,image_id,prompt,group\n1.png,139,a,g\n", "line 2: image_id: found '139', expected SOURCE"),
        ("prompt,group,answer,choices\na,g,Yes,yes|no\n", "line 2: answer: found 'Yes', expected one of"),
        ("prompt,group,choices\na,g,yes\n", "at least two different answers, found ['yes']"),
        ("prompt,group,chat\na,g,maybe\n", "line 2: chat: found 'maybe', expected true or false"),
    ],
)  # fmt: skip
def test_a_wrong_csv_is_refused_with_line_and_key(tmp_path, text, expected):
    message = refused(table(tmp_path, text))
    assert expected in message and str(tmp_path / "samples.csv") in message


@pytest.mark.parametrize(
    "row, expected",
    [
        ({**LINE, "sample_id": True}, "sample_id: Input should be a valid string"),
        ({**LINE, "image": 5}, "image: Input should be a valid string"),
        ({**LINE, "answer": True}, "answer: Input should be a valid string (found: True)"),
        (
            {"images": ["1.png", "2.png"], "prompt": "a", "group": "g"},
            "images: found 2 pictures, expected one; several in one sample are not read",
        ),
        (
            {"image": ["1.png", "2.png", "3.png"], "prompt": "a", "group": "g"},
            "image: found 3 pictures, expected one; several in one sample are not read",
        ),
        ({"caption": "a", "group": "g"}, "keys missing: ['prompt'], found ['caption', 'group']"),
        ([LINE], "expected a JSON object, found list; write one object a line"),
    ],
)
def test_a_wrong_line_is_refused_with_its_number_and_key(tmp_path, row, expected):
    write(tmp_path, LINE, row)
    assert f"line 2: {expected}" in refused(tmp_path)


def test_only_the_first_wrong_lines_are_told(tmp_path):
    write(tmp_path, *[{"prompt": str(i)} for i in range(9)])
    message = refused(tmp_path)
    assert message.count("keys missing: ['group']") == 5 and message.endswith("… and 4 more lines")


def test_a_file_that_changed_is_read_anew(tmp_path):
    write(tmp_path, LINE)
    assert count_samples(tmp_path) == 1
    write(tmp_path, LINE, {**LINE, "sample_id": "b"})
    assert count_samples(tmp_path) == 2


def test_which_file_is_meant(tmp_path):
    assert find_samples(tmp_path) == tmp_path / "samples.jsonl"
    assert is_canonical(tmp_path), "a rule may make it"
    csv = table(tmp_path, HEADER + "a,1.png,what ?,g\n")
    assert find_samples(tmp_path) == csv
    write(tmp_path, LINE)
    assert "found samples.jsonl and samples.csv, expected one" in refused(tmp_path)
    assert read_records(csv)[0]["prompt"] == "what ?"
    other = write(tmp_path, LINE, name="mine.jsonl")
    assert read_records(other) == [WHOLE] and not is_canonical(other)
    (tmp_path / "notes.txt").write_text("a")
    assert "found a file, expected a folder or a file named .jsonl or .csv" in refused(tmp_path / "notes.txt")
    assert "but there is no folder " in refused(tmp_path / "absent")


def test_columns_in_capitals_blanks_around_groups_and_plain_ids_are_taken(tmp_path):
    (tmp_path / "samples.csv").write_text("ID,Prompt,Group,Choices,Answer\n7,what ?, left of ,yes|no, no \n")
    (record,) = read_records(tmp_path)
    assert (record["sample_id"], record["group"], record["answer"]) == ("7", "left of", "no")
