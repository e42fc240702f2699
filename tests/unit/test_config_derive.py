"""A configuration of models, data and concepts is filled in; what the user says wins."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import own_photos
import pytest
import yaml

from vlmdiff.config.derive import derive
from vlmdiff.config.layers import read_layers
from vlmdiff.config.load import ConfigError, load_config
from vlmdiff.config.local_checkpoints import with_family
from vlmdiff.config.plan import plan
from vlmdiff.data.local_data import data_problems

MINIMAL = """
models:
  base_lm: { path: checkpoints/base }
  vlm: { path: checkpoints/vlm }
data: photos
concepts:
  space:
    groups: [left of, above]
    words: [left, above]
"""
WIDTH = 48


def write_description(folder: Path, **values: object) -> None:
    """Write the config.json of a checkpoint."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(values))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with descriptions of two checkpoints and 30 photos, which is the working directory."""
    text = {"model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": 12}
    write_description(tmp_path / "checkpoints" / "base", **text, architectures=["LlamaForCausalLM"])
    write_description(
        tmp_path / "checkpoints" / "vlm",
        model_type="llava",
        text_config=text,
        vision_config={"model_type": "clip"},
    )
    own_photos.write_photos(tmp_path / "photos", photos=30)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def minimal(**changes):
    """Return the values of the smallest configuration, with sections changed or added."""
    return yaml.safe_load(MINIMAL) | copy.deepcopy(changes)


def load(name: str | None = "mine", **changes):
    """Load the smallest configuration with changes."""
    return load_config(minimal(**changes), name=name)


def refused(**changes) -> str:
    """Return why the smallest configuration with changes is refused."""
    with pytest.raises(ConfigError) as error:
        load(**changes)
    return str(error.value)


def test_models_data_and_concepts_are_enough(here):
    config = load()
    assert config.experiment == "mine"
    assert (config.models["base_lm"].family, config.models["vlm"].family) == ("causal_lm", "llava")
    # Eight of twelve blocks, the last one included.
    assert config.layers == [0, 2, 3, 5, 6, 8, 9, 11]
    # Width 48: 8 x 48 features; 48 / 16 = 3 active ones are below the least, 8.
    assert (config.architecture.d_sae, config.architecture.k) == (384, 8)
    assert config.diff.model == "vlm" and config.diff.visual_datasets == ["validation"]
    concept = config.concepts["space"]
    assert (concept.target.dataset, concept.target.groups) == ("validation", ["left of", "above"])
    assert (concept.baseline.dataset, concept.baseline.without) == ("validation", ["left of", "above"])
    assert config.lexical.prompts == [
        "Describe this image.",
        "What do you see?",
        "Tell me about this picture.",
    ]
    assert [one.dictionaries for one in config.evaluation] == [["base", "null_text"], ["base", "adapted"]]
    assert [one.model for one in config.evaluation] == ["base_lm", "vlm"]
    assert config.ablation.concepts == ["space"]
    assert (config.ablation.rank_on.target, config.ablation.report_on.control) == (
        "space_validation",
        "general_test",
    )
    assert (config.heads.dataset, config.heads.head_means.dataset) == (
        "space_validation",
        "general_validation",
    )
    assert config.heads.report_on == config.ablation.report_on
    assert config.steering is None


def test_parts_of_photos_share_no_photo_and_hold_each_group_alike(here):
    config = load()
    counts = {name: config.datasets[name].samples for name in config.datasets}
    # 30 photos of four questions, two of them about space: 40, 20, 20 and 20 % of the photos.
    assert (counts["photos"], counts["train"], counts["validation"], counts["test"]) == (120, 48, 24, 24)
    assert (counts["text_train"], counts["text_null"], counts["text_validation"]) == (48, 24, 24)
    assert counts["space_test"] == counts["general_test"] == counts["space_validation"] == 12
    assert not config.datasets["text_null"].images and config.datasets["train"].images


