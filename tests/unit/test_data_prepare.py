"""Data sets from public sources: real annotations, real servers, real file layouts."""

import io
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlmdiff.config.datasets import VqaDataset
from vlmdiff.data.at_hand import of_source
from vlmdiff.data.offers import shuffled_in_buffer
from vlmdiff.data.prepare import prepare_dataset
from vlmdiff.data.samples import DataError, load_samples
from vlmdiff.data.spatial_words import VOCABULARY, spatial_group

VSR = Path(__file__).parents[2] / "resources" / "vsr_random"
SPLITS = {"train": 7680, "dev": 1097, "test": 2195}


def picture(colour="red", kind="JPEG"):
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(stream, kind)
    return stream.getvalue()


def prepare(folder, **entry):
    """Prepare a data set; return its samples and its counts."""
    files = folder / "samples.jsonl", folder / "counts.csv"
    prepare_dataset("d", entry, *files)
    return load_samples(files[0]), pd.read_csv(files[1]).iloc[0]


@pytest.fixture
def server():
    """A server of tiny pictures that fails at first, and has no picture whose number ends in 7."""

    class Handler(BaseHTTPRequestHandler):
        asked: Counter = Counter()

        def do_GET(self):
            self.asked[self.path] += 1
            if self.path.endswith("7.jpg"):
                self.send_error(404)
            elif self.path.endswith("3.jpg") and self.asked[self.path] == 1:
                self.send_error(503)
            else:
                content = picture() if not self.path.endswith("8.jpg") else b"no picture"
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    Handler.asked = Counter()
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", Handler.asked
    running.shutdown()
    running.server_close()


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A folder with a picture for each of the 10,972 statements, links to one file."""
    root = tmp_path_factory.mktemp("coco")
    (root / "train2017").mkdir()
    (root / "one.jpg").write_bytes(picture())
    for split in SPLITS:
        for line in (VSR / f"{split}.jsonl").read_text().splitlines():
            target = root / "train2017" / json.loads(line)["image"]
            if not target.exists():
                target.hardlink_to(root / "one.jpg")
    return root


@pytest.mark.parametrize("split", SPLITS)
def test_all_real_vsr_statements_become_yes_no_questions(split, coco, tmp_path):
    entry = {"kind": "vsr", "source": str(VSR), "split": split, "samples": SPLITS[split], "images": str(coco)}
    samples, counts = prepare(tmp_path, **entry)
    assert len(samples) == counts["kept"] == counts["requested"] == SPLITS[split]
    raw = [json.loads(line) for line in (VSR / f"{split}.jsonl").read_text().splitlines()]
    assert Counter(s.answer for s in samples) == Counter("Yes" if r["label"] else "No" for r in raw)
    assert Counter(s.group for s in samples) == Counter(r["relation"] for r in raw)
    assert {s.caption for s in samples} == {r["caption"] for r in raw}
    assert all(s.choices == ["Yes", "No"] and s.prompt.endswith(s.caption) for s in samples)
    assert [s.sample_id for s in samples] != [f"vsr_{split}_{i}" for i in range(len(samples))]


def test_vsr_carries_cocos_numbers(coco, tmp_path):
    entry = {"kind": "vsr", "source": str(VSR), "split": "dev", "samples": 1097, "images": str(coco)}
    samples, _ = prepare(tmp_path, **entry)
    raw = [json.loads(line)["image"] for line in (VSR / "dev.jsonl").read_text().splitlines()]
    assert raw[0] == "000000239417.jpg"
    found = {s.sample_id: s.image_id for s in samples}
    assert found["vsr_dev_0"] == "coco:239417"
    assert found == {f"vsr_dev_{i}": f"coco:{int(name[:12])}" for i, name in enumerate(raw)}


def test_vsr_can_be_grouped_by_truth(coco, tmp_path):
    entry = {"kind": "vsr", "source": str(VSR), "split": "dev", "samples": 60, "images": str(coco)}
    samples, _ = prepare(tmp_path, **entry, group_by="answer")
    assert {sample.group for sample in samples} == {"Yes", "No"}
    assert all(sample.group == sample.answer for sample in samples)


def test_vsr_has_its_66_relations():
    rows = [
        json.loads(line) for split in SPLITS for line in (VSR / f"{split}.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 10_972
    assert len({row["relation"] for row in rows}) == 66


def linked_vsr(folder, server, numbers):
    """Write VSR annotations whose images lie on the local server."""
    rows = [
        {
            "image": f"{number}.jpg",
            "image_link": f"{server}/train2017/{number}.jpg",
            "caption": f"The cat is left of dog {number}.",
            "label": number % 2,
            "relation": "left of",
        }
        for number in numbers
    ]
    folder.mkdir(exist_ok=True)
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"kind": "vsr", "source": str(folder), "split": "test", "samples": len(rows)}


def test_linked_images_are_fetched_with_patience_and_kept(server, tmp_path):
    url, asked = server
    entry = linked_vsr(tmp_path / "source", url, [1, 2, 3, 13])
    entry["image_cache"] = str(tmp_path / "cache")
    samples, counts = prepare(tmp_path / "d", **entry)
    assert counts["kept"] == 4
    assert {s.open_image().size for s in samples} == {(8, 6)}
    assert asked == {
        "/train2017/1.jpg": 1,
        "/train2017/2.jpg": 1,
        "/train2017/3.jpg": 2,
        "/train2017/13.jpg": 2,
    }
    prepare(tmp_path / "again", **entry)
    assert sum(asked.values()) == 6


def test_a_missing_image_is_an_error_or_left_out_and_counted(server, tmp_path):
    entry = linked_vsr(tmp_path / "source", server[0], [1, 2, 7, 17, 8])
    entry["image_cache"] = str(tmp_path / "cache")
    with pytest.raises(
        DataError,
        match=r"(?s)datasets\.d: 2 images are missing, of 2 of 5 .*7\.jpg \(status 404\).* on_missing: skip",
    ):
        prepare(tmp_path / "d", **entry)
    assert not (tmp_path / "d" / "samples.jsonl").exists()
    samples, counts = prepare(tmp_path / "d", **entry, on_missing="skip")
    assert (counts["requested"], counts["missing_images"], counts["kept"]) == (5, 3, 2)
    assert {s.caption[-2:] for s in samples} == {"1.", "2."}


def test_a_dead_network_is_not_a_missing_image(tmp_path, monkeypatch):
    monkeypatch.setattr("vlmdiff.data.images.ATTEMPTS", 2)
    entry = linked_vsr(tmp_path / "source", "http://127.0.0.1:9", [1])
    entry |= {"image_cache": str(tmp_path / "cache"), "on_missing": "skip"}
    with pytest.raises(DataError, match="cannot be fetched after 2 attempts.*check the network"):
        prepare(tmp_path / "d", **entry)


QUESTIONS = ("Where is the cat?", "What colour is the car?", "Is the dog on the left side?", "Is it raining?")


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """VQAv2's official files, 40 questions over 10 pictures."""
    root = tmp_path_factory.mktemp("vqa")
    questions, answers = [], []
    for i in range(40):
        key = {"question_id": 1000 + i, "image_id": 500 + i // 4}
        questions.append(key | {"question": QUESTIONS[i % 4]})
        closed = i % 4 >= 2
        answers.append(
            key
            | {
                "multiple_choice_answer": ("yes", "no")[i % 8 < 4] if closed else "red",
                "answer_type": "yes/no" if closed else "other",
                "question_type": "is the" if closed else "what color is the",
                "answers": [],
            }
        )
    (root / "v2_OpenEnded_mscoco_train2014_questions.json").write_text(json.dumps({"questions": questions}))
    (root / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({"annotations": answers}))
    (root / "coco" / "train2014").mkdir(parents=True)
    for i in range(10):
        (root / "coco" / "train2014" / f"COCO_train2014_{500 + i:012d}.jpg").write_bytes(picture())
    entry = {"kind": "vqav2", "source": str(root), "split": "train", "images": str(root / "coco")}
    return entry, questions, answers


@pytest.fixture(scope="module")
def table(official, tmp_path_factory):
    """The same questions in the hub's Parquet layout, pictures inside."""
    import datasets

    _, questions, answers = official
    rows = [
        one | other | {"image": {"bytes": picture(), "path": None}}
        for one, other in zip(questions, answers, strict=True)
    ]
    for row in rows:
        row["answers"] = [{"answer": "x", "answer_confidence": "yes", "answer_id": 1}]
    made = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    folder = tmp_path_factory.mktemp("table") / "data"
    folder.mkdir()
    for part in range(2):
        made.shard(2, part).to_parquet(folder / f"validation-{part:05d}-of-00002.parquet")
    return {"kind": "vqav2", "source": str(folder.parent), "split": "validation"}


@pytest.mark.parametrize("layout", ["official", "table"])
def test_vqa_in_both_layouts(layout, official, table, tmp_path):
    entry = official[0] if layout == "official" else table
    samples, counts = prepare(tmp_path, **entry, samples=40)
    assert counts["kept"] == 40
    assert Counter(s.prompt for s in samples) == dict.fromkeys(QUESTIONS, 10)
    assert len({s.image for s in samples}) == 10
    assert all(s.open_image().size == (8, 6) for s in samples)
    assert {s.group for s in samples} == {"position", "sides", "what color is the", "is the"}
    # By COCO's number a picture is the same in both layouts, and in VSR.
    assert {s.sample_id: s.image_id for s in samples} == {
        f"vqa_{1000 + i}": f"coco:{500 + i // 4}" for i in range(40)
    }


@pytest.mark.parametrize("layout", ["official", "table"])
def test_vqa_filters(layout, official, table, tmp_path):
    entry = official[0] if layout == "official" else table
    spatial, _ = prepare(tmp_path / "s", **entry, samples=20, questions="spatial")
    assert {s.prompt for s in spatial} == {QUESTIONS[0], QUESTIONS[2]}
    entry = entry | {"questions": "not_spatial", "answers": "yes_no", "prompt": "{question} Yes or no?"}
    closed, counts = prepare(tmp_path / "c", **entry, samples=10)
    assert {s.prompt for s in closed} == {"Is it raining? Yes or no?"}
    assert {s.answer for s in closed} == {"Yes", "No"}
    assert counts["scanned"] > 10


@pytest.mark.parametrize("layout", ["official", "table"])
def test_one_seed_one_order_and_ranges_that_do_not_overlap(layout, official, table, tmp_path):
    entry = official[0] if layout == "official" else table

    def ids(name, **changes):
        return [s.sample_id for s in prepare(tmp_path / name, **{**entry, **changes})[0]]

    first, again, rest = ids("a", samples=25), ids("b", samples=25), ids("c", samples=15, offset=25)
    assert first == again
    assert set(first) | set(rest) == {f"vqa_{1000 + i}" for i in range(40)}
    assert ids("d", samples=25, seed=1) != first


@pytest.fixture
def paired(official, tmp_path):
    """The official files with the list of pairs: the first with the fifth question, and so on."""
    entry, questions, answers = official
    for name, content in (("questions", questions), ("annotations", answers)):
        (tmp_path / f"v2_mscoco_train2014_{name}.json").write_text(json.dumps({name: content}))
    pairs = [[1000 + i, 1004 + i] for i in range(40) if i % 8 < 4] + [[1000, 1], [1000, 1008]]
    (tmp_path / "v2_mscoco_train2014_complementary_pairs.json").write_text(json.dumps(pairs))
    return entry | {"source": str(tmp_path), "pairs": True}


def test_complementary_pairs_stay_whole(paired, tmp_path):
    samples, _ = prepare(tmp_path / "d", **paired, samples=40)
    by_pair = pd.DataFrame([s.model_dump() for s in samples]).groupby("pair")
    assert (by_pair.size() == 2).all() and (by_pair["prompt"].nunique() == 1).all()
    assert by_pair["image_id"].nunique().eq(2).all()
    closed, _ = prepare(tmp_path / "c", **paired, samples=8, offset=2, answers="yes_no")
    answers = pd.DataFrame([s.model_dump() for s in closed]).groupby("pair")["answer"].nunique()
    assert (answers == 2).all() and len(answers) == 4


def test_pairs_are_told_where_they_cannot_be_read(paired, table, tmp_path):
    with pytest.raises(DataError, match="pairs: found true with .*, expected the official files"):
        prepare(tmp_path / "d", **table, pairs=True, samples=2)
    with pytest.raises(ValueError, match="samples: found 3 with `pairs: true`, expected an even number"):
        prepare(tmp_path / "d", **paired, samples=3)
    file = Path(paired["source"]) / "v2_mscoco_train2014_complementary_pairs.json"
    file.write_text('[[1, 2], [3, "4"]]')
    with pytest.raises(
        DataError, match="complementary_pairs.json: entry 1: found .*3, '4'.*, expected a list of"
    ):
        prepare(tmp_path / "d", **paired, samples=2)
    for content, told in (
        ("[]", "found an empty list, expected"),
        ("[[1000, 1004], [1001, 1001]]", r"entry 1: found \[1001, 1001\], a question with itself"),
    ):
        file.write_text(content)
        with pytest.raises(DataError, match=told):
            prepare(tmp_path / "d", **paired, samples=2)
        # The plan tells it as well.
        with pytest.raises(DataError, match=told):
            of_source(VqaDataset(**paired, samples=2), set())
    file.unlink()
    with pytest.raises(DataError, match="expected one .*_complementary_pairs.json"):
        prepare(tmp_path / "d", **paired, samples=2)
    for other in ("hub:o/n@" + "a" * 40, str(tmp_path / "nothing")):
        Path(tmp_path / "nothing").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=f"pairs: found true with {other}, expected the official files"):
            of_source(VqaDataset(**{**paired, "source": other}, samples=2), set())


