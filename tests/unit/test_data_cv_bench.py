"""CV-Bench in its published layout: lettered choices, groups by relation or task, ids of the photographs."""

import io

import pandas as pd
import pytest
from PIL import Image

from vlmdiff.config.datasets import CvBenchDataset
from vlmdiff.config.overlap import rows_overlap
from vlmdiff.data import tabular
from vlmdiff.data.at_hand import of_source
from vlmdiff.data.prepare import prepare_dataset
from vlmdiff.data.samples import DataError, load_samples
from vlmdiff.interventions.answers import check_question

WHERE = "Considering the relative positions of the {0} and the {1} in the image, where is the {0} located?"
NEARER = "Which object is closer to the camera, the {0} (red box) or the {1} (blue box)?"


def row(idx, dimension, task, question, choices, answer, source, name):
    """Return a row with all columns of the published table."""
    return {
        "idx": idx,
        "type": dimension,
        "task": task,
        "image": {"bytes": picture(idx), "path": None},
        "question": question,
        "choices": choices,
        "answer": answer,
        "prompt": f"{question} Select from the following choices.",
        "filename": f"img/{dimension}/{task.lower()}/{idx}.png",
        "source": source,
        "source_dataset": f"{source} set",
        "source_filename": name,
        "target_class": None,
        "target_size": None,
        "bbox": None,
    }


def picture(shade, kind="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (shade % 256, 0, 0)).save(stream, kind)
    return stream.getvalue()


# Names of the photographs are spelled as in the published rows.
FLAT = [
    row(387, "2D", "Relation", WHERE.format("picture", "desk"), ["left", "right"], "(A)", "ADE20K",
        "ADE_val_00001474.jpg"),
    row(1095, "2D", "Relation", WHERE.format("person", "ball"), ["left", "right"], "(B)", "COCO",
        "/coco/val2017/000000025424.jpg"),
    row(1153, "2D", "Relation", WHERE.format("spoon", "car"), ["above", "below"], "(B)", "COCO",
        "/coco/val2017/000000345361.jpg"),
    row(14, "2D", "Count", "How many windows are in the image?", ["0", "1", "4", "3", "2"], "(E)", "ADE20K",
        "ADE_val_00000313.jpg"),
]  # fmt: skip
DEEP = [
    row(1455, "3D", "Depth", NEARER.format("door", "pillow"), ["door", "pillow"], "(B)", "Omni3D",
        "SUNRGBD/kv1/NYUdata/NYU0431//image/NYU0431.jpg"),
    row(2051, "3D", "Distance", "Which object is closer to the table?", ["television", "lamp"], "(A)",
        "Omni3D", "hypersim/ai_054_007/images/frame.0014.tonemap.jpg"),
]  # fmt: skip


def write(folder, flat=FLAT, deep=DEEP):
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("test_2d", flat), ("test_3d", deep)):
        made = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
        made.to_parquet(folder / f"{name}.parquet")
    return {"kind": "cvbench", "source": str(folder)}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return write(tmp_path_factory.mktemp("cvbench"))


def prepare(folder, **entry):
    prepare_dataset("d", entry, folder / "samples.jsonl", folder / "counts.csv")
    return {one.sample_id: one for one in load_samples(folder / "samples.jsonl")}


def test_relations_become_questions_with_lettered_choices(bench, tmp_path):
    samples = prepare(tmp_path / "d", **bench, samples=3)
    assert {name: (s.answer, s.answer_text, s.relation, s.group) for name, s in samples.items()} == {
        "cvbench_387": ("A", "left", "left", "left"),
        "cvbench_1095": ("B", "right", "right", "right"),
        "cvbench_1153": ("B", "below", "below", "below"),
    }
    assert samples["cvbench_1153"].prompt == (
        f"{FLAT[2]['question']}\nA. above\nB. below\nAnswer with the letter of the right choice alone."
    )
    for sample in samples.values():
        check_question(sample)
        assert sample.choices == ["A", "B"] and sample.task == "Relation"


def test_the_photograph_has_its_public_id_and_each_question_its_own_picture(bench, tmp_path):
    samples = prepare(tmp_path / "d", **bench, samples=6, tasks=["Relation", "Count", "Depth", "Distance"])
    assert {name.removeprefix("cvbench_"): one.image_id for name, one in samples.items()} == {
        "387": "ade20k:ADE_val_00001474.jpg",
        "1095": "coco:25424",
        "1153": "coco:345361",
        "14": "ade20k:ADE_val_00000313.jpg",
        "1455": "omni3d:SUNRGBD/kv1/NYUdata/NYU0431//image/NYU0431.jpg",
        "2051": "omni3d:hypersim/ai_054_007/images/frame.0014.tonemap.jpg",
    }
    for name, one in samples.items():
        assert one.image == f"images/{name}.png"
        assert one.open_image().getpixel((0, 0)) == (int(name[8:]) % 256, 0, 0)