def test_text_of_its_own_takes_the_place_of_the_questions(here):
    lines = [f"document {i} " + "has words and more words " * (2 + i % 3) for i in range(50)]
    (here / "corpus.txt").write_text("\n".join([*lines, "too short", ""]))
    config = load(data={"photos": "photos", "text": "corpus.txt"})
    text = config.datasets["text"]
    assert (text.kind, text.source, text.samples) == ("text", "corpus.txt", 50)
    assert config.datasets["photos"].parts.shares() == {
        "train": 0.6,
        "null": 0,
        "validation": 0.2,
        "test": 0.2,
    }
    assert config.datasets["text_null"].of == "text" and config.datasets["text_null"].samples == 10
    assert config.datasets["train"].samples == 72
    # The mean of 12, 17 and 22 words, times 1.4.
    assert text.text_tokens == round(1.4 * (17 * 12 + 17 * 17 + 16 * 22) / 50)


def test_steps_follow_from_tokens_and_are_equal_where_dictionaries_are_compared(here):
    small = load()
    steps = {name: one.steps for name, one in small.dictionaries.items()}
    assert steps == {"base": 500, "adapted": 200, "null_text": 200}
    values = minimal(datasets={"photos": {"text_tokens": 30_000}})
    many = load_config(values, name="mine")
    # 120 samples of 30,000 tokens, 40 % of them, in steps of 1,024: three passes, and one.
    assert many.dictionaries["base"].steps == -(-3 * 120 * 30_000 * 4 // 10 // 1024)
    assert many.dictionaries["adapted"].steps == many.dictionaries["null_text"].steps == 1407
    # 2e-4 at 16,384 features and more for fewer, with three digits.
    assert {one.learning_rate for one in small.dictionaries.values()} == {0.00131}


def test_what_the_user_says_wins_key_by_key(here):
    config = load(
        experiment="other",
        layers=[3],
        architecture={"d_sae": 96, "k": 4},
        dictionaries={"base": {"steps": 77}, "null_text": {"steps": 50}, "adapted": {"steps": 50}},
        diff={"eps": 0.5},
        ablation={"candidates": 40},
        heads={"features": 2},
        evaluation=[],
    )
    assert (config.experiment, config.layers, config.architecture.d_sae) == ("other", [3], 96)
    assert (config.dictionaries["base"].steps, config.dictionaries["base"].dataset) == (77, "text_train")
    assert config.diff.eps == 0.5 and config.diff.text_datasets == ["text_validation"]
    assert config.ablation.candidates == 40 and config.ablation.report_on.target == "space_test"
    assert config.heads.features == 2 and config.heads.concepts == ["space"]
    assert config.evaluation == []


@pytest.mark.parametrize(
    ("left_out", "absent"), [({"heads": "none"}, ["heads"]), ({"ablation": "none"}, ["ablation", "heads"])]
)
def test_a_stage_that_is_left_out_is_not_derived(here, left_out, absent):
    config = load(**left_out)
    assert [key for key in ("ablation", "heads") if getattr(config, key) is None] == absent


def test_open_answers_are_not_scored(here):
    file = here / "photos" / "samples.csv"
    header, *rows = [line.split(",") for line in file.read_text().splitlines()]
    # Of every third photo the first question is open: it is one about space.
    some = [[*cells[:3], "" if i % 12 == 0 else cells[3], cells[4]] for i, cells in enumerate(rows)]
    file.write_text("\n".join(map(",".join, [header, *some])))
    config = load()
    assert (
        config.data.note()
        == "data: 10 of 120 samples in photos lack `choices` or `answer`: they are not scored"
    )
    parts = [name for name in config.datasets if name.startswith("space_")]
    assert 0 < 24 - sum(config.datasets[name].samples for name in parts) <= 10
    assert config.datasets["general_test"].samples == 12 and config.datasets["test"].samples == 24
    assert config.ablation.report_on.target == "space_test"


def test_a_first_concept_without_groups_has_no_control_and_the_plan_says_so(here):
    told = (
        "concepts.grounded: ablation and heads are left out; they need `groups`, of which all others are the"
    )
    config = load(concepts={"grounded": {"contrast": "text_matched"}})
    assert config.ablation is None and config.heads is None and told in plan(config)
    some = load(concepts={"grounded": {"contrast": "text_matched", "groups": ["left of"]}})
    assert some.ablation is not None and "control" not in plan(some)


def test_without_any_choices_ablation_and_heads_are_left_out(here):
    file = here / "photos" / "samples.csv"
    rows = [line.split(",") for line in file.read_text().splitlines()]
    file.write_text("\n".join(",".join(cells[:3] + cells[4:]) for cells in rows))
    config = load()
    assert config.ablation is None and config.heads is None
    assert config.concepts["space"].target.dataset == "validation"
    assert config.data.note().endswith("ablation and heads are left out")
    assert "ablation and heads are left out" in plan(config)
    # Who asks for it is told what is missing.
    assert "with `choices` and `answer`" in refused(ablation={"candidates": 20})


def test_stages_are_derived_without_data_too():
    values = yaml.safe_load((Path(__file__).parents[2] / "config" / "config.yaml").read_text())
    whole = load_config(values)
    for key in ("heads", "evaluation"):
        values.pop(key)
    values["diff"].pop("visual_datasets")
    config = load_config(values)
    assert config.heads.dataset == whole.heads.dataset and config.heads.report_on == whole.ablation.report_on
    assert config.heads.head_means.dataset == whole.ablation.rank_on.control
    assert config.evaluation[0] == whole.evaluation[0]
    # Target and baseline of every concept, in order.
    assert config.diff.visual_datasets == ["spatial_val", "general_val", "truth_val"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"data": "photo"},
            ["data.photos: found 'photo', but there is no folder photo in /", "; did you mean photos?"],
        ),
        (
            {"data": "."},
            [
                "data.photos: found '.', but there is no samples.jsonl or samples.csv in it; the folder ",
                "holds alike.txt, few.jsonl, other.jsonl: write few.jsonl, or rename it to samples.jsonl",
            ],
        ),
        (
            {"data": "checkpoints"},
            ["no samples.jsonl or samples.csv in it; write one (docs/understand/formats.md)"],
        ),
        ({"data": "hub:a/photos"}, ["data.photos: found 'hub:a/photos', expected a folder on this machine"]),
        ({"data": {"photo": "photos"}}, ["data.photo: unknown key; did you mean `photos`?"]),
        (
            {"data": {"photos": "photos", "text": "corpus.pdf"}},
            ["data.text: found 'corpus.pdf', but there is no corpus.pdf in ", "correct the path"],
        ),
        (
            {"data": {"photos": "photos", "text": "alike.txt"}},
            [
                "data.text: found 40 documents of at least 8 words in alike.txt, 1 of them different",
                "expected some for each of train, null, validation",
            ],
        ),
        (
            {"data": {"photos": "photos", "text": "few.jsonl"}},
            ["data.text: found 6 documents of at least 8 words in few.jsonl, 3 of them different"],
        ),
        (
            {"data": {"photos": "photos", "text": "other.jsonl"}},
            ["data.text: other.jsonl: line 1: no column 'text', found ['document']; set `column`"],
        ),
        ({"data": 3}, ["data", "folder of photos"]),
        ({"models": {"base_lm": {"path": "checkpoints/base"}}}, ["models", "found none", "sees"]),
        ({"models": {"vlm": {"path": "checkpoints/vlm"}}}, ["models", "found none", "text alone"]),
        (
            {"models": {"base_lm": {"path": "checkpoints/bsae"}, "vlm": {"path": "checkpoints/vlm"}}},
            ["models.base_lm.family", "did you mean checkpoints/base?"],
        ),
        (
            {"models": {"base_lm": {"path": "checkpoints/vlm"}, "vlm": {"path": "checkpoints/base"}}},
            ["models.base_lm: found a model of family 'llava'", "text alone"],
        ),
        ({"data": "~/photos"}, ["data.photos", "write the whole path"]),
        (
            {"data": {"photos": "photos", "on_missing": "skip"}},
            ["data.on_missing: it is a key of a data set: write `datasets: { photos: { on_missing: … } }`"],
        ),
        (
            {"concepts": {"c": {"groups": "colour"}}},
            ["found 'colour', expected a list of groups; write [colour]"],
        ),
        ({"concepts": {"c": {"groups": [7]}}}, ["concepts.c.groups: found 7, expected text"]),
        (
            {"concepts": {"c": {"groups": ["colour"], "target": {"dataset": "test"}}}},
            ["concepts.c.groups", "`target`"],
        ),
        (
            {"concepts": {"c": {"groups": ["color"]}}},
            ["concepts.c.groups: found 'color', expected some of above, colour", "did you mean 'colour'?"],
        ),
    ],
)
def test_what_cannot_be_derived_is_told_by_key(here, changes, words):
    (here / "alike.txt").write_text("a line of as many words as are needed\n" * 40 + "too short\n" * 9)
    texts = [f"{word} is one of the words of this text" for word in ("red", "green", "blue")]
    (here / "few.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts * 2))
    (here / "other.jsonl").write_text(json.dumps({"document": texts[0]}) + "\n")
    message = refused(**changes)
    assert len(message.splitlines()) == 2
    for word in words:
        assert word in message


# What is written wrong in one place, and the one line that is said of it.
WRITTEN_WRONG = {
    "a section": (
        {"concept": {"space": {"groups": ["colour"]}}},
        "concept: unknown key; did you mean `concepts`?",
    ),
    "the models": ({"Model": {}}, "Model: unknown key; did you mean `models`?"),
    "a key that is needed": (
        {"models": minimal()["models"] | {"vlm": {"pth": "checkpoints/vlm"}}},
        "models.vlm.pth: unknown key; did you mean `path`? (found: 'checkpoints/vlm')",
    ),
    "a key of one kind": (
        {"datasets": {"more": {"kind": "text", "source": "a", "samples": 9, "word": 5}}},
        "datasets.more.word: unknown key; did you mean `words`? (found: 5)",
    ),
    "a concept": (
        {"concepts": {"my space": {"groups": ["colour"]}}},
        "concepts: found the name 'my space', ",
    ),
    "a dictionary": ({"dictionaries": {None: {}}}, "dictionaries: found the key null, which YAML reads as "),
    "a data set": (
        {"datasets": {True: {}}},
        "datasets: found the key true, yes or on, which YAML reads as a ",
    ),
    "no text": ({None: 3}, "found the key null, which YAML reads as nothing, expected keys that are text"),
    "a control": ({"world": {"controls": {"7": "continued_text"}}}, "world.controls: found the name '7', "),
    "what others are derived from": (
        {"dictionaries": {"adapted": {"steps": 0}}},
        "dictionaries.adapted.steps: Input should be greater than or equal to 1 (found: 0)",
    ),
}


@pytest.mark.parametrize("what", WRITTEN_WRONG)
def test_what_is_written_wrong_is_told_in_one_line(here, what):
    changes, said = WRITTEN_WRONG[what]
    values = minimal() | copy.deepcopy(changes)
    if what in ("a section", "the models"):
        values.pop("concepts" if what == "a section" else "models")
    with pytest.raises(ConfigError) as error:
        load_config(values, name="mine")
    _, line = str(error.value).splitlines()
    assert line.startswith(f"  {said}")


def test_a_name_is_told_with_the_line_in_which_it_stands_and_what_to_call_it(here):
    (here / "mine.yaml").write_text(MINIMAL.replace("space", "my space"))
    layers = read_layers({}, [here / "mine.yaml"])
    with pytest.raises(ConfigError, match=r"call it my_space \(in mine.yaml, line 7\)$"):
        load_config(layers.values, layers.where, "mine")


def test_a_concept_of_too_few_photos_is_told_by_its_groups(here):
    rows = (here / "photos" / "samples.csv").read_text().splitlines()
    kept = [row for i, row in enumerate(rows) if i < 3 or "left of" not in row]
    (here / "photos" / "samples.csv").write_text("\n".join(kept))
    message = refused(concepts={"side": {"groups": ["left of"]}})
    assert "concepts.side.groups: found no sample of 'photos' in part " in message
    assert "datasets.side" not in message


BOTH = "'left of', 'above'"
# How many photos, of how many the questions about `left of` are kept (None: of all), concept, what is said.
TOO_FEW = {
    "six": (
        6, None, ["left of", "above"],
        f"found 6 photos, of which part 'validation' (20% of them) has 1 with {BOTH}, 1 without {BOTH}; "
        f"part 'test' (20% of them) has 1 with {BOTH}, 1 without {BOTH}; expected at least 2 of each: "
        "nothing can be tested with fewer; add photos (10 in all, or more), or change",
    ),
    "a rare group": (
        30, 4, ["left of"],
        "found 30 photos, of which part 'validation' (20% of them) has 1 with 'left of'; part 'test' (20% of "
        "them) has 1 with 'left of'; expected at least 2 of each: nothing can be tested with fewer; add such "
        "photos, or change",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_FEW)
def test_too_few_photos_are_told_in_one_line_of_the_photos(here, name):
    photos, kept, groups, said = TOO_FEW[name]
    file = own_photos.write_photos(here / "some", photos=photos) / "samples.csv"
    rows = file.read_text().splitlines()
    if kept is not None:
        rows = [row for i, row in enumerate(rows) if i <= 4 * kept or not row.endswith("left of")]
    file.write_text("\n".join(rows))
    config = load(data="some", concepts={"space": {"groups": groups}})
    told = [line for line in data_problems(config) if "chat template" not in line]
    assert len(told) == 1 and told[0].startswith(f"data.photos: {said}"), told


def told_of(here: Path, rows: list[str]) -> list[str]:
    """Return what is told of some questions about the photos in `some`."""
    (here / "some" / "samples.csv").write_text("\n".join(rows))
    config = load(data="some", concepts={"space": {"groups": ["left of", "above"]}})
    return [line for line in data_problems(config) if "chat template" not in line]


def test_photos_that_show_a_concept_or_do_not_are_what_is_assigned(here):
    """Two and two can be assigned in 6 ways, three and three in 20, which is what an fdr of 0.05 takes.

    Where both sides ask about two photos, two questions each, the questions are: four and four in 70 ways.
    """
    header, *rows = (
        (own_photos.write_photos(here / "some", photos=20) / "samples.csv").read_text().splitlines()
    )
    photos = [rows[i : i + 4] for i in range(0, len(rows), 4)]
    apart = [row for i, four in enumerate(photos) for row in (four[:2] if i % 2 else four[2:])]
    (told,) = told_of(here, [header, *apart])
    assert told.startswith(
        f"data.photos: found 20 photos, of which part 'validation' (20% of them) has 2 with {BOTH}, 2 "
        f"without {BOTH}; expected at least 3 of each: nothing can be tested with fewer; add such photos, or "
        "change"
    )
    assert told_of(here, [header, *sum(photos[:10], [])]) == []


def test_too_few_samples_of_the_users_own_choice_are_told_by_their_key(here):
    told = [line for line in data_problems(load(ablation={"rank_on": {"samples": 1}})) if "chat" not in line]
    assert told[0].startswith("ablation.rank_on.target: found 1 image") and "raise `samples`" in told[0]
    assert not any(line.startswith("data.") for line in told)


def test_fewer_photos_than_parts_are_refused(here):
    own_photos.write_photos(here / "some", photos=3)
    assert "data.photos: found 3 photos in some/samples.csv, which leave none for the part null;" in refused(
        data="some"
    )


def test_two_models_that_see_need_a_name(here):
    models = minimal()["models"]
    named = load(models={**models, "second": {"path": "checkpoints/vlm"}})
    assert named.diff.model == "vlm"
    message = refused(models={"base_lm": models["base_lm"], "one": models["vlm"], "two": models["vlm"]})
    assert "found one, two" in message and "name it `vlm`" in message


def test_groups_without_data_need_a_target():
    values = yaml.safe_load((Path(__file__).parents[2] / "config" / "config.yaml").read_text())
    values["concepts"]["counting"] = {"groups": ["count"]}
    with pytest.raises(ConfigError, match=r"concepts\.counting.*found without `data`"):
        load_config(values)


def test_a_published_base_is_no_training(here):
    base = {"source": "hub:someone/saes@main", "format": "llama_scope", "file": "layer_{layer}"}
    config = load(dictionaries={"base": base})
    assert config.dictionaries["base"].source == "hub:someone/saes@main"
    assert config.dictionaries["adapted"].initial == "base"


def test_what_is_given_is_not_changed(here):
    values = with_family(minimal())
    before = copy.deepcopy(values)
    found = derive(values, "mine")
    assert values == before
    assert found["datasets"]["train"] == {"kind": "subset", "of": "photos", "part": "train"}


def test_the_written_configuration_is_the_same_experiment(here):
    config = load()
    assert "groups" not in config.concepts["space"].params()
    again = load_config(config.model_dump(mode="json"))
    assert again.model_dump() == config.model_dump()


def test_the_name_of_the_file_becomes_one_of_a_folder(here):
    assert load("my photos (1)").experiment == "my_photos_1"
    assert "experiment: Field required" in refused_without_a_name()


def refused_without_a_name() -> str:
    """Return why a configuration is refused that nothing names."""
    with pytest.raises(ConfigError) as error:
        load_config(minimal())
    return str(error.value)


@pytest.mark.parametrize("name", ["text", "general", "c" * 60])
def test_names_of_concepts_do_not_meet_those_of_derived_data_sets(here, name):
    config = load(concepts={name: {"groups": ["colour"]}})
    target, control = config.ablation.report_on.target, config.ablation.report_on.control
    assert config.datasets[target].groups == ["colour"] and config.datasets[control].without == ["colour"]
    text = config.datasets["text_validation"]
    assert (text.groups, text.images, text.samples) == (None, False, 24)


def test_the_concept_that_is_ablated_is_the_one_whose_questions_are_asked(here):
    concepts = minimal()["concepts"] | {"hue": {"groups": ["colour"]}}
    config = load(concepts=concepts, ablation={"concepts": ["hue"]})
    assert config.ablation.rank_on.target == config.heads.dataset == "hue_validation"
    assert config.datasets["hue_test"].groups == ["colour"]
    assert config.datasets[config.ablation.report_on.control].without == ["colour"]
    traced = load(concepts=concepts, heads={"concepts": ["hue"]})
    assert traced.ablation.report_on.target == "space_test"
    assert (traced.heads.dataset, traced.heads.report_on.target) == ("hue_validation", "hue_test")
    assert traced.datasets[traced.heads.report_on.control].without == ["colour"]


def test_parts_follow_what_is_said_of_the_corpus(here):
    (here / "corpus.txt").write_text(
        "\n".join(f"a line {i} of at least eight words or so" for i in range(100))
    )
    shares = {"train": 0.9, "null": 0.05, "validation": 0.05}
    data = {"photos": "photos", "text": "corpus.txt"}
    config = load(data=data, datasets={"text": {"parts": shares}})
    assert [config.datasets[f"text_{part}"].samples for part in shares] == [90, 5, 5]
    fewer = load(data=data, datasets={"text": {"samples": 10}})
    assert [fewer.datasets[f"text_{part}"].samples for part in shares] == [6, 2, 2]


def test_shares_and_entries_of_another_kind_stand_for_themselves(here):
    shares = {"train": 0.5, "null": 0.1, "validation": 0.2, "test": 0.2}
    assert load(datasets={"photos": {"parts": shares}}).datasets["photos"].parts.shares() == shares
    own_photos.write_photos(here / "others", photos=10, seed=5)
    config = load(datasets={"validation": {"path": "others"}})
    assert (config.datasets["validation"].kind, config.datasets["validation"].samples) == ("folder", 40)


def test_a_shape_is_filled_in_key_by_key(here):
    assert load(architecture={"k": 4}).architecture.d_sae == 8 * WIDTH
    assert load(architecture={"kind": "jumprelu"}).dictionaries["base"].learning_rate == 0.00131


def test_the_null_follows_the_adapted_dictionary(here):
    config = load(dictionaries={"adapted": {"steps": 5, "schedule": "constant"}})
    assert [(one.steps, one.schedule) for one in config.dictionaries.values()][1:] == [(5, "constant")] * 2
    assert config.dictionaries["base"].steps == 500
    some = load(dictionaries={"adapted": {"dataset": {"dataset": "train", "groups": ["count"]}}})
    assert some.dictionaries["null_text"].steps == some.dictionaries["adapted"].steps == 200


def test_ranking_on_what_is_reported_is_refused_through_subsets_too(here):
    test = {"dataset": "test", "groups": ["left of"]}
    message = refused(
        ablation={"rank_on": {"target": test, "control": {"dataset": "test", "groups": ["count"]}}}
    )
    assert "both take samples of" in message


def test_a_part_of_a_subset_names_its_source(here):
    datasets = {
        "left": {"kind": "subset", "of": "photos", "groups": ["left of"]},
        "left_test": {"kind": "subset", "of": "left", "part": "test"},
    }
    message = refused(datasets=datasets)
    assert "datasets.left_test.part: found 'test' of 'left'" in message and "`of: photos`" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"datasets": {"photos": {"parts": {"train": float("inf")}}}},
        {"datasets": {"photos": {"samples": 10**400}}},
        {"dictionaries": {"base": {"batch_tokens": 10**400}}},
        {"datasets": {"text_train": {"part": []}}},
        {"diff": {"adapted": []}},
    ],
)
def test_values_of_no_kind_are_told_by_the_schema(here, changes):
    assert refused(**changes).startswith("The configuration is not valid")