def test_pairs_of_one_image_or_of_two_questions_are_left_out(paired, tmp_path):
    folder = Path(paired["source"])
    questions = json.loads((folder / "v2_mscoco_train2014_questions.json").read_text())["questions"]
    first = questions[0]
    other_text = next(one for one in questions if one["question"] != first["question"])
    alike = next(
        one
        for one in questions
        if one["question"] == first["question"] and one["image_id"] != first["image_id"]
    )
    ids = [one["question_id"] for one in (first, other_text, alike)]
    file = folder / "v2_mscoco_train2014_complementary_pairs.json"
    file.write_text(json.dumps([[ids[0], ids[1]], [ids[0], 5], [ids[0], ids[2]]]))
    samples, _ = prepare(tmp_path / "d", **paired, samples=2)
    assert {sample.sample_id for sample in samples} == {f"vqa_{ids[0]}", f"vqa_{ids[2]}"}
    file.write_text(json.dumps([[ids[0], ids[1]], [4, 5]]))
    with pytest.raises(DataError, match="found no pair of one question about two images among 40 questions"):
        prepare(tmp_path / "e", **paired, samples=2)


def test_too_few_samples_are_named(official, tmp_path):
    with pytest.raises(DataError, match=r"datasets\.d: found 40 samples, but the config asks for 41"):
        prepare(tmp_path, **official[0], samples=41)


