"""What is inherited and cannot go with `data` is told at once, with the text to paste; nothing else is."""

from __future__ import annotations

from pathlib import Path

import own_photos
import pytest
from local_experiment import LM, VLM, write_checkpoint

from vlmdiff.config.layers import Layers, read_layers
from vlmdiff.config.load import ConfigError, load_config

CONFIGS = Path(__file__).parents[2] / "config"
MODELS = "models: { EXTENDS base_lm: { path: base }, vlm: { path: vlm } }\n"
CONCEPTS = "concepts: { EXTENDS space: { groups: [left of, above], lexical: false } }\n"
MINE = "extends: config.yaml\nexperiment: mine\ndata: photos\n" + MODELS + CONCEPTS
INSTEAD = "extends: false,"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with two checkpoints and photos, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "base", LM, processor=False)
    write_checkpoint(tmp_path / "vlm", VLM)
    own_photos.write_photos(tmp_path / "photos", photos=40)
    return tmp_path


def read(text: str, *settings: str) -> Layers:
    """Read a config of this folder."""
    Path("mine.yaml").write_text(text.replace("EXTENDS", ""))
    return read_layers({}, ["mine.yaml"], settings, home=CONFIGS)


def refused(text: str, *settings: str) -> str:
    """Return why a config of this folder is refused."""
    with pytest.raises(ConfigError) as error:
        read(text, *settings)
    return str(error.value)


def test_the_worlds_sections_are_told_at_once():
    first, *lines = refused(MINE).split("\n")
    assert first == (
        "data: found with `world`, `models`, `dictionaries`, `evaluation`, `diff`, `comparisons`, "
        "`scoreboard`, `stages`, `concepts`, `ablation`, `heads` and `steering` of "
        f"{CONFIGS / 'config.yaml'}, which name other data, expected none of them (in mine.yaml, line 3); "
        "write `extends: false` into `models` and `concepts`; paste these lines next to `data`:"
    )
    cleared = ("world", "dictionaries", "evaluation", "diff", "comparisons", "scoreboard", "stages")
    assert lines == [f"    {name}: ~" for name in (*cleared, "ablation", "heads", "steering")]


def test_what_is_told_to_paste_is_enough():
    pasted = "".join(f"{line.strip()}\n" for line in refused(MINE).split("\n")[1:])
    config = load_config(read(MINE.replace("EXTENDS", INSTEAD) + "layers: [1]\n" + pasted).values)
    assert set(config.dictionaries) == {"base", "adapted", "null_text"}
    assert set(config.models) == {"base_lm", "vlm"} and set(config.concepts) == {"space"}
    assert config.world is None and config.comparisons == {} and config.steering is None
    assert config.diff.null_check is None and config.diff.visual_datasets == ["validation"]
    # What names no data is inherited.
    assert config.seeds == 3 and config.architecture.d_sae == 1024


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_what_is_told_to_paste_over_a_ready_config_loads(name):
    text = f"extends: {name}\nexperiment: mine\ndata: photos\n" + CONCEPTS.replace("EXTENDS", INSTEAD)
    pasted = "".join(f"{line.strip()}\n" for line in refused(text).split("\n")[1:])
    layers = read(text + pasted)
    config = load_config(layers.values)
    assert {"base", "adapted", "null_text"} <= set(config.dictionaries)
    assert config.trained().keys() <= {"base", "adapted", "null_text"}
    assert config.dictionaries["adapted"].dataset == "train" and config.diff.visual_datasets == ["validation"]
    published = "source" in layers.values.get("dictionaries", {}).get("base", {})
    assert (
        published
        == (not name.startswith(("config", "second_world", "smolvlm", "smollm2")))
        == (config.trained().keys() == {"adapted", "null_text"})
    )


