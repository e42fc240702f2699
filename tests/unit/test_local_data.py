"""What samples at hand tell against a configuration is told before anything runs, and nothing else is."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from local_experiment import SAMPLES, TEMPLATE, experiment, put, question, write_samples
from PIL import Image

from vlmdiff.config import samples_file
from vlmdiff.config.layers import read_layers
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.world import CLOSED, GROUPS, WorldDataset, groups_of
from vlmdiff.data.local_data import data_problems
from vlmdiff.runtime.reading import read_text
from vlmdiff.world.datasets import make_samples
from vlmdiff.world.scenes import scene_splits

ROOT = Path(__file__).parents[2]
VSR = str(ROOT / "resources" / "vsr_random")


@pytest.fixture
def values(tmp_path) -> dict:
    return experiment(tmp_path)


def problems(values: dict) -> list[str]:
    """Return what is said of samples, while the configuration is loaded or after it."""
    try:
        return data_problems(load_config(values))
    except ConfigError as error:
        return str(error).removeprefix("The configuration is not valid:\n  ").split("\n  datasets.")


def test_what_fits_is_not_refused(values):
    assert problems(values) == []


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda file: file.stem)
def test_ready_configurations_fit_what_is_shipped(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert data_problems(load_config(read_layers({}, [file]).values)) == []


# Changes of the configuration, and the line that tells what is wrong; {root} is the folder of the data.
GROUP_CASES = {
    "a near miss": (
        {"concepts.space.target.groups": ["left off", "above"]},
        "concepts.space.target.groups: found 'left off', but data set 'rank' ({root}/rank/samples.jsonl) "
        "has the groups 'above', 'colour', 'left of'; did you mean 'left of'?",
    ),
    "nothing near": (
        {"concepts.space.baseline.without": ["shape", "left of", "above"]},
        "concepts.space.baseline.without: found 'shape', but data set 'rank' ({root}/rank/samples.jsonl) "
        "has the groups 'above', 'colour', 'left of'; name one of them",
    ),
    "none is left": (
        {"concepts.space.baseline.without": ["left of", "above", "colour"]},
        "concepts.space.baseline.without: leaves no group of data set 'rank' ({root}/rank/samples.jsonl)",
    ),
    "both sides": (
        {"concepts.space.baseline.without": ["left of"]},
        "concepts.space: target and baseline share groups 'above' of data set 'rank', expected none",
    ),
    "all on both sides": (
        {"concepts.space.target.groups": ..., "concepts.space.baseline.without": ...},
        "concepts.space: target and baseline share groups 'above', 'colour', 'left of' of data set 'rank'",
    ),
    "among samples that are not used": (
        {"datasets.rank.samples": 1},
        "concepts.space.target.groups: found 'above', but data set 'rank' ({root}/rank/samples.jsonl) "
        "has the groups 'left of'; name one of them",
    ),
}


@pytest.mark.parametrize("name", GROUP_CASES)
def test_groups_are_those_of_the_samples(values, tmp_path, name):
    changes, said = GROUP_CASES[name]
    for path, value in changes.items():
        put(values, path, value)
    assert any(line.startswith(said.format(root=tmp_path)) for line in problems(values)), problems(values)


def test_groups_of_several_data_sets_may_have_one_name(values):
    put(values, "concepts.space.baseline", {"dataset": "general"})
    assert problems(values) == []


COUNTS = [
    ("datasets.train.samples", SAMPLES + 1, "datasets.train: samples: found 19, but {root}/train/samples"),
    ("datasets.train.samples", SAMPLES - 5, None),
    # At most: fewer are taken where there are fewer.
    ("ablation.rank_on.samples", 600, None),
    ("heads.samples", 600, None),
    ("heads.image_samples", 600, None),
    ("heads.head_means.samples", 600, None),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "said"), COUNTS)
def test_no_more_samples_are_asked_for_than_there_are(values, tmp_path, path, value, said):
    put(values, path, value)
    told = problems(values)
    assert told == [] if said is None else len(told) == 1 and told[0].startswith(said.format(root=tmp_path))


def without(*keys: str):
    return lambda sample: {key: value for key, value in sample.items() if key not in keys}


USES = [
    "ablation.rank_on.target", "ablation.rank_on.control", "ablation.report_on.target",
    "ablation.report_on.control", "heads.report_on.target", "heads.report_on.control",
]  # fmt: skip


@pytest.mark.parametrize("key", USES)
@pytest.mark.parametrize("absent", ["choices", "answer"])
def test_what_is_scored_has_choices_and_an_answer(values, tmp_path, key, absent):
    samples = [question(index) for index in range(SAMPLES)]
    samples[4] = without(absent)(samples[4])
    samples[9] = without(absent)(samples[9])
    write_samples(tmp_path / "open", samples)
    put(values, "datasets.open", {"path": str(tmp_path / "open"), "samples": SAMPLES})
    put(values, key, "open")
    (told,) = problems(values)
    assert told.startswith(
        f"{key}: found data set 'open' ({tmp_path}/open/samples.jsonl), of which 2 of 18 samples, first "
        "'q4', lack `choices` or the `answer`"
    )
    # What is not asked need not be scored.
    put(values, f"{key.rpartition('.')[0]}.samples", 4)
    assert problems(values) == []


VQA = {"kind": "vqav2", "source": "hub:a/VQAv2@main", "samples": SAMPLES}


@pytest.mark.parametrize("key", USES)
@pytest.mark.parametrize("part", [False, True])
def test_open_questions_of_vqa_are_not_scored(values, key, part):
    """Their kind tells it, so that nothing has to be at hand."""
    put(values, "datasets.open", dict(VQA))
    put(values, "datasets.some", {"kind": "subset", "of": "open", "samples": SAMPLES})
    name = "some" if part else "open"
    put(values, key, name)
    (told,) = problems(values)
    assert told == (
        f"{key}: found data set '{name}', whose questions have no choices (datasets.open.answers is any), "
        "and here the answer is scored against the other choices; set datasets.open.answers to yes_no, or "
        "name a data set of questions with choices"
    )
    put(values, "datasets.open.answers", "yes_no")
    assert problems(values) == []


def test_open_questions_of_gqa_are_not_scored(values, tmp_path):
    (tmp_path / "train_balanced_questions.json").write_text("{}")
    entry = {"kind": "gqa", "source": str(tmp_path), "images": str(tmp_path), "samples": SAMPLES}
    put(values, "datasets.open", entry)
    put(values, USES[0], "open")
    (told,) = problems(values)
    assert told.startswith(f"{USES[0]}: found data set 'open', whose questions have no choices")
    assert "set datasets.open.answers to choices, or name" in told
    put(values, "datasets.open.answers", "choices")
    assert problems(values) == []


def test_a_corpus_is_not_scored(values):
    put(values, "datasets.corpus", {"kind": "text", "source": "hub:a/corpus@main", "samples": SAMPLES})
    put(values, "ablation.rank_on.control", "corpus")
    (told,) = problems(values)
    assert told.startswith(
        "ablation.rank_on.control: found data set 'corpus', a text corpus, which asks nothing"
    )


def test_steering_scores_too(values, tmp_path):
    sets = {"target": "rank", "control": "general"}
    put(
        values,
        "steering",
        {"concepts": ["space"], "model": "vlm", "rank_on": sets, "report_on": values["heads"]["report_on"]},
    )
    assert problems(values) == []
    write_samples(tmp_path / "open", [without("choices")(question(index)) for index in range(SAMPLES)])
    put(values, "datasets.open", {"path": str(tmp_path / "open"), "samples": SAMPLES})
    put(values, "steering.rank_on.control", "open")
    assert problems(values)[0].startswith("steering.rank_on.control: found data set 'open'")


IMAGES = [
    ("heads.dataset", "text", "heads.dataset: found data set 'text' ({root}/text/samples.jsonl), whose"),
    ("diff.visual_datasets", ["text"], "diff.visual_datasets: found data set 'text'"),
    ("diff.text_datasets", ["general"], "diff.text_datasets: found data set 'general' ({root}/general/"),
    ("dictionaries.adapted.dataset", "text", "dictionaries.adapted.dataset: found data set 'text'"),
    ("dictionaries.base.tokens", ["image"], "dictionaries.base.tokens: found [image], but model 'lm'"),
    (
        "comparisons", {"other": {"target": "controls", "about": "x", "visual_datasets": ["text"]}},
        "comparisons.other.visual_datasets: found data set 'text'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "said"), IMAGES)
def test_images_are_where_they_are_needed_and_nowhere_else(values, tmp_path, path, value, said):
    if path == "dictionaries.adapted.dataset":
        put(values, "dictionaries.adapted.tokens", ["image"])
        assert problems(values) == []
    put(values, path, value)
    (told,) = problems(values)
    assert told.startswith(said.format(root=tmp_path))


def line(**changes) -> str:
    return json.dumps(question(0) | changes)


FILES = {
    "empty": (b"", "found no samples"),
    "no JSON": (f"{line()}\n{{'a': 1}}\n".encode(), "line 2: not JSON"),
    "a list": (f"[{line()}]\n".encode(), "line 1: expected a JSON object, found list"),
    "a double": (f"{line()}\n{line(prompt='other ?')}\n".encode(), "line 2: sample_id: 'q0' was used in"),
    "a number": (f"{line(prompt=3)}\n".encode(), "line 1: prompt: Input should be a valid string (found: 3)"),
    "no group": (f"{json.dumps(without('group')(question(0)))}\n".encode(), "line 1: "),
    "one choice": (f"{line(choices=['yes'])}\n".encode(), "line 1: choices: expected at least two different"),
    "another answer": (f"{line(answer='maybe')}\n".encode(), "line 1: answer: found 'maybe', expected one"),
    "no text": (b"\xff\xfe" + line().encode("utf-16-le"), "cannot be read as UTF-8"),
    "a number for a picture": (
        f"{line(image_id=139)}\n".encode(), "line 1: image_id: found 139, expected SOURCE:ID",
    ),
    "a way out": (f"{line(image='../lm/config.json')}\n".encode(), "line 1: image: expected a path within"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_line_is_named(values, tmp_path, name):
    content, said = FILES[name]
    (tmp_path / "train" / "samples.jsonl").write_bytes(content)
    (told,) = problems(values)
    assert told.startswith(f"datasets.train: {tmp_path}/train/samples.jsonl") and said in told


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_marks_and_ends_of_lines_do_not_matter(values, tmp_path, mark, end):
    lines = [json.dumps(question(index)).encode() for index in range(SAMPLES)]
    (tmp_path / "train" / "samples.jsonl").write_bytes(mark + end.join(lines) + end)
    assert problems(values) == []


def test_images_that_are_not_there_are_named(values, tmp_path):
    folder = tmp_path / "train"
    (folder / "images" / "3.png").unlink()
    (folder / "images" / "5.png").unlink()
    (folder / "images" / "5.png").mkdir()
    (told,) = problems(values)
    # Of 18 samples the 4th, 11th and 18th show 3.png, the 6th and 13th 5.png.
    assert told.startswith(
        f"datasets.train: 2 images are not in {folder}, of 5 of 18 samples: 'images/3.png' of sample 'q3' "
        "and 2 more, 'images/5.png' of sample 'q5' and 1 more; bring them"
    )
    assert "write `datasets: { train: { on_missing: skip } }` to go on without them" in told
    put(values, "datasets.train.on_missing", "skip")
    assert problems(values) == []
    for file in (folder / "images").iterdir():
        file.rmdir() if file.is_dir() else file.unlink()
    (told,) = problems(values)
    assert told.startswith("datasets.train: 7 images are not in") and "on_missing" not in told


COUNTED = "of sample 'q2', the first of 3 of 18, expected a picture, such as .jpg or .png; save"
OTHER_KINDS = {
    "clip.mp4": f"(a video) {COUNTED} one frame of it",
    "clip.MOV": f"(a video) {COUNTED} one frame of it",
    "page.pdf": f"(a document) {COUNTED} the page as a picture",
    "photo.heic": f"(of a kind that is not read) {COUNTED} it as .jpg or .png",
}


@pytest.mark.parametrize("image", OTHER_KINDS)
def test_images_that_are_called_something_else_are_refused(values, tmp_path, image):
    samples = [question(index) for index in range(SAMPLES)]
    for sample in samples[2::7]:
        sample["image"] = f"images/{image}"
    write_samples(tmp_path / "train", samples)
    (told,) = problems(values)
    assert told.startswith(f"datasets.train: image: found 'images/{image}' {OTHER_KINDS[image]}")
    assert told.endswith("or write `datasets: { train: { on_missing: skip } }` to go on without them")
    put(values, "datasets.train.on_missing", "skip")
    assert problems(values) == []
    for sample in samples:
        sample["image"] = f"images/{image}"
    write_samples(tmp_path / "train", samples)
    (told,) = problems(values)
    assert "the first of 18 of 18" in told and "on_missing" not in told


def test_a_picture_may_be_called_anything(values, tmp_path):
    samples = [question(index) for index in range(SAMPLES)]
    samples[2]["image"] = "images/photo.heic"
    write_samples(tmp_path / "train", samples)
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "images" / "photo.heic", format="JPEG")
    assert problems(values) == []


def test_images_may_be_links_within_the_folder_alone(values, tmp_path):
    images = tmp_path / "train" / "images"
    (images / "0.png").rename(images / "zero.png")
    (images / "0.png").symlink_to("zero.png")
    images.rename(tmp_path / "elsewhere")
    images.symlink_to(tmp_path / "elsewhere")
    assert problems(values) == []
    (images / "0.png").unlink()
    (images / "0.png").symlink_to(tmp_path / "rank" / "images" / "0.png")
    (told,) = problems(values)
    assert "is a link out of its folder" in told
    (images / "0.png").unlink()
    (images / "0.png").symlink_to("gone.png")
    (told,) = problems(values)
    assert "1 image is not in" in told


CHATS = [
    ("vlm", "train", {}, "models.vlm.chat: found no chat template in {root}/vlm, but the"),
    ("vlm", "train", {"chat": False}, None),
    ("lm", "text", {}, None),
]  # fmt: skip


@pytest.mark.parametrize(("model", "dataset", "entry", "said"), CHATS)
def test_a_model_that_is_shown_chats_has_a_template(values, tmp_path, model, dataset, entry, said):
    (tmp_path / model / "tokenizer_config.json").write_text("{}")
    values["models"][model] |= entry
    told = problems(values)
    assert told == [] if said is None else len(told) == 1 and told[0].startswith(said.format(root=tmp_path))
    (tmp_path / model / "chat_template.jinja").write_text(TEMPLATE)
    assert problems(values) == []


def vsr(values: dict, **entry) -> list[str]:
    put(values, "datasets.vsr", {"kind": "vsr", "source": VSR, "split": "dev", "samples": 340, **entry})
    put(values, "concepts.space.target", {"dataset": "vsr", "groups": ["under", "on"]})
    put(values, "concepts.space.baseline", {"dataset": "general"})
    return problems(values)


def annotated() -> list[dict]:
    return [json.loads(line) for line in (Path(VSR) / "dev.jsonl").read_text().splitlines()]


def test_shipped_annotations_are_known(values):
    total = len(annotated())
    assert vsr(values) == [] == vsr(values, samples=total)
    (told,) = vsr(values, samples=total + 1)
    assert told.startswith(
        f"datasets.vsr: samples: found {total + 1}, but split 'dev' of {VSR} has {total}; lower"
    )
    (told,) = vsr(values, samples=total, offset=7)
    assert f"of {VSR} after offset 7 has {total - 7}; lower" in told
    (told,) = vsr(values, split="validation")
    assert f"{VSR}/validation.jsonl: no such file, found ['dev.jsonl', 'test.jsonl', 'train.jsonl']" in told
    (told,) = vsr(values, group_by="answer")[:1]
    assert "concepts.space.target.groups: found 'under'" in told and "has the groups 'No', 'Yes'" in told


def test_a_whats_up_folder_is_known(values, tmp_path):
    rows = [
        {
            "image_path": f"data/{index}.jpg",
            "caption_options": [f"A cup {index} on a table", f"A cup {index} under it"],
        }
        for index in range(5)
    ]
    (tmp_path / "controlled_images_dataset.json").write_text(json.dumps(rows))
    entry = {"kind": "whatsup", "source": str(tmp_path), "split": "controlled_images", "samples": 10}
    put(values, "datasets.train", entry)
    assert problems(values) == []
    put(values, "datasets.train.samples", 11)
    (told,) = problems(values)
    assert f"found 11, but split 'controlled_images' of {tmp_path} has 10" in told


TABLES = [
    ({"kind": "text", "split": "train"}, {"train.csv": b"text"}, None),
    ({"kind": "text", "split": "train"}, {"data/train-0.parquet": b""}, None),
    ({"kind": "text", "split": "train"}, {"test.txt": b""}, "split: found 'train', but {place} has test"),
    (
        {"kind": "text", "split": "train"}, {"train.txt": b"a", "train.csv": b"a"},
        "split: found 'train', but {place} has train.csv, train.txt",
    ),
    (
        {"kind": "vqav2", "split": "val"}, {"v2_val2014_questions.json": b"{}"},
        "images: found None, expected the folder of COCO images",
    ),
    (
        {"kind": "vqav2", "split": "val", "images": "{place}"}, {"v2_train2014_questions.json": b"{}"},
        "{place}: found [], expected one *_val*_questions.json; set `split`",
    ),
    (
        {"kind": "vqav2", "split": "val", "images": "{place}"}, {"v2_val2014_questions.json": b"{}"},
        "{place}: found [], expected one *_val*_annotations.json",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "files", "said"), TABLES)
def test_a_split_has_files(values, tmp_path, entry, files, said):
    place = tmp_path / "source"
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    entry = {key: value.format(place=place) for key, value in entry.items()}
    put(values, "datasets.train", {**entry, "source": str(place), "samples": 3})
    told = problems(values)
    assert told == [] if said is None else told[0].startswith(f"datasets.train: {said.format(place=place)}")


def document(words: str) -> str:
    return f"{words} is what this document of many words is all about"


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": document(one)}) + "\n" for one in texts).encode()


def array(*texts: str) -> bytes:
    return json.dumps([{"text": document(one)} for one in texts]).encode()


# A corpus: (its files, what of it is used, what is said).
CORPORA = {
    "lines that are alike": (
        {"train.txt": document("one").encode() + b"\n" + document("one").encode() + b"\nshort\n"}, (),
        "found 2 documents of at least 8 words in {place}, 1 of them different, expected at least 2",
    ),
    "objects that are alike": (
        {"train-0.jsonl": lines("one", "one"), "data/train-1.jsonl": lines("one")}, ("train",),
        "found 3 documents of at least 8 words in {place}, 1 of them different, expected some for each",
    ),
    "two that differ": ({"train.txt": lines("one", "two")}, (), None),
    # The larger part (0.5) gets one, validation, the first where something is measured, the other.
    "two for two parts": ({"train.jsonl": lines("one", "two")}, ("train", "validation"), None),
    "two for four parts": (
        {"train.jsonl": lines("one", "two")}, ("train", "null", "validation", "test"),
        "found 2 documents of at least 8 words in {place}, 2 of them different, expected some for "
        "each of train, null, validation, test",
    ),
    "ten for the smallest part": (
        {"train.jsonl": lines(*map(str, range(10)))}, ("train", "null", "validation", "test"), None,
    ),
    "no documents": (
        {"train.txt": b"a\nb\n"}, (), "found 0 documents of at least 8 words in {place}, 0 of them different",
    ),
    "another column": (
        {"train.jsonl": b'{"words": "a"}\n'}, (),
        "{place}/train.jsonl: line 1: no column 'text', found ['words']; set `column`",
    ),
    "a column of numbers": (
        {"train.jsonl": b'{"text": 3}\n'}, (), "{place}/train.jsonl: line 1: column 'text' holds int",
    ),
    "a line that is no object": (
        {"train.jsonl": lines("one") + b"[1]\n"}, (),
        "{place}/train.jsonl: line 2: expected a JSON object, found list",
    ),
    "a line that is no JSON": (
        {"train.jsonl": lines("one") + b"{\n"}, (), "{place}/train.jsonl: line 2: not JSON",
    ),
    "another encoding": ({"train.txt": b"caf\xe9\n"}, (), "{place}/train.txt: cannot be read as UTF-8 text"),
    "what is wrong after enough is not read": ({"train.jsonl": lines("one", "two") + b"{\n"}, (), None),
    "one array": ({"train.jsonl": array("one", "two")}, ("train", "validation"), None),
    "an array of texts that are alike": (
        {"train.jsonl": json.dumps([document("one"), document("one")], indent=1).encode()}, (),
        "found 2 documents of at least 8 words in {place}, 1 of them different",
    ),
    "an array of numbers": (
        {"train.jsonl": b'[{"text": "a"}, 3]\n'}, (),
        "{place}/train.jsonl: entry 2: expected a JSON object, found int",
    ),
    "lines that end at carriage returns": (
        {"train.txt": lines("one", "two").replace(b"\n", b"\r")}, ("train", "validation"), None,
    ),
    "objects between carriage returns": (
        {"train.jsonl": (lines("one") + b"{\n").replace(b"\n", b"\r")}, (),
        "{place}/train.jsonl: line 2: not JSON",
    ),
    "tables are left to the job": ({"train.csv": b"text\n"}, (), None),
}  # fmt: skip


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_has_different_documents_for_every_part_that_is_used(values, tmp_path, name):
    files, parts, said = CORPORA[name]
    place = tmp_path / "corpus"
    for file, content in files.items():
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(content)
    put(values, "datasets.text", {"kind": "text", "source": str(place), "samples": 2})
    for part in parts:
        put(values, f"datasets.{part}_of_it", {"kind": "subset", "of": "text", "part": part, "samples": 1})
    told = problems(values)
    assert told == [] if said is None else told[0].startswith(f"datasets.text: {said.format(place=place)}"), (
        told
    )


def test_a_line_of_plain_text_is_its_column_text(values, tmp_path):
    (tmp_path / "lines.txt").write_text(f"{document('one')}\n{document('two')}\n")
    entry = {"kind": "text", "source": str(tmp_path / "lines.txt"), "samples": 2, "column": "words"}
    put(values, "datasets.text", entry)
    (told, *_) = problems(values)
    assert told.startswith(f"datasets.text: {tmp_path}/lines.txt: line 1: no column 'words', found ['text']")


def test_a_long_corpus_costs_nothing(values, tmp_path):
    file = tmp_path / "long.txt"
    file.write_text("".join(f"{document(str(number))}\n" for number in range(200_000)))
    put(values, "datasets.text", {"kind": "text", "source": str(file), "samples": 2})
    config, start = load_config(values), time.perf_counter()
    assert data_problems(config) == []
    assert time.perf_counter() - start < 0.5


def test_what_is_not_at_hand_passes(values):
    entry = {"kind": "vsr", "source": "hub:some/vsr@main", "samples": 10}
    put(values, "datasets.far", entry)
    put(values, "datasets.gone", {"path": "/nowhere/at/all", "samples": 10})
    put(values, "concepts.space.target", {"dataset": "far", "groups": ["anything"]})
    put(values, "concepts.space.baseline", {"dataset": "gone", "groups": ["anything"]})
    assert problems(values) == []


def test_each_file_is_read_once(values, monkeypatch):
    read = []
    monkeypatch.setattr(
        samples_file, "read_text", lambda file, remedy: read.append(file) or read_text(file, remedy)
    )
    assert problems(values) == []
    assert sorted(read) == sorted(
        Path(entry["path"], "samples.jsonl") for entry in values["datasets"].values()
    )


@pytest.mark.parametrize("kind", ["text", "general", "spatial", "spatial_open", "mixed"])
@pytest.mark.parametrize("group_by", ["kind", "answer"])
def test_the_world_has_the_groups_that_its_settings_tell(kind, group_by):
    entry = WorldDataset(kind=kind, scenes="train", samples=80, group_by=group_by)
    scenes = scene_splits({"train": 300, "validation": 50, "test": 50}, 0)["train"]
    rows = [one.row("a", "b", group_by) for one in make_samples(entry, scenes, 0)]
    told = groups_of(entry)
    assert told is None or set(told) == {row["group"] for row in rows}
    assert (told is None) == (kind == "mixed" or (group_by == "answer" and kind not in ("text", "spatial")))
    assert (kind in CLOSED) == all(row["choices"] is not None and row["answer"] is not None for row in rows)
    assert set(GROUPS) == {"text", "general", "spatial", "spatial_open"}


WORLD = [
    (
        "concepts.space.target", {"dataset": "spatial_val", "groups": ["left off"]},
        "found 'left off', but data set 'spatial_val' (kind 'spatial' of the built-in world) has the groups",
    ),
    (
        "concepts.space.target", {"dataset": "truth_val", "groups": ["left of"]},
        "'truth_val' (kind 'spatial' of the built-in world) has the groups 'false', 'true'",
    ),
    ("concepts.space.target", {"dataset": "vqa_train", "groups": ["anything"]}, None),
    (
        "ablation.rank_on.control", "text_val",
        "found data set 'text_val' (kind 'text' of the built-in world), of which samples lack",
    ),
    ("ablation.rank_on.control", "general_val", None),
    ("diff.visual_datasets", ["text_val"], "diff.visual_datasets: found data set 'text_val'"),
    ("diff.text_datasets", ["general_val"], "of which samples show an image"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "said"), WORLD)
def test_the_built_in_world_is_known_from_its_settings(values, path, value, said):
    values["world"] = {}
    put(values, path, value)
    told = problems(values)
    assert told == [] if said is None else len(told) == 1 and said in told[0]


# Subsets, keys that name them, and what is said.
SUBSETS = {
    "groups of one's own samples": (
        {"of": "rank", "groups": ["left of"]},
        {"concepts.space.target": {"dataset": "part", "groups": ["above"]}},
        "concepts.space.target.groups: found 'above', but data set 'part' (a subset of 'rank')",
    ),
    "groups of the world": (
        {"of": "spatial_val", "groups": ["left off"], "samples": 8}, {"heads.dataset": "part"},
        "datasets.part.groups: found 'left off', but data set 'spatial_val' (kind 'spatial' of ",
    ),
    "groups of shipped annotations": (
        {"of": "vsr", "without": ["undr"], "samples": 8}, {"heads.dataset": "part"},
        "datasets.part.without: found 'undr', but data set 'vsr' (split 'dev' of ",
    ),
    "what a group of the world has": (
        {"of": "spatial_val", "groups": ["left of"], "samples": 8},
        {"concepts.space.target": {"dataset": "part", "groups": ["above"]}},
        "concepts.space.target.groups: found 'above', but data set 'part' (a subset of 'spatial",
    ),
    "texts alone have no images": (
        {"of": "rank", "images": False}, {"heads.dataset": "part"}, "heads.dataset: found data set 'part'",
    ),
    "texts alone of the world": (
        {"of": "general_val", "images": False, "samples": 8}, {"heads.dataset": "part"},
        "heads.dataset: found data set 'part' (a subset of 'general_val'), whose",
    ),
    "texts alone are texts": ({"of": "rank", "images": False}, {"diff.text_datasets": ["part"]}, None),
    "groups that are there": ({"of": "vsr", "groups": ["on"], "samples": 8}, {"heads.dataset": "part"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", SUBSETS)
def test_a_subset_is_known_as_far_as_its_source_is(values, name):
    entry, changes, said = SUBSETS[name]
    values["world"] = {}
    put(values, "datasets.vsr", {"kind": "vsr", "source": VSR, "split": "dev", "samples": 200})
    put(values, "datasets.part", {"kind": "subset", **entry})
    put(values, "concepts.space.baseline", {"dataset": "general"})
    for path, value in changes.items():
        put(values, path, value)
    told = problems(values)
    assert told == [] if said is None else len(told) == 1 and told[0].startswith(said), told


# Groups where a data set is named: (key, groups, what is said). Config and checks tell the same key.
WRITTEN = [
    (
        "ablation.rank_on.target", {"dataset": "spatial_val", "groups": ["lft of"]},
        "ablation.rank_on.target.groups: found 'lft of', but data set 'spatial_val' (kind 'spatial' of the ",
    ),
    (
        "heads.report_on.control", {"dataset": "vsr", "without": ["undr"], "samples": 8},
        "heads.report_on.control.without: found 'undr', but data set 'vsr' (split 'dev' of ",
    ),
    (
        "heads.head_means.dataset", {"dataset": "vsr", "groups": ["undr"]},
        "heads.head_means.dataset.groups: found 'undr', but data set 'vsr' (split 'dev' of ",
    ),
    (
        "evaluation.0.dataset", {"dataset": "general_val", "groups": ["shapes"]},
        "evaluation.0.dataset.groups: found 'shapes', but data set 'general_val' (kind 'general' of the ",
    ),
    ("heads.dataset", {"dataset": "vsr", "groups": ["on"], "samples": 8}, None),
]  # fmt: skip


@pytest.mark.parametrize(("path", "groups", "said"), WRITTEN)
def test_wrong_groups_of_what_is_prepared_later_are_told_under_the_key_that_was_written(
    values, path, groups, said
):
    values["world"] = {}
    put(values, "datasets.vsr", {"kind": "vsr", "source": VSR, "split": "dev", "samples": 200})
    if path.startswith("evaluation"):
        values["evaluation"][0]["dataset"] = groups
    else:
        put(values, path, groups)
    told = problems(values)
    assert told == [] if said is None else len(told) == 1 and told[0].startswith(said), told


def test_a_large_data_set_costs_little(values, tmp_path):
    folder = tmp_path / "large"
    samples = [question(index) | {"image": f"images/{index % 900}.png"} for index in range(20_000)]
    write_samples(folder, samples[:900])
    (folder / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))
    put(values, "datasets.train", {"path": str(folder), "samples": len(samples)})
    start = time.process_time()
    assert problems(values) == []
    # About half a second; 50,000 samples may cost a dry run 2 seconds.
    assert time.process_time() - start < 2


def test_stages_that_are_left_out_need_nothing(values, tmp_path):
    (tmp_path / "rank" / "samples.jsonl").write_text(
        "".join(json.dumps(without("choices", "answer")(question(index))) + "\n" for index in range(SAMPLES))
    )
    assert problems(values)[0].startswith("ablation.rank_on.target: found data set 'rank'")
    for stage in ("ablation", "heads"):
        put(values, stage, "none")
    assert problems(values) == []