def test_annotations_of_another_picture_are_refused(official, tmp_path):
    entry, questions, answers = official
    other = [answers[0] | {"image_id": 501}, *answers[1:]]
    for name, content in (("questions", questions), ("annotations", other)):
        (tmp_path / f"v2_train2014_{name}.json").write_text(json.dumps({name: content}))
    with pytest.raises(DataError, match="question 1000 is about image 501, but .* about 500"):
        prepare(tmp_path / "d", **{**entry, "source": str(tmp_path)}, samples=4)


def test_official_files_need_their_images(official, tmp_path):
    with pytest.raises(DataError, match="images: found None, expected the folder of COCO images"):
        prepare(tmp_path, **{**official[0], "images": None}, samples=1)
    with pytest.raises(DataError, match="expected one .*_test.*_questions.json"):
        prepare(tmp_path, **{**official[0], "split": "test"}, samples=1)


def test_whats_up_is_balanced(tmp_path):
    root = tmp_path / "source"
    (root / "controlled_images").mkdir(parents=True)
    rows = []
    for i, relation in enumerate(["on", "under", "to the left of", "to the right of"] * 2):
        options = [
            f"A mug {r} a table" for r in (relation, "on", "under", "to the left of", "to the right of")
        ]
        options = list(dict.fromkeys(options))
        rows.append({"image_path": f"data/controlled_images/{i}.jpeg", "caption_options": options})
        (root / "controlled_images" / f"{i}.jpeg").write_bytes(picture())
    (root / "controlled_images_dataset.json").write_text(json.dumps(rows))
    entry = {"kind": "whatsup", "source": str(root), "split": "controlled_images"}
    samples, _ = prepare(tmp_path / "d", **entry, samples=16)
    assert Counter(s.answer for s in samples) == {"Yes": 8, "No": 8}
    right = Counter(s.group for s in samples if s.answer == "Yes")
    assert right == {"on": 2, "under": 2, "to the left of": 2, "to the right of": 2}
    for sample in samples:
        number = int(sample.sample_id.split("_")[-2])
        assert (sample.caption == rows[number]["caption_options"][0]) == (sample.answer == "Yes")