@pytest.mark.parametrize(
    ("below", "above"),
    [
        ("comparisons: { a: { eps: 0.1 }, b: { adapted: x } }", "comparisons: { b: ~ }"),
        (
            "dictionaries: { adapted: { dataset: x }, base: { steps: 9 } }",
            "dictionaries: { adapted: { dataset: train } }",
        ),
        ("heads: { report_on: { target: x, samples: 9 } }", "heads: { report_on: { target: test } }"),
        ("heads: { report_on: { target: x, samples: 9 } }", "heads: { extends: false, features: 3 }"),
    ],
)
def test_what_is_left_out_or_said_again_is_not_inherited(below, above):
    Path("parent.yaml").write_text(below)
    assert refused("extends: parent.yaml\ndata: photos\n")
    assert read(f"extends: parent.yaml\ndata: photos\n{above}\n").values["data"] == "photos"


def test_what_is_left_after_another_key_is_said_again_is_told():
    Path("parent.yaml").write_text("comparisons: { a: { eps: 0.1 }, b: { adapted: x } }")
    said = refused("extends: parent.yaml\ndata: photos\ncomparisons: { a: { eps: 0.2 } }\n")
    assert said.endswith("write `extends: false` into `comparisons`")


def test_of_written_dictionaries_the_published_ones_are_kept():
    text = "extends: llava_more.yaml\nexperiment: mine\ndata: photos\n" + CONCEPTS.replace("EXTENDS", INSTEAD)
    text += "datasets: ~\nevaluation: ~\ndiff: ~\ncomparisons: ~\nablation: ~\nheads: ~\n"
    said = refused(text + "dictionaries: { adapted: { steps: 50 } }\n")
    assert said.endswith(
        "write `extends: false` into `dictionaries.adapted`; "
        "write `null_text: ~` and `adapted_untuned: ~` into `dictionaries`"
    )
    told = "dictionaries: { adapted: { extends: false, steps: 50 }, null_text: ~, adapted_untuned: ~ }\n"
    config = load_config(read(text + told).values)
    assert config.dictionaries["adapted"].steps == 50 and config.trained().keys() == {"adapted", "null_text"}


def test_published_dictionaries_are_kept():
    said = refused("extends: llava_more.yaml\nexperiment: mine\ndata: photos\n" + CONCEPTS)
    assert "\n    dictionaries: { adapted: ~, null_text: ~" in said and "base: ~" not in said
    assert "    datasets: ~" in said and "`models`" not in said
    assert "write `extends: false` into `concepts`; paste" in said


def test_the_command_line_is_a_layer_too():
    said = refused("extends: config.yaml\n", "data=photos")
    assert said.startswith("data: found with `dictionaries`, ") and "(on the command line)" in said


SETTINGS = """
ablation: { candidates: 50, headline: { size: 5 }, set_sizes: [5] }
dictionaries: { adapted: { snapshots: [50] } }
comparisons: { eps_low: { target: sensitivity, about: x, eps: 0.1 } }
lexical: { samples: 3 }
"""


def test_settings_that_name_no_data_are_inherited():
    Path("settings.yaml").write_text(SETTINGS)
    config = load_config(read(MINE.replace("config.yaml", "settings.yaml")).values)
    assert config.ablation.candidates == 50 and config.dictionaries["adapted"].snapshots == [50]
    assert set(config.comparisons) == {"eps_low"} and config.lexical.samples == 3


def test_a_config_with_data_is_extended_as_it_is():
    parent = MINE.replace("EXTENDS", "").removeprefix("extends: config.yaml\n")
    Path("parent.yaml").write_text(parent + "diff: { eps: 0.5, visual_datasets: [test] }\n")
    for text in ("extends: parent.yaml\nseeds: 2\n", "extends: parent.yaml\ndata: { photos: photos }\n"):
        assert read(text).values["diff"] == {"eps": 0.5, "visual_datasets": ["test"]}


def test_without_data_nothing_is_asked():
    assert read("extends: config.yaml\ndata: ~\n").values["experiment"] == "builtin"
