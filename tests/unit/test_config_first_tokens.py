"""Choices that no first token tells apart are told before anything runs, as the job would tell them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from local_experiment import SAMPLES, experiment, put, question, write_samples
from tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from vlmdiff.config import first_tokens
from vlmdiff.config.choices import AnswerError
from vlmdiff.config.first_tokens import FirstTokens, LightTokenizer, problem_of
from vlmdiff.config.load import load_config
from vlmdiff.data.local_data import data_problems
from vlmdiff.data.samples import Sample
from vlmdiff.interventions.answers import ChoiceScorer

# Whole words to some tokenizers, letters to others.
LISTS = [
    ("yes", "no"),
    ("two", "three"),
    ("one", "two", "three", "four"),
    ("1", "2", "3"),
    ("red", "blue", "green", "yellow"),
    ("left of", "left"),
    ("above", "below", "behind"),
    ("Yes", "yes"),
    ("left", "猫"),
]
TEXT = ["yes no red blue green left right Yes No Red Blue one two"] * 20


def byte_level(folder: Path) -> None:
    """As Qwen, Llama 3 and SmolVLM have it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)


def pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary of a tokenizer with a blank before words, and its merges."""
    merges = [("▁", "l"), ("▁l", "e"), ("▁le", "f"), ("▁lef", "t"), ("▁", "y"), ("▁y", "e"), ("▁ye", "s")]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz", *"LNRTY", *"0123456789"]
    tokens = ["<unk>", "<s>", "</s>", "<pad>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [*letters, *("".join(pair) for pair in merges)]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def with_prefix_space(folder: Path) -> None:
    """As Llama 2 and Mistral have it."""
    LlamaTokenizer(*pieces()).save_pretrained(folder)


def without_prefix_space(folder: Path) -> None:
    """As Gemma has it."""
    GemmaTokenizer(*pieces()).save_pretrained(folder)


def metaspace(folder: Path) -> None:
    """A tokenizer.json of older tools, whose unknown token is named in a file of its own."""
    vocabulary, merges = pieces()
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    values = json.loads(file.read_text())
    (folder / "special_tokens_map.json").write_text(json.dumps({"unk_token": values.pop("unk_token")}))
    file.write_text(json.dumps(values))


def word_level(folder: Path) -> None:
    """As the built-in world has it."""
    tiny_tokenizer().save_pretrained(folder)


KINDS = [byte_level, with_prefix_space, without_prefix_space, metaspace, word_level]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def checkpoint(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param.__name__)
    request.param(folder)
    return folder


def of_the_job(folder: Path, choices: tuple[str, ...]) -> str | None:
    """Return why a job refuses a question; None if it scores it."""
    asked = Sample(sample_id="s", prompt="p", answer=choices[0], choices=list(choices), group="g")
    try:
        ChoiceScorer(AutoTokenizer.from_pretrained(folder), [asked])
    except AnswerError as error:
        return str(error)
    return None


def test_the_light_tokenizer_says_what_the_job_says(checkpoint):
    light, told = LightTokenizer.of(checkpoint), FirstTokens(checkpoint)
    expected = {choices: of_the_job(checkpoint, choices) for choices in LISTS}
    assert {choices: problem_of(light, choices) for choices in LISTS} == expected
    assert {choices: told.problem(choices) for choices in LISTS} == expected
    assert len({problem is None for problem in expected.values()}) == 2


def test_only_what_the_job_would_refuse_is_told(checkpoint, monkeypatch):
    """A class of transformers may read a tokenizer.json in another way."""
    monkeypatch.setattr(LightTokenizer, "encode", lambda self, text, add_special_tokens: [7])
    told = FirstTokens(checkpoint)
    assert {one: told.problem(one) for one in LISTS} == {one: of_the_job(checkpoint, one) for one in LISTS}


def test_transformers_is_not_loaded_for_choices_that_differ(checkpoint):
    told = FirstTokens(checkpoint)
    assert told.problem(("yes", "no")) is None
    assert "whole" not in vars(told)


@pytest.fixture
def values(tmp_path) -> dict:
    """An experiment with a real tokenizer."""
    found = experiment(tmp_path)
    byte_level(tmp_path / "vlm")
    (tmp_path / "vlm" / "chat_template.jinja").write_text("{{ messages[0]['content'][-1]['text'] }}")
    return found


def ask(folder: Path, *lists: tuple[str, ...]) -> None:
    """Write other choices into the samples of a folder, the first ones again and again."""
    samples = [question(index) for index in range(SAMPLES)]
    for index, sample in enumerate(samples):
        choices = lists[index % len(lists)]
        sample |= {"choices": list(choices), "answer": choices[0]}
    write_samples(folder, samples)


USES = {
    "rank": "ablation.rank_on.target",
    "general": "ablation.rank_on.control",
    "test": "ablation.report_on.target",
    "general_test": "ablation.report_on.control",
}


@pytest.mark.parametrize("name", USES)
def test_choices_that_look_alike_are_told_of_every_data_set_that_is_asked(values, tmp_path, name):
    put(values, "held_out", {"shared_images": "keep"})
    assert data_problems(load_config(values)) == []
    ask(tmp_path / name, ("two", "three"), ("yes", "no"), ("four", "five"))
    (line,) = data_problems(load_config(values))
    assert line.startswith(
        f"{USES[name]}: found data set '{name}' ({tmp_path / name / 'samples.jsonl'}), of which 8 of 12 "
        f"samples, first 'q0', cannot be scored with the tokenizer of model 'vlm' ({tmp_path / 'vlm'}): "
        "choices 'two' and 'three' both begin with token "
    )
    assert "Reword one so that their first tokens differ" in line
    assert line.endswith("; 1 other lists of choices are wrong, too")


def test_the_same_choices_are_told_once(values, tmp_path):
    for name in USES:
        ask(tmp_path / name, ("two", "three"))
    assert len(data_problems(load_config(values))) == 1


def test_only_questions_that_are_asked_count(values, tmp_path):
    samples = [question(index) for index in range(SAMPLES)]
    samples[-1] |= {"choices": ["two", "three"], "answer": "two"}
    write_samples(tmp_path / "rank", samples)
    assert data_problems(load_config(values)) == []
    put(values, "ablation.rank_on.samples", SAMPLES)
    assert len(data_problems(load_config(values))) == 1


def test_steering_asks_its_own_model(values, tmp_path):
    shutil.copytree(tmp_path / "vlm", tmp_path / "steered")
    word_level(tmp_path / "steered")
    values["models"]["steered"] = {"path": str(tmp_path / "steered")}
    sets = {key: dict(values["ablation"][key]) for key in ("rank_on", "report_on")}
    sets["rank_on"]["control"] = "asked"
    values["datasets"]["asked"] = {"path": str(tmp_path / "asked"), "samples": SAMPLES}
    ask(tmp_path / "asked", ("left of", "left"))
    values["steering"] = {"concepts": ["space"], "model": "steered", **sets}
    lines = [line for line in data_problems(load_config(values)) if "first token" in line]
    assert [line.partition(":")[0] for line in lines] == ["steering.rank_on.control"]
    assert "model 'steered'" in lines[0]


@pytest.mark.parametrize("damage", ["missing", "cut", "no libraries"])
def test_what_cannot_be_read_here_is_left_to_the_job(values, tmp_path, monkeypatch, damage):
    ask(tmp_path / "rank", ("two", "three"))
    file = tmp_path / "vlm" / "tokenizer.json"
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_text(file.read_text()[:100])
    else:
        monkeypatch.setattr(first_tokens, "find_spec", lambda name: None)
    assert data_problems(load_config(values)) == []
