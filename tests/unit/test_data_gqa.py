"""GQA in its authors' layout: choices from the program, relations, groups, and pictures that are COCO's."""

import io
import json

import pandas as pd
import pytest
from PIL import Image

from vlmdiff.config.datasets import GqaDataset
from vlmdiff.config.overlap import rows_overlap
from vlmdiff.data.at_hand import of_source
from vlmdiff.data.gqa import short
from vlmdiff.data.prepare import prepare_dataset
from vlmdiff.data.samples import DataError, load_samples


def question(text, answer, image, types, *steps):
    """Return a question as the authors' file has it, with all of its keys."""
    structural, semantic, detailed = types
    program = [{"operation": one, "dependencies": [], "argument": argument} for one, argument in steps]
    return {
        "semantic": program,
        "entailed": [],
        "equivalent": ["1"],
        "question": text,
        "imageId": image,
        "isBalanced": True,
        "groups": {"global": None, "local": "13-bed_book"},
        "answer": answer,
        "semanticStr": "->".join(f"{step['operation']}: {step['argument']}" for step in program),
        "annotations": {"answer": {}, "question": {"2": "1026412"}, "fullAnswer": {}},
        "types": {"detailed": detailed, "semantic": semantic, "structural": structural},
        "fullAnswer": f"It is {answer}.",
    }


# What operations and arguments look like, is as in the published questions.
QUESTIONS = {
    "01": question(
        "Is the small book to the left of the bed?", "no", "244", ("verify", "rel", "relVerifyCr"),
        ("select", "bed (1026412)"), ("verify rel", "book,to the left of,s (1026411)"),
    ),
    "02": question(
        "Is the surfer to the left or to the right of the board?", "right", "2397985",
        ("choose", "rel", "relChooser"),
        ("select", "board (429134)"), ("choose rel", "surfer,to the right of|to the left of,s (429135)"),
    ),
    "03": question(
        "Is the mirror in the top or in the bottom of the image?", "top", "2358537",
        ("choose", "attr", "positionChoose"),
        ("select", "mirror (2672975)"), ("choose vposition", "top|bottom"),
    ),
    "04": question(
        "Is the duck on the left of the photo?", "yes", "2387872", ("verify", "attr", "positionVerify"),
        ("select", "duck (510757)"), ("verify hposition", "left"),
    ),
    "05": question(
        "What's on the ceiling?", "mirror", "2358537", ("query", "rel", "relS"),
        ("select", "ceiling (2672976)"), ("relate", "_,on,s (2672975)"), ("query", "name"),
    ),
    "06": question(
        "What color is the fridge, black or silver?", "black", "2403013", ("choose", "attr", "chooseAttr"),
        ("select", "fridge (1128794)"), ("choose color", "black|silver"),
    ),
    "07": question(
        "Which is healthier, the salad or the pizza?", "salad", "2403013",
        ("choose", "obj", "comparativeChoose"),
        ("select", "salad (1)"), ("select", "pizza (2)"), ("choose healthier", ""),
    ),
    "08": question(
        "Which room is it?", "bedroom", "n250821", ("query", "global", "place"),
        ("select", "scene"), ("query", "room"),
    ),
    "09": question(
        "Do you see either a white fridge or dishwasher there?", "no", "2403013",
        ("logical", "obj", "existAttrOrC"),
        ("select", "fridge (1128794)"), ("exist", "?"), ("select", "dishwasher (-) "), ("exist", "?"),
        ("or", ""),
    ),
    "10": question(
        "Is the cup behind or in front of the plate?", "in front of", "n250821",
        ("choose", "rel", "relChooser"),
        ("select", "plate (77)"), ("choose rel", "cup,behind|in front of,s (78)"),
    ),
    "11": question(
        "Which side of the photo is the knife on?", "left", "2402467", ("query", "attr", "positionQuery"),
        ("select", "knife (1135762)"), ("query", "hposition"),
    ),
}  # fmt: skip
COCO = [
    {"image_id": image, "coco_id": number, "flickr_id": None, "url": "x", "width": 8, "height": 6}
    for image, number in ((244, 139), (2387872, None))
]


