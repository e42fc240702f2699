"""Whether models whose tokenizers are here can tell choices apart by first tokens, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmdiff.config.cases import asking_models
from vlmdiff.config.checkpoint_files import read_object
from vlmdiff.config.choices import AnswerError, choice_token_ids
from vlmdiff.config.defaults import FROM_FOLDER
from vlmdiff.config.schema import Config
from vlmdiff.config.sources import is_local

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Choices = tuple[str, ...]
# Where a checkpoint says which of its tokens stands for what it does not know.
NAMING = ("tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Asked:
    """Questions whose answers are scored.

    Attributes:
        key: of the configuration, which names the data set.
        dataset: its name.
        place: where it comes from, for messages.
        records: its samples that are asked.
    """

    key: str
    dataset: str
    place: str
    records: Sequence[Mapping[str, Any]]

    @cached_property
    def samples(self) -> dict[Choices, list[str]]:
        """Ids of the samples by their choices."""
        found: dict[Choices, list[str]] = {}
        for record in self.records:
            found.setdefault(tuple(record["choices"]), []).append(record["sample_id"])
        return found


@dataclass(frozen=True)
class LightTokenizer:
    """A tokenizer.json, read without transformers, which takes seconds to be imported.

    Attributes:
        tokenizer: what it says.
        unk_token_id: token of what it does not know; None if there is none.
    """

    tokenizer: Tokenizer
    unk_token_id: int | None

    @classmethod
    def of(cls, folder: Path) -> LightTokenizer | None:
        """Read the tokenizer of a checkpoint; None if there is none that can be read here."""
        # Snakemake's own environment may hold nothing but Snakemake, where jobs have theirs (`--sdm conda`).
        if find_spec("tokenizers") is None or not (folder / "tokenizer.json").is_file():
            return None
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            named = [read_object(folder / name) for name in NAMING if (folder / name).is_file()]
        except Exception:  # tokenizers raises nothing more special; jobs say what is damaged
            return None
        unknown = next((values["unk_token"] for values in named if values.get("unk_token")), None)
        unknown = unknown.get("content") if isinstance(unknown, dict) else unknown
        return cls(tokenizer, tokenizer.token_to_id(unknown) if isinstance(unknown, str) else None)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return the tokens of a text."""
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=False)


class FirstTokens:
    """What the first tokens of choices are to the checkpoint in a folder."""

    def __init__(self, folder: Path) -> None:
        """Look at the tokenizer."""
        self.folder, self.light = folder, LightTokenizer.of(folder)
        self.known: dict[Choices, str | None] = {}

    @cached_property
    def whole(self) -> Any:
        """The tokenizer as jobs load it; None if it cannot be loaded here."""
        if find_spec("transformers") is None:
            return None
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, **FROM_FOLDER)
        except Exception:  # damaged checkpoints make loaders fail in many ways; jobs say in which
            return None

    def problem(self, choices: Choices) -> str | None:
        """Say why the answers among some choices cannot be scored; None if they can, or nobody knows.

        Jobs load a class of transformers, which may read a tokenizer.json in its own way. So what the light
        tokenizer finds is told only if that class finds it, too.
        """
        if choices not in self.known:
            suspected = self.light is not None and problem_of(self.light, choices) is not None
            certain = suspected and self.whole is not None
            self.known[choices] = problem_of(self.whole, choices) if certain else None
        return self.known[choices]


def problem_of(tokenizer: Any, choices: Choices) -> str | None:
    """Return what `choice_token_ids` says against choices; None if nothing."""
    try:
        choice_token_ids(tokenizer, choices)
    except AnswerError as error:
        return str(error)
    return None


def token_problems(config: Config, asked: Iterable[Asked]) -> Iterator[str]:
    """Yield which questions cannot be scored by the models that are asked, each list of choices once.

    Args:
        config: the configuration.
        asked: its questions at hand.
    """
    folders: dict[str, FirstTokens] = {}
    told: set[Choices] = set()
    for questions in asked:
        for model in asking_models(config, questions.key):
            folder = config.models[model].path
            if not is_local(folder):
                continue
            if folder not in folders:
                folders[folder] = FirstTokens(Path(folder))
            problems = {one: folders[folder].problem(one) for one in questions.samples if one not in told}
            wrong = {one: problem for one, problem in problems.items() if problem is not None}
            told |= wrong.keys()
            if wrong:
                yield line(questions, model, folder, wrong)


def line(questions: Asked, model: str, folder: str, wrong: Mapping[Choices, str]) -> str:
    """Say which questions a model cannot be scored on.

    Args:
        questions: the data set.
        model: name of the model.
        folder: its checkpoint.
        wrong: what is wrong, by the choices of the questions.
    """
    samples = [one for choices in wrong for one in questions.samples[choices]]
    more = f"; {len(wrong) - 1} other lists of choices are wrong, too" if len(wrong) > 1 else ""
    return (
        f"{questions.key}: found data set '{questions.dataset}' ({questions.place}), of which {len(samples)} "
        f"of {len(questions.records)} samples, first '{samples[0]}', cannot be scored with the tokenizer of "
        f"model '{model}' ({folder}): {next(iter(wrong.values())).removesuffix('.')}, in `choices` and "
        f"`answer` (digits serve for numbers){more}"
    )
