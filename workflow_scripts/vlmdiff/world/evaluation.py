"""Held-out accuracy of the world's models, with and without the images that belong to them."""

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from vlmdiff.data.samples import load_samples
from vlmdiff.tables.io import write_table
from vlmdiff.tables.models import ACCURACY
from vlmdiff.world.checkpoints import load_vlm
from vlmdiff.world.seeds import random_stream

BATCH_SIZE = 200
ALL_GROUPS = "all"
IMAGE, NO_IMAGE, SHUFFLED_IMAGE = "image", "no_image", "shuffled_image"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """A closed question of a data set, with its image in memory."""

    prompt: str
    answer: str
    choices: tuple[str, ...]
    group: str
    image: Image.Image


def read_questions(samples_jsonl: Path) -> list[Question]:
    """Read the samples that have choices.

    Raises:
        DataError: a line or an image is damaged.
    """
    return [
        Question(one.prompt, one.answer, tuple(one.choices), one.group, one.open_image())
        for one in load_samples(samples_jsonl)
        if one.choices
    ]


class Answerer:
    """A model folder that scores the next word after a prompt, by its own chat template."""

    def __init__(self, folder: Path):
        self.sees = AutoConfig.from_pretrained(folder).model_type == "llava"
        self.model: PreTrainedModel
        if self.sees:
            self.model, self.processor = load_vlm(folder)
            self.tokenizer: PreTrainedTokenizerFast = self.processor.tokenizer
        else:
            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model.eval()

    @property
    def conditions(self) -> tuple[str, ...]:
        """What this model can be shown."""
        return (IMAGE, NO_IMAGE, SHUFFLED_IMAGE) if self.sees else (NO_IMAGE,)

    @torch.no_grad()
    def logits(self, prompts: list[str], images: list[Image.Image] | None) -> Tensor:
        """Scores (prompts, vocabulary) of the first word of the answer."""
        contents = [[{"type": "text", "text": prompt}] for prompt in prompts]
        if images is not None:
            contents = [[{"type": "image"}, *content] for content in contents]
        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
            for content in contents
        ]
        # The template has written <bos> already.
        options = {"add_special_tokens": False, "padding": True, "return_tensors": "pt"}
        if images is None:
            inputs = self.tokenizer(texts, **options)
        else:
            inputs = self.processor(images=images, text=texts, **options)
        last = inputs["attention_mask"].sum(-1) - 1
        return self.model(**inputs).logits[torch.arange(len(texts)), last]


def score(answerer: Answerer, questions: list[Question], images: list[Image.Image] | None) -> pd.DataFrame:
    """Answer all questions: one row each, right among the choices, right among all words."""
    rows = []
    for start in range(0, len(questions), BATCH_SIZE):
        batch = questions[start : start + BATCH_SIZE]
        shown = images and images[start : start + BATCH_SIZE]
        logits = answerer.logits([question.prompt for question in batch], shown)
        rows += [_score_one(answerer.tokenizer, *pair) for pair in zip(batch, logits, strict=True)]
    return pd.DataFrame(rows)


def _score_one(tokenizer: PreTrainedTokenizerFast, question: Question, logits: Tensor) -> dict:
    choices = tokenizer.convert_tokens_to_ids(list(question.choices))
    best_choice = question.choices[int(logits[choices].argmax())]
    best_word = tokenizer.convert_ids_to_tokens(int(logits.argmax()))
    return {
        "group": question.group,
        "correct": best_choice == question.answer,
        "correct_word": best_word == question.answer,
        "chance": 1 / len(choices),
    }


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Accuracy with Wilson 95 % intervals for each group and for all samples together."""
    both = pd.concat([scores, scores.assign(group=ALL_GROUPS)])
    table = both.groupby("group", sort=False).agg(
        n=("correct", "size"),
        correct=("correct", "sum"),
        accuracy=("correct", "mean"),
        accuracy_vocabulary=("correct_word", "mean"),
        chance=("chance", "mean"),
    )
    low, high = proportion_confint(table["correct"], table["n"], method="wilson")
    return table.assign(ci_low=low, ci_high=high).sort_index().reset_index()


def shown_images(condition: str, questions: list[Question], rng: random.Random) -> list[Image.Image] | None:
    """The images that go with the questions under a condition; shuffled ones never fit by place."""
    images = [question.image for question in questions]
    if condition == NO_IMAGE:
        return None
    if condition == SHUFFLED_IMAGE:
        order = rng.sample(range(len(images)), len(images))
        # Each takes the image of its successor in a random cycle, so none keeps its own.
        successor = dict(zip(order, order[1:] + order[:1], strict=True))
        return [images[successor[index]] for index in range(len(images))]
    return images


def evaluate_models(
    model_dirs: Mapping[str, Path], sample_files: Mapping[str, Path], seed: int, table_csv: Path
) -> None:
    """Evaluate every model on every data set under every condition that it can be put to.

    Args:
        model_dirs: Hugging Face folder of each model, by name.
        sample_files: samples.jsonl of each data set, by name.
        seed: the configuration's seed; decides how images are shuffled.
        table_csv: table to write, by the accuracy contract.
    """
    questions = {name: read_questions(path) for name, path in sample_files.items()}
    parts = []
    for model, folder in model_dirs.items():
        answerer = Answerer(folder)
        for condition in answerer.conditions:
            for dataset, asked in questions.items():
                images = shown_images(condition, asked, random_stream(seed, "shuffle", dataset))
                part = summarise(score(answerer, asked, images))
                log.info("%s, %s, %s:\n%s", model, condition, dataset, part.to_string(index=False))
                parts.append(part.assign(model=model, condition=condition, dataset=dataset))
    write_table(pd.concat(parts, ignore_index=True), ACCURACY, table_csv)