@pytest.mark.parametrize("kind", ["jsonl", "txt", "parquet", "json", "array.jsonl", "returns.txt"])
def test_text_documents_are_cut_and_short_ones_passed_over(kind, tmp_path):
    texts = [f"document {i} " + "word " * (i % 30) for i in range(60)]
    file = tmp_path / f"train.{kind}"
    if kind == "parquet":
        pd.DataFrame({"text": texts}).to_parquet(file)
    elif kind in ("jsonl", "json"):
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    elif kind == "array.jsonl":
        file.write_text(json.dumps([{"text": text} for text in texts]))
    elif kind == "returns.txt":
        file.write_bytes("\r".join(texts).encode())
    else:
        file.write_text("\n".join(texts))
    entry = {"kind": "text", "source": str(tmp_path), "split": "train", "words": 12}
    samples, counts = prepare(tmp_path / "d", **entry, samples=40)
    assert counts["kept"] == 40
    assert {len(s.prompt.split()) for s in samples} <= set(range(8, 13))
    assert all(s.image is None and not s.chat for s in samples)
    with pytest.raises(DataError, match="no column 'body', found"):
        prepare(tmp_path / "e", **entry, samples=4, column="body")


def test_a_seed_orders_documents_and_all_of_them_come(tmp_path):
    for part in range(3):
        texts = [f"document {part} {i} of a corpus of ninety of them" for i in range(30)]
        (tmp_path / f"train-{part}.txt").write_text("\n".join(texts))
    entry = {"kind": "text", "source": str(tmp_path), "split": "train", "samples": 90}
    orders = [
        [one.prompt for one in prepare(tmp_path / f"d{i}", **entry, seed=seed)[0]]
        for i, seed in enumerate((0, 0, 1))
    ]
    assert orders[0] == orders[1] != orders[2] and set(orders[0]) == set(orders[2])
    assert len(set(orders[0])) == 90 and orders[0] != sorted(orders[0])


