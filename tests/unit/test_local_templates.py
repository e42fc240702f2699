"""Chat templates at hand that cannot write a question are told before anything runs, as jobs tell it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from local_experiment import SAMPLES, TEMPLATE, document, experiment, write_samples
from tiny_models import tiny_tokenizer

from vlmdiff.config.load import load_config
from vlmdiff.data import local_templates
from vlmdiff.data.local_data import data_problems

PLAIN = "{{ bos_token + messages[0]['content'] }}"
COUNTING = "{% set seen = namespace(n=0) %}{% for one in messages %}{% set seen.n = seen.n + 1 %}{% endfor %}"
MARKED = "{% generation %}" + TEMPLATE + "{% endgeneration %}"
DATED = "{{ strftime_now('%d %b %Y') }}" + TEMPLATE
# What each writes of a plain text or of the parts that a language model is asked in, and of a picture's.
FINE = {"plain": PLAIN, "parts": TEMPLATE, "counting": COUNTING + TEMPLATE, "marked": MARKED, "dated": DATED}
BAD = {
    "a role": ("{{ messages[0]['role'] }}", "ValueError: it wrote 'user', expected a text with the question"),
    "a refusal": ("{{ raise_exception('ask me nothing') }}", "TemplateError: ask me nothing"),
    "damage": ("{% for one in messages %}", "TemplateSyntaxError"),
    "Python's own": ("{{ messages.__class__.__mro__ }}", "SecurityError"),
}


@pytest.fixture
def values(tmp_path) -> dict:
    """An experiment with tokenizers, whose language model is asked questions."""
    found = experiment(tmp_path)
    for name in ("lm", "vlm"):
        tiny_tokenizer().save_pretrained(tmp_path / name)
        put_template(tmp_path / name, TEMPLATE)
    for name in ("text", "more_text"):
        write_samples(tmp_path / name, [document(index) | {"chat": True} for index in range(SAMPLES)])
    return found


def put_template(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)


def problems(values: dict) -> list[str]:
    return data_problems(load_config(values))


@pytest.fixture
def no_sandbox(monkeypatch):
    """Let the sandbox of transformers be the one that tells."""
    monkeypatch.setattr(local_templates, "is_written", lambda model: False)


@pytest.mark.parametrize("name", FINE)
def test_templates_that_write_the_question_are_taken(values, tmp_path, name):
    put_template(tmp_path / "lm", FINE[name])
    assert problems(values) == []


@pytest.mark.parametrize("name", FINE)
def test_so_they_are_by_the_sandbox_of_jobs(values, tmp_path, name, no_sandbox):
    put_template(tmp_path / "lm", FINE[name])
    assert problems(values) == []


@pytest.mark.parametrize("name", BAD)
def test_templates_that_write_none_are_told(values, tmp_path, name):
    template, said = BAD[name]
    put_template(tmp_path / "lm", template)
    (line,) = problems(values)
    assert line.startswith(
        "models.lm.chat: the model is shown data set 'more_text', whose samples have `chat: true`, but its "
        "chat template cannot write a question ("
    )
    assert said in line and line.endswith("models.lm.chat: false if the model was trained on raw text alone")
    values["models"]["lm"]["chat"] = False
    assert problems(values) == []


def test_a_vlm_is_asked_in_parts_alone(values, tmp_path):
    put_template(tmp_path / "vlm", PLAIN)
    (line,) = problems(values)
    assert line.startswith("models.vlm.chat: the model is shown data set 'general'")


@pytest.mark.parametrize("name", ["plain", "parts", "counting", "marked", "dated"])
def test_the_light_sandbox_writes_what_is_plain(values, tmp_path, name):
    put_template(tmp_path / "lm", FINE[name])
    assert local_templates.is_written(load_config(values).models["lm"])


@pytest.mark.parametrize("place", ["chat_template.json", "processor_config.json", "tokenizer_config.json"])
def test_templates_in_json_are_looked_at(values, tmp_path, place):
    (tmp_path / "lm" / "chat_template.jinja").unlink()
    file = tmp_path / "lm" / place
    known = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(known | {"chat_template": "{{ messages[0]['role'] }}"}))
    (line,) = problems(values)
    assert "models.lm.chat: " in line and "it wrote 'user'" in line


def test_without_libraries_it_is_left_to_the_job(values, tmp_path, monkeypatch):
    put_template(tmp_path / "lm", "{{ messages[0]['role'] }}")
    monkeypatch.setattr(local_templates, "find_spec", lambda name: None)
    assert problems(values) == []


def test_several_templates_without_a_default_are_told(values, tmp_path):
    (tmp_path / "lm" / "chat_template.jinja").unlink()
    file = tmp_path / "lm" / "tokenizer_config.json"
    several = [{"name": name, "template": TEMPLATE} for name in ("rag", "tool_use")]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": several}))
    (line,) = problems(values)
    assert "models.lm.chat: " in line and "['rag', 'tool_use'] and none named 'default'" in line
    several[0]["name"] = "default"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": several}))
    assert problems(values) == []


def test_a_damaged_tokenizer_is_left_to_the_job(values, tmp_path):
    put_template(tmp_path / "lm", "{{ messages[0]['role'] }}")
    (tmp_path / "lm" / "tokenizer.json").write_text("{}")
    assert problems(values) == []
