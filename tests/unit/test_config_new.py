"""A configuration is written after a look at checkpoints and photos, and refused where they do not fit."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import own_photos
import pytest
import tiny_llava_next
import yaml

from vlmdiff.config.load import load_config
from vlmdiff.config.local_checkpoints import checkpoint_problems, has_template
from vlmdiff.config.new import NewConfigError, arguments, new_config
from vlmdiff.data.local_data import data_problems

ROOT = Path(__file__).parents[2]
FILES = ["--base", "checkpoints/base", "--vlm", "checkpoints/vlm", "--data", "photos"]
LONGEST = 15


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two tiny checkpoints and 20 photos."""
    folder = tmp_path_factory.mktemp("own")
    own_photos.write_checkpoints(folder / "checkpoints")
    own_photos.write_photos(folder / "photos", photos=20)
    return folder


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """A fresh working directory with links to them."""
    for name in ("checkpoints", "photos"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(*further: str) -> str:
    """Write a configuration and return what is told."""
    return new_config(arguments().parse_args([*FILES, *further]))


def with_digits(folder: Path) -> str:
    """Write photos whose numbers are digits, which letters of a small vocabulary tell apart."""
    file = own_photos.write_photos(folder, photos=20) / "samples.csv"
    text = file.read_text()
    for digit, number in enumerate(own_photos.NUMBERS, 1):
        text = text.replace(number, str(digit))
    file.write_text(text)
    return str(folder)


def refused(*further: str) -> str:
    """Return why none is written."""
    with pytest.raises(NewConfigError) as error:
        write(*further)
    return str(error.value)


def test_what_is_written_is_short_and_is_taken(here):
    told = write("--groups", "left of, above")
    text = (here / "config" / "mine.yaml").read_text()
    assert len(text.splitlines()) <= LONGEST
    assert "causal_lm, 3 blocks of width 32" in text and "left of (20)" in text
    config = load_config(yaml.safe_load(text))
    assert config.experiment == "mine" and config.concepts["left_of_above"].groups == ["left of", "above"]
    # 20 photos of four questions: 40, 20 and 20 %.
    assert "80 samples (32 for train, 16 for validation, 16 for test)" in told and "0, 1, 2" in told
    first = text.splitlines()[0].partition("$schema=")[2]
    assert (here / "config" / first).resolve() == ROOT / "config" / "schema.json"


@pytest.mark.parametrize(
    ("kind", "family"),
    [("llava_next", "llava_next"), ("llava_onevision", "llava_next"), ("interleave", "llava")],
)
def test_kin_of_llava_are_recognised(here, kind, family):
    tiny_llava_next.build(here / "vlm", kind=kind)
    tiny_llava_next.build_lm(here / "base", seed=1, kind=kind)
    write("--base", "base", "--vlm", "vlm", "--data", with_digits(here / "digits"))
    text = (here / "config" / "mine.yaml").read_text()
    assert "causal_lm, 2 blocks of width 32" in text and f"{family}, 2 blocks of width 32" in text
    config = load_config(yaml.safe_load(text))
    assert [config.models[name].family for name in ("base_lm", "vlm")] == ["causal_lm", family]
    assert checkpoint_problems(config) == []
    assert has_template(config.models["vlm"]) is True


def test_nothing_is_written_over(here):
    write()
    before = (here / "config" / "mine.yaml").read_bytes()
    message = refused()
    assert "is there already" in message and "OUT=config/other.yaml" in message and "--out" in message
    assert (here / "config" / "mine.yaml").read_bytes() == before


def test_paths_that_yaml_reads_as_something_else_are_quoted(here):
    (here / "no").symlink_to(here / "photos")
    write("--data", "no", "--out", "2026 first: try.yaml")
    values = yaml.safe_load(Path("2026 first: try.yaml").read_text())
    assert values["data"] == "no" and values["experiment"] == "2026_first_try"


@pytest.mark.parametrize(
    ("further", "words"),
    [
        (("--base", "checkpoints/vlm"), ["checkpoints/vlm", "family llava", "a language model (--base)"]),
        (("--vlm", "checkpoints/base"), ["checkpoints/base", "a vision-language model (--vlm)"]),
        (("--vlm", "checkpoints"), ["checkpoints: found no config.json"]),
        (("--data", "nothing"), ["nothing"]),
        (("--groups", "left"), ["--groups: found left", "left of"]),
        (("--text", "corpus.txt"), ["data.text", "corpus.txt"]),
    ],
)
def test_files_that_do_not_fit_are_told(here, further, words):
    message = refused(*further)
    for word in words:
        assert word in message
    assert not (here / "config").exists()


def test_choices_that_no_first_token_tells_apart_are_told(here):
    file = own_photos.write_photos(here / "alike", photos=20) / "samples.csv"
    file.write_text(file.read_text().replace("two", "left one").replace("three", "left two"))
    message = refused("--data", "alike")
    assert "choices 'left one' and 'left two' both begin with token" in message
    assert "of model 'vlm' (checkpoints/vlm)" in message and "(alike)" in message
    assert not (here / "config").exists()


def test_a_base_without_a_chat_template_reads_raw_text(here):
    tiny_llava_next.build_lm(here / "base", seed=1)
    tiny_llava_next.build(here / "vlm")
    (here / "base" / "chat_template.jinja").unlink(missing_ok=True)
    write("--base", "base", "--vlm", "vlm", "--data", with_digits(here / "digits"))
    text = (here / "config" / "mine.yaml").read_text()
    assert (
        "{path: base, chat: false} # causal_lm, 2 blocks of width 32; no chat template: it reads raw" in text
    )
    config = load_config(yaml.safe_load(text))
    assert [config.models[name].chat for name in ("base_lm", "vlm")] == [False, True]
    assert data_problems(config) == []


def test_one_group_is_no_concept(here):
    photos = here / "alike"
    photos.mkdir()
    (photos / "samples.jsonl").write_text(json.dumps({"prompt": "what is it ?", "group": "thing"}) + "\n")
    assert "found one group, 'thing'" in refused("--data", "alike")


def test_open_answers_are_told(here):
    file = own_photos.write_photos(here / "open", photos=20) / "samples.csv"
    rows = [line.split(",") for line in file.read_text().splitlines()]
    some = [[*cells[:3], "" if i in (3, 9) else cells[3], cells[4]] for i, cells in enumerate(rows)]
    file.write_text("\n".join(map(",".join, some)))
    assert "2 of 80 samples in open lack `choices` or `answer`: they are not scored" in write(
        "--data", "open"
    )
    file.write_text("\n".join(",".join(cells[:3] + cells[4:]) for cells in rows))
    assert "80 of 80" in (told := write("--data", "open", "--out", "other.yaml"))
    assert "ablation and heads are left out" in told


def test_a_concept_leaves_groups_to_compare_with(here):
    assert "found all groups" in refused("--groups", "left of,above,colour,count")


def test_a_hub_source_needs_a_config_written_by_hand(here):
    assert "by hand" in refused("--base", "hub:someone/model@main")


def test_what_is_not_named_is_told_with_the_usage(here):
    with pytest.raises(NewConfigError, match=r"--vlm: found nothing.*usage: python -m vlmdiff\.config\.new"):
        new_config(arguments().parse_args([*FILES, "--vlm", ""]))


def test_the_command_says_what_is_wrong_in_one_line(here):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow_scripts")}
    command = [sys.executable, "-m", "vlmdiff.config.new", *FILES, "--groups", "nobody"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1 and run.stdout == "" and len(run.stderr.splitlines()) == 1


def test_make_names_another_file(here):
    """A folder or a file with blanks is one word to the shell."""
    command = ["make", "-n", "-o", ".venv/installed", "new", "BASE=b", "VLM=v", "DATA=my photos"]
    for further, expected in (([], []), (["OUT=config/my other.yaml"], ["--out", "config/my other.yaml"])):
        run = subprocess.run([*command, *further], cwd=ROOT, capture_output=True, text=True, check=True)
        words = shlex.split(run.stdout)
        said = ["--base", "b", "--vlm", "v", "--data", "my photos", *expected]
        assert [one for one in words[words.index("--base") :] if one.strip()] == said