def test_rows_wait_in_a_buffer_of_which_the_next_one_is_drawn():
    found = list(shuffled_in_buffer(range(200), seed=3, size=10))
    assert sorted(found) == list(range(200)) and found != sorted(found)
    assert all(row < place + 10 for place, row in enumerate(found))
    # No more is read than is needed.
    rows = iter(range(200))
    assert next(shuffled_in_buffer(rows, seed=3, size=10)) < 10 and next(rows) == 11


def test_a_users_folder_may_lack_images(tmp_path):
    root = tmp_path / "mine"
    root.mkdir()
    (root / "a.jpg").write_bytes(picture())
    lines = [{"sample_id": n, "image": f"{n}.jpg", "prompt": "what ?", "group": "g"} for n in "ab"]
    (root / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    samples, counts = prepare(tmp_path / "d", kind="folder", path=str(root), samples=2, on_missing="skip")
    assert [s.sample_id for s in samples] == ["a"]
    assert counts["missing_images"] == 1
    (root / "a.jpg").unlink()
    with pytest.raises(
        DataError, match=r"(?s)2 images are missing, of 2 of 2 .*`on_missing: skip` would leave"
    ):
        prepare(tmp_path / "e", kind="folder", path=str(root), samples=2, on_missing="skip")


def test_each_image_that_cannot_be_shown_is_told_once_with_what_to_do(tmp_path):
    root = tmp_path / "mine"
    root.mkdir()
    (root / "whole.jpg").write_bytes(picture())
    (root / "cut.jpg").write_bytes(picture()[:40])
    shown = ["whole.jpg", "cut.jpg", "cut.jpg", "gone.jpg", "cut.jpg"]
    lines = [
        {"sample_id": f"s{i}", "image": name, "prompt": "?", "group": "g"} for i, name in enumerate(shown)
    ]
    (root / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError) as error:
        prepare(tmp_path / "d", kind="folder", path=str(root))
    said = str(error.value).splitlines()
    assert said[0].endswith(": 1 image is missing, of 1 of 5 samples:") and said[1] == f"  {root}/gone.jpg"
    assert said[2] == "1 image is damaged, of 3 of 5 samples:"
    assert said[3].startswith(f"  {root}/cut.jpg is not a whole image (")
    remedies = (
        "bring the missing images, or put whole copies in the place of damaged images, or write `datasets:"
    )
    assert len(said) == 5 and said[4].startswith(remedies)
    (root / "gone.jpg").write_bytes(picture())
    with pytest.raises(DataError) as error:
        prepare(tmp_path / "d", kind="folder", path=str(root))
    assert "missing" not in str(error.value).replace("on_missing", "") and "bring" not in str(error.value)


def test_an_id_that_a_source_gives_twice_is_named(official, tmp_path):
    entry, questions, answers = official
    twice = {"questions": questions[:1] * 2, "annotations": answers[:1] * 2}
    for name, rows in twice.items():
        (tmp_path / f"v2_train2014_{name}.json").write_text(json.dumps({name: rows}))
    with pytest.raises(DataError, match=r"several samples of one id, '\w*1000'; choose another split"):
        prepare(tmp_path / "d", **entry | {"source": str(tmp_path), "samples": 2})


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("What is to the LEFT of the cat?", "sides"),
        ("Is the man on the right-hand side?", "sides"),
        ("Is that right?", None),
        ("What is in  front of the bus?", "front_behind"),
        ("Who is wearing underwear?", None),
        ("What is in the background?", "depth"),
        ("Where is the cat?", "position"),
        ("How many people are there?", None),
        ("Is the cat near the far-away hill?", "near_far"),
        # The first phrase, not the first or last group.
        ("What is behind the cat on the left?", "front_behind"),
        ("Is the left cat behind the tree?", "sides"),
        # Whole words on both sides.
        ("Is it a hangover?", None),
        ("Is the room well-under the limit?", None),
        ("Is he OVER the bridge?", "above_below"),
    ],
)
def test_spatial_vocabulary(text, group):
    assert spatial_group(text) == group


@given(st.sampled_from([(g, p) for g, phrases in VOCABULARY.items() for p in phrases]), st.booleans())
def test_every_phrase_is_found_in_any_spelling(pair, hyphen):
    phrase = pair[1].replace(" ", "-") if hyphen else pair[1].upper()
    assert spatial_group(f"Xyz {phrase} abc?") is not None


def test_no_phrase_belongs_to_two_groups():
    phrases = [phrase for group in VOCABULARY.values() for phrase in group]
    assert len(phrases) == len(set(phrases))