@pytest.mark.parametrize(
    ("group_by", "groups"),
    [
        ("relation", {"left", "right", "below", "Count", "Depth", "Distance"}),
        ("task", {"Relation", "Count", "Depth", "Distance"}),
        ("answer", {"A", "B", "E"}),
    ],
)
def test_groups(bench, tmp_path, group_by, groups):
    tasks = ["Relation", "Count", "Depth", "Distance"]
    samples = prepare(tmp_path / "d", **bench, samples=6, tasks=tasks, group_by=group_by)
    assert {one.group for one in samples.values()} == groups
    count = samples["cvbench_14"]
    assert (count.answer, count.answer_text, count.relation) == ("E", "2", None)


@pytest.mark.parametrize(
    ("tasks", "config", "files"),
    [
        (["Relation"], "2D", "test_2d"),
        (["Count", "Relation"], "2D", "test_2d"),
        (["Depth", "Distance"], "3D", "test_3d"),
        (["Relation", "Depth"], None, "test"),
    ],
)
def test_only_the_dimension_that_holds_the_tasks_is_read(tasks, config, files):
    entry = CvBenchDataset(kind="cvbench", source="hub:a/b@main", samples=1, tasks=tasks)
    assert (entry.config, entry.files) == (config, files)


def test_the_hub_is_asked_for_the_configuration_of_the_tasks(bench, tmp_path, monkeypatch):
    """What the library is asked for; the rows come from the local table."""
    asked = []

    def hub_table(source, split, config):
        asked.append((source, split, config))
        return tabular.local_table(tmp_path.__class__(bench["source"]), "test_2d")

    monkeypatch.setattr(tabular, "hub_table", hub_table)
    source = "hub:nyu-visionx/CV-Bench@main"
    samples = prepare(tmp_path / "d", kind="cvbench", source=source, samples=1, tasks=["Count"])
    assert asked == [(source, "test", "2D")] and list(samples) == ["cvbench_14"]


def test_tasks_of_one_table_do_not_overlap_and_a_task_with_itself_does(bench):
    relation, again, count = (
        CvBenchDataset(**bench, samples=3, tasks=[task]) for task in ("Relation", "Relation", "Count")
    )
    assert rows_overlap(relation, again) and not rows_overlap(relation, count)


def test_a_prompt_needs_its_places_and_questions_are_taken_as_they_are(bench, tmp_path):
    for prompt, place in (("{question}", "{choices}"), ("{choices}", "{question}")):
        with pytest.raises(ValueError, match=f"expected {place} in it"):
            CvBenchDataset(**bench, samples=1, prompt=prompt)
    odd = {**FLAT[0], "question": "Where is {choices}?"}
    entry = write(tmp_path / "odd", [odd])
    (sample,) = prepare(tmp_path / "d", **entry, samples=1, prompt="{choices} {question}").values()
    assert sample.prompt == "A. left\nB. right Where is {choices}?"


def test_a_folder_without_the_tables_is_told_before_anything_runs(tmp_path, bench):
    (tmp_path / "test_2d.jsonl").write_text("{}\n")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "test_2d.parquet")
    entry = CvBenchDataset(kind="cvbench", source=str(tmp_path), samples=1)
    with pytest.raises(DataError, match=r"has test_2d.jsonl, test_2d.parquet; .* named test_2d\*"):
        of_source(entry, set())
    assert of_source(CvBenchDataset(**bench, samples=1), set()) is None


WRONG = [
    ({"task": "Size"}, "task: found 'Size', expected Relation, Count, Depth, Distance"),
    ({"choices": ["left", "left"]}, "choices: found .*, expected at least two different texts"),
    ({"choices": ["left"]}, "choices: found .*, expected at least two different texts"),
    ({"answer": "A"}, r"answer: found 'A', expected one of \(A\) to \(B\), a letter for each of the choices"),
    ({"answer": "(C)"}, r"answer: found '\(C\)', expected one of \(A\) to \(B\)"),
    ({"question": " "}, "question: found ' ', expected a text"),
    ({"source_filename": ""}, "source_filename: found '', expected a text"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_a_wrong_row_is_named(tmp_path, change, said):
    entry = write(tmp_path / "source", [{**FLAT[0], **change}])
    with pytest.raises(DataError, match=f"question 387: {said}.*expected CV-Bench: correct the file"):
        prepare(tmp_path / "d", **entry, samples=1)


def test_a_row_without_a_number_or_a_column_is_named(tmp_path):
    entry = write(tmp_path / "source", [{**FLAT[0], "idx": None}])
    with pytest.raises(DataError, match="idx: found None"):
        prepare(tmp_path / "d", **entry, samples=1)
    entry = write(tmp_path / "other", [{k: v for k, v in FLAT[0].items() if k != "choices"}])
    with pytest.raises(DataError, match=r"columns \['choices'\] are missing"):
        prepare(tmp_path / "d", **entry, samples=1)


def test_a_row_without_a_picture_is_a_missing_image(tmp_path):
    entry = write(tmp_path / "source", [FLAT[0], {**FLAT[1], "image": None}])
    with pytest.raises(DataError, match="1 image is missing, of 1 of 2 samples"):
        prepare(tmp_path / "d", **entry, samples=2)
    assert list(prepare(tmp_path / "d", **entry, samples=2, on_missing="skip")) == ["cvbench_387"]