def picture():
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def gqa(tmp_path):
    """The authors' folders, and an entry that reads them."""
    root, images = tmp_path / "questions1.2", tmp_path / "images"
    root.mkdir()
    images.mkdir()
    (root / "val_balanced_questions.json").write_text(json.dumps(QUESTIONS))
    (tmp_path / "image_data.json").write_text(json.dumps(COCO))
    for row in QUESTIONS.values():
        (images / f"{row['imageId']}.jpg").write_bytes(picture())
    return {"kind": "gqa", "source": str(root), "split": "val_balanced", "images": str(images), "samples": 11}


def prepare(folder, **entry):
    prepare_dataset("d", entry, folder / "samples.jsonl", folder / "counts.csv")
    return {one.sample_id: one for one in load_samples(folder / "samples.jsonl")}


def test_questions_bring_choices_that_first_words_tell_apart(gqa, tmp_path):
    samples = prepare(tmp_path / "d", **gqa)
    assert {name: (one.choices, one.answer) for name, one in samples.items()} == {
        "gqa_01": (["Yes", "No"], "No"),
        "gqa_02": (["right", "left"], "right"),
        "gqa_03": (["top", "bottom"], "top"),
        "gqa_04": (["Yes", "No"], "Yes"),
        "gqa_05": (None, "mirror"),
        "gqa_06": (["black", "silver"], "black"),
        "gqa_07": (None, "salad"),
        "gqa_08": (None, "bedroom"),
        "gqa_09": (["Yes", "No"], "No"),
        "gqa_10": (["behind", "in front of"], "in front of"),
        "gqa_11": (None, "left"),
    }
    assert all(one.prompt == QUESTIONS[name[4:]]["question"] for name, one in samples.items())
    assert all(one.open_image().size == (8, 6) for one in samples.values())


def test_a_relation_is_what_a_question_claims_or_what_is_right(gqa, tmp_path):
    samples = prepare(tmp_path / "d", **gqa, group_by="relation")
    relations = {
        "01": "to the left of", "02": "to the right of", "03": "top", "04": "left", "05": "on",
        "10": "in front of", "11": "left",
    }  # fmt: skip
    assert {name[4:]: one.relation for name, one in samples.items() if one.relation} == relations
    assert {name[4:]: one.group for name, one in samples.items()} == {
        name: relations.get(name, "other") for name in QUESTIONS
    }


@pytest.mark.parametrize("by", ["structural", "semantic", "detailed"])
def test_groups_may_be_gqas_types(gqa, tmp_path, by):
    samples = prepare(tmp_path / "d", **gqa, group_by=by)
    assert {name[4:]: one.group for name, one in samples.items()} == {
        name: row["types"][by] for name, row in QUESTIONS.items()
    }
    assert all(getattr(one, by) == one.group for one in samples.values())


def test_groups_are_those_of_the_spatial_vocabulary_first(gqa, tmp_path):
    samples = prepare(tmp_path / "d", **gqa)
    assert {name[4:]: one.group for name, one in samples.items()} == {
        "01": "sides", "02": "sides", "03": "above_below", "04": "sides", "05": "rel", "06": "attr",
        "07": "obj", "08": "global", "09": "obj", "10": "front_behind", "11": "sides",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"answers": "yes_no"}, {"01", "04", "09"}),
        ({"answers": "choices"}, {"01", "02", "03", "04", "06", "09", "10"}),
        ({"questions": "spatial", "answers": "yes_no"}, {"01", "04"}),
        ({"questions": "not_spatial", "answers": "yes_no"}, {"09"}),
    ],
)
def test_an_entry_takes_the_questions_that_it_asks_for(gqa, tmp_path, wanted, found):
    samples = prepare(
        tmp_path / "d", **{**gqa, **wanted, "samples": len(found), "prompt": "{question} Say it."}
    )
    assert {name[4:] for name in samples} == found
    assert all(one.choices and one.prompt.endswith("? Say it.") for one in samples.values())
    with pytest.raises(DataError, match=f"found {len(found)} samples, but the config asks for 11"):
        prepare(tmp_path / "e", **{**gqa, **wanted})


def test_pictures_that_are_cocos_carry_its_number(gqa, tmp_path):
    samples = prepare(tmp_path / "d", **gqa, coco_ids=str(tmp_path / "image_data.json"))
    ids = {row["imageId"]: samples[f"gqa_{name}"].image_id for name, row in QUESTIONS.items()}
    assert ids.pop("244") == "coco:139"
    assert ids.pop("n250821") == "gqa:n250821"
    assert ids == {image: f"vg:{image}" for image in ids}
    assert prepare(tmp_path / "e", **gqa)["gqa_01"].image_id == "vg:244"


