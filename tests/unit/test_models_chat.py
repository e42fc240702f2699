"""Chat formats: found wherever a checkpoint keeps them, refused where there is none, the same every day."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import pytest
import tiny_llava_original
import tiny_models
import tiny_qwen_vl
from damage import refused
from transformers.utils import chat_template_utils

from vlmdiff.models.chat import ChatFormat
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.fingerprint import with_chat_format
from vlmdiff.models.registry import load_subject

QUESTION = "Where is the dog?"
DATED = (
    "{{ bos_token }}{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% endif %}Today is {{ date_string }}, {{ strftime_now('%A %H:%M') }}. {{ messages[0]['content'] }}"
)


def without_templates(folder: Path) -> str:
    """Take a checkpoint's template away, wherever it lies, and return it."""
    file = folder / "chat_template.jinja"
    template = file.read_text()
    file.unlink()
    for name in ("tokenizer_config.json", "processor_config.json"):
        if (folder / name).is_file():
            values = json.loads((folder / name).read_text())
            values.pop("chat_template", None)
            (folder / name).write_text(json.dumps(values))
    return template


def in_json(folder: Path, template: str) -> None:
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))


def in_jinja(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)


def in_processor(folder: Path, template: str) -> None:
    file = folder / "processor_config.json"
    values = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(values | {"chat_template": template}))


def in_tokenizer(folder: Path, template: str) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))


def in_tokenizer_list(folder: Path, template: str) -> None:
    other = {"name": "tool_use", "template": "{{ raise_exception('not this one') }}"}
    file = folder / "tokenizer_config.json"
    templates = [other, {"name": "default", "template": template}]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": templates}))


def with_others(folder: Path, template: str) -> None:
    in_jinja(folder, template)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ raise_exception('not this one') }}")


PLACES = [in_json, in_jinja, in_processor, in_tokenizer, in_tokenizer_list, with_others]
FAMILIES = {
    "causal_lm": tiny_llava_original.build_lm,
    "llava": tiny_models.build_tiny_vlm,
    "qwen_vl": tiny_qwen_vl.build,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_template_is_found_wherever_it_lies_and_missed_where_it_is_not(family, tmp_path):
    folder = FAMILIES[family](tmp_path / "model")
    size = None if family == "causal_lm" else (56, 56)
    spec = {"family": family}
    expected = load_subject("m", spec, folder, "cpu").rows([QUESTION], [size])
    template = without_templates(folder)
    bare = load_subject("m", spec, folder, "cpu")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    message = str(pytest.raises(SubjectError, bare.rows, [QUESTION], [size]).value)
    assert "model 'm': found no chat template" in message
    assert "chat_template.json" in message
    assert "set models.m.chat: false" in message
    assert len(bare.rows([QUESTION], [size], as_chat=False)[0]) > 1
    for place in PLACES:
        for path in folder.rglob("*.jinja"):
            path.unlink()
        if (folder / "additional_chat_templates").is_dir():
            (folder / "additional_chat_templates").rmdir()
        for path in set(folder.iterdir()) - set(before):
            path.unlink()
        for path, content in before.items():
            path.write_bytes(content)
        place(folder, template)
        assert load_subject("m", spec, folder, "cpu").rows([QUESTION], [size]) == expected, place.__name__


def test_raw_text_is_shown_where_the_config_says_so(tmp_path):
    folder = tiny_llava_original.build_lm(tmp_path / "lm")
    chatting = load_subject("lm", {"family": "causal_lm"}, folder, "cpu")
    silent = load_subject("lm", {"family": "causal_lm", "chat": False}, folder, "cpu")
    raw = chatting.rows([QUESTION], [None], as_chat=False)
    assert silent.rows([QUESTION], [None]) == silent.rows([QUESTION], [None], as_chat=False) == raw
    assert chatting.rows([QUESTION], [None]) != raw
    assert silent.fingerprint != chatting.fingerprint


def test_several_templates_and_none_for_all_are_refused(tmp_path):
    folder = tiny_llava_original.build_lm(tmp_path / "lm")
    template = without_templates(folder)
    (folder / "additional_chat_templates").mkdir()
    for name in ("rag", "tool_use"):
        (folder / "additional_chat_templates" / f"{name}.jinja").write_text(template)
    message = refused(lambda: load_subject("lm", {"family": "causal_lm"}, folder, "cpu"), folder)
    assert "the chat templates ['rag', 'tool_use'] and none named 'default'" in message


def test_vicuna_is_for_llama_2_alone(tmp_path):
    """The original layout knows Vicuna's conversations; a Llama 3 without its template is not one."""
    tower = tiny_llava_original.build_tower(tmp_path / "tower")
    folder = tiny_llava_original.build(tmp_path / "vlm")
    without_templates(folder)
    spec = {"family": "llava_original", "vision_tower": str(tower)}
    subject = load_subject("vlm", spec, folder, "cpu")
    with pytest.raises(SubjectError, match="found no chat template"):
        subject.rows([QUESTION], [(56, 56)])
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("<|start_header_id|>", "<|other_mark|>"))
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace("<|start_header_id|>", "<|other_mark|>"))
    older = load_subject("vlm", spec, folder, "cpu")
    text = older.tokenizer.decode(older.rows([QUESTION], [None])[0])
    assert text.endswith(f"polite answers to the user's questions. USER: {QUESTION} ASSISTANT:")


@pytest.fixture
def dated(tmp_path) -> Path:
    folder = tiny_llava_original.build_lm(tmp_path / "lm")
    in_jinja(folder, DATED)
    return folder


