"""Whether chat templates at hand can write a question, before anything runs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlmdiff.config.checkpoint_files import read_object
from vlmdiff.config.defaults import FROM_FOLDER
from vlmdiff.config.families import LANGUAGE_MODEL
from vlmdiff.config.local_checkpoints import DESCRIBING, TEMPLATES
from vlmdiff.config.subjects import ModelConfig
from vlmdiff.models.chat import DAY_NAME, Chat, chat_format, user_turn, written_by
from vlmdiff.models.errors import SubjectError

QUESTION = "Where is the dog?"
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
LIBRARIES = ("jinja2", "transformers")


def questions_for(model: ModelConfig) -> list[Chat]:
    """Return conversations of the kinds that a model is shown, as its family writes them."""
    if model.family == LANGUAGE_MODEL:
        return [[{"role": "user", "content": QUESTION}]]
    return [user_turn(QUESTION, False), *([] if model.text_only else [user_turn(QUESTION, True)])]


def template_problem(name: str, model: ModelConfig) -> str | None:
    """Say why the chat template of a checkpoint cannot write a question; None if it can, or nobody knows.

    Jobs run templates in transformers' sandbox, which takes seconds to be imported. So a light one looks
    first, and what it cannot write is told only if the other cannot either.

    Args:
        name: of the model in the config.
        model: its entry; it has a template.
    """
    # Snakemake's own environment may hold nothing but Snakemake, where jobs have theirs (`--sdm conda`).
    if any(find_spec(library) is None for library in LIBRARIES) or is_written(model):
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.path, **FROM_FOLDER)
        chat = chat_format(name, Path(model.path), tokenizer, model.prompt_date, model.chat)
        chat.check()
        chat.write(questions_for(model))
    except SubjectError as error:
        return str(error).removeprefix(f"model '{name}': ")
    except Exception:  # damaged checkpoints make loaders fail in many ways; jobs say in which
        return None
    return None


def is_written(model: ModelConfig) -> bool:
    """Tell whether the light sandbox writes all questions; what it does not know it does not write."""
    try:
        template, values = light_template(Path(model.path))
        # Names of Python's own machinery are left to the stricter sandbox.
        if template is None or "__" in template or "._" in template:
            return False
        run = light_sandbox().from_string(template).render
        for chat in questions_for(model):
            written_by(lambda one: run(messages=one, **values), chat)
    except Exception:  # templates and their files fail in many ways
        return False
    return True


def light_template(folder: Path) -> tuple[str | None, dict[str, Any]]:
    """Return the template of a checkpoint, if it is one text, and what a job would give it."""
    files = [folder / name for name in DESCRIBING if (folder / name).is_file()]
    described = [read_object(file) for file in files]
    values = {"tools": None, "documents": None, "add_generation_prompt": True, DAY_NAME: "26 Jul 2024"}
    values |= {key: one[key] for one in described for key in SPECIAL if isinstance(one.get(key), str)}
    jinja, in_json = (folder / name for name in TEMPLATES)
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8"), values
    if in_json.is_file():
        described = [read_object(in_json), *described]
    found = next((one["chat_template"] for one in described if one.get("chat_template")), None)
    return found if isinstance(found, str) else None, values


def light_sandbox() -> Any:
    """Return an environment of jinja2 as transformers has it, but for what few templates ask for."""
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block around what an assistant says, which changes no text."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            """Return what stands in the block."""
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise ValueError(message)

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    sandbox.globals |= {"raise_exception": refuse, "strftime_now": lambda form: form}
    return sandbox