def test_a_seed_orders_the_questions_and_ranges_do_not_overlap(gqa, tmp_path):
    def ids(name, **changes):
        return list(prepare(tmp_path / name, **{**gqa, **changes}))

    first, again, rest = ids("a", samples=6), ids("b", samples=6), ids("c", samples=5, offset=6)
    assert first == again and {*first, *rest} == {f"gqa_{name}" for name in QUESTIONS}
    assert ids("d", samples=6, seed=1) != first
    entries = [GqaDataset(**{**gqa, "samples": 6, "offset": offset}) for offset in (0, 5, 6)]
    assert rows_overlap(*entries[:2]) and not rows_overlap(entries[0], entries[2])


def test_missing_pictures_are_counted(gqa, tmp_path):
    (tmp_path / "images" / "2358537.jpg").unlink()
    with pytest.raises(DataError, match=r"1 image is missing, of 2 of 11 samples"):
        prepare(tmp_path / "d", **gqa)
    samples = prepare(tmp_path / "d", **gqa, on_missing="skip")
    assert len(samples) == 9
    assert pd.read_csv(tmp_path / "d" / "counts.csv").loc[0, "missing_images"] == 2


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("split", "val", r"val_questions.json: no such file, found \['val_balanced_questions.json'\]; set"),
        ("images", "/nowhere", "images: no folder /nowhere; give the folder of GQA's images"),
        (
            "coco_ids",
            "/nowhere.json",
            "coco_ids: no file /nowhere.json; give Visual Genome's image_data.json",
        ),
    ],
)
def test_what_is_not_there_is_told_before_anything_runs(gqa, tmp_path, key, value, said):
    entry = {**gqa, key: value}
    with pytest.raises(DataError, match=said):
        of_source(GqaDataset(**entry), set())
    with pytest.raises(DataError, match=said):
        prepare(tmp_path / "d", **entry)
    assert of_source(GqaDataset(**gqa), set()) is None


WRONG = [
    (lambda row: row.pop("answer"), r"question 01: keys missing: \['answer'\]"),
    (lambda row: row.update(answer=3), "question 01: answer: found 3, expected a text"),
    (lambda row: row.update(question=" "), "question 01: question: found ' ', expected a text"),
    (lambda row: row.update(imageId="../x"), "question 01: imageId: found '../x', expected a number"),
    (lambda row: row.update(imageId=7), "question 01: imageId: found 7, expected a text"),
    (lambda row: row["types"].pop("detailed"), r"question 01: types: keys missing: \['detailed'\]"),
    (lambda row: row.update(types="rel"), "question 01: types: expected a JSON object, found str"),
    (lambda row: row.update(semantic=[{"operation": "select"}]), "question 01: semantic: found .*select"),
    (lambda row: row.update(semantic="select"), "expected a list of steps with `operation` and `argument`"),
]


@pytest.mark.parametrize(("damage", "said"), WRONG)
def test_a_wrong_question_is_named(gqa, tmp_path, damage, said):
    rows = json.loads(json.dumps(QUESTIONS))
    damage(rows["01"])
    (tmp_path / "questions1.2" / "val_balanced_questions.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=f"{said}.*expected GQA's questions: correct or download"):
        prepare(tmp_path / "d", **gqa)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("questions1.2/val_balanced_questions.json", [], "expected an object of questions, found list"),
        ("image_data.json", {}, "expected a list of images, found dict; expected Visual Genome's image_data"),
        ("image_data.json", [{"image_id": 1}], r"entry 0: keys missing: \['coco_id'\]"),
        ("image_data.json", [{"image_id": 1, "coco_id": "x"}], "entry 0: coco_id: .*'x'"),
    ],
)
def test_another_file_is_refused(gqa, tmp_path, name, content, said):
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(DataError, match=said):
        prepare(tmp_path / "d", **gqa, coco_ids=str(tmp_path / "image_data.json"))


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["to the left of", "to the right of"], ["left", "right"]),
        (["behind", "in front of"], ["behind", "in front of"]),
        # Nothing is left of one of them.
        (["on", "on top of"], ["on", "on top of"]),
        (["large dog", "small dog"], ["large", "small"]),
        (["left"], ["left"]),
    ],
)
def test_options_are_as_short_as_tells_them_apart(options, left):
    assert short(options) == left