def on(monkeypatch, day: datetime, folder: Path, **changes) -> tuple[str, str]:
    """Return text and fingerprint of a model that is loaded on a certain day."""

    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return day

    monkeypatch.setattr(chat_template_utils, "datetime", Frozen)
    chat_template_utils._compile_jinja_template.cache_clear()
    subject = load_subject("lm", {"family": "causal_lm", **changes}, folder, "cpu")
    return subject.tokenizer.decode(subject.rows([QUESTION], [None])[0][1:]), subject.fingerprint


def test_tokens_do_not_depend_on_the_day(dated, monkeypatch):
    days = [datetime(2026, 11, 28, 5, 40), datetime(2027, 1, 3, 23, 59)]
    found = [on(monkeypatch, day, dated) for day in days]
    assert found[0] == found[1]
    assert found[0][0] == f"Today is 26 Jul 2024, Friday 00:00. {QUESTION}"


def test_the_config_sets_the_day_and_the_fingerprint_records_it(dated, monkeypatch):
    now = datetime(2026, 11, 28)
    text, fingerprint = on(monkeypatch, now, dated, prompt_date=date(2025, 3, 1))
    assert text == f"Today is 01 Mar 2025, Saturday 00:00. {QUESTION}"
    assert on(monkeypatch, now, dated, prompt_date="2025-03-01") == (text, fingerprint)
    assert on(monkeypatch, now, dated, prompt_date="2025-03-02")[1] != fingerprint


def test_fingerprints_see_all_that_writes_a_conversation():
    usual = ChatFormat("m", "{{ messages }}")
    assert with_chat_format("f", usual) == with_chat_format(
        "f", replace(usual, model="n", day=date(2000, 1, 1))
    )
    clock = replace(usual, template="{{ strftime_now('%d') }}")
    others = [usual, replace(usual, template="{{ text }}"), replace(usual, wanted=False), clock,
              replace(clock, day=date(2000, 1, 1))]  # fmt: skip
    assert len(with_chat_format("f", usual)) == 32
    assert len({with_chat_format(name, one) for name in "fg" for one in others}) == 2 * len(others)


def test_a_template_without_a_clock_has_one_fingerprint(tmp_path, monkeypatch):
    folder = tiny_llava_original.build_lm(tmp_path / "lm")
    days = [on(monkeypatch, datetime(2026, 1, 1), folder, prompt_date=f"2025-03-0{day}") for day in (1, 2)]
    assert days[0] == days[1]


def test_a_changed_template_or_tokenizer_changes_the_fingerprint(dated, monkeypatch):
    now = datetime(2026, 11, 28)
    first = on(monkeypatch, now, dated)[1]
    in_jinja(dated, DATED.replace("Today", "To-day"))
    second = on(monkeypatch, now, dated)[1]
    file = dated / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 77}))
    assert len({first, second, on(monkeypatch, now, dated)[1]}) == 3


def test_texts_are_those_of_transformers(tmp_path):
    """But for the day, our rendering is `apply_chat_template`."""
    folder = tiny_llava_original.build_lm(tmp_path / "lm")
    subject = load_subject("lm", {"family": "causal_lm"}, folder, "cpu")
    chat = [{"role": "user", "content": QUESTION}]
    expected = subject.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert subject.chat.write([chat]) == [expected]


@pytest.mark.parametrize(
    "template", ["{{ messages[0]['content'] }}", "{{ messages[0]['role'] }}: say something"]
)
def test_a_template_that_does_not_write_the_question_is_refused(tmp_path, template):
    """One for plain texts writes the parts of a message as Python does; another leaves them out."""
    folder = tiny_qwen_vl.build(tmp_path / "vlm")
    in_jinja(folder, template)
    subject = load_subject("vlm", {"family": "qwen_vl"}, folder, "cpu")
    with pytest.raises(
        SubjectError, match="its chat template cannot write a question .*ValueError: it wrote"
    ):
        subject.rows([QUESTION], [None])


PARTS = (
    "{% for message in messages %}{{ message['role'] }}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endfor %}"
)
REFUSING = (
    "{% if messages[0]['content'] is string %}{{ raise_exception('no list of parts') }}{% endif %}" + PARTS
)


@pytest.mark.parametrize("template", [PARTS, REFUSING])
def test_a_language_model_cut_out_of_a_vlm_is_asked_in_parts(tmp_path, template):
    """Its template goes through the parts of a message, and writes nothing of a plain text."""
    folder = tiny_llava_original.build_lm(tmp_path / "lm")
    in_jinja(folder, template)
    subject = load_subject("lm", {"family": "causal_lm"}, folder, "cpu")
    assert subject.texts([QUESTION, "Why?"], [False, False], True) == [f"user: {QUESTION}", "user: Why?"]


def test_a_plain_text_is_asked_where_it_is_written(tmp_path):
    folder = tiny_llava_original.build_lm(tmp_path / "lm")
    in_jinja(
        folder,
        "{% if messages[0]['content'] is string %}plain {{ messages[0]['content'] }}"
        "{% else %}parts {{ messages[0]['content'][0]['text'] }}{% endif %}",
    )
    subject = load_subject("lm", {"family": "causal_lm"}, folder, "cpu")
    assert subject.texts([QUESTION], [False], True) == [f"plain {QUESTION}"]


@pytest.mark.parametrize(
    "template", ["{{ messages[0]['role'] }}", "{{ raise_exception('ask me nothing') }}", "{% if"]
)
def test_what_writes_neither_is_refused_with_what_to_do(tmp_path, template):
    folder = tiny_llava_original.build_lm(tmp_path / "lm")
    in_jinja(folder, template)
    subject = load_subject("lm", {"family": "causal_lm"}, folder, "cpu")
    with pytest.raises(SubjectError, match=r"cannot write a question .*or set models\.lm\.chat: false"):
        subject.rows([QUESTION], [None])
