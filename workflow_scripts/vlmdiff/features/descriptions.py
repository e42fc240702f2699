"""Descriptions of features by a language model, from the evidence of their labels, and their scores."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.features.detection import asked_about, question, scores, verdict
from vlmdiff.features.label_samples import SHOWN
from vlmdiff.hub.completions import Content, Endpoint, read_key, with_pictures
from vlmdiff.hub.replies import Reply, clean
from vlmdiff.runtime.progress import progress
from vlmdiff.tables.io import read_table, write_table
from vlmdiff.tables.labels import DESCRIPTIONS, DETECTIONS, LABEL_EVIDENCE, LABEL_SAMPLES, LABELS

log = logging.getLogger(__name__)
# A rule of thumb for English; the endpoint's own count is in the table.
CHARACTERS_A_TOKEN = 4
# Of a question whether a description fits a sample.
SHORT_QUESTION_TOKENS = 100
KINDS = {
    "word": "Tokens on which it is active (share of its activity)",
    "trait": "Traits of the samples on which it is strongest (difference of shares)",
    "promoted": "Tokens that its output direction makes more likely",
    "suppressed": "Tokens that its output direction makes less likely",
    "neighbour": "Features that point alike, from which the description has to tell it apart (cosine)",
}
PICTURED = "\n\nThe pictures are those of the samples on which it is strongest."
FEATURE = ["layer", "feature"]


@dataclass(frozen=True)
class Request:
    """How every question is asked.

    Attributes:
        base_url, model, temperature, max_tokens: of the endpoint.
        template: the prompt; `{concept}` and `{evidence}` stand for what they say.
        api_key_env: environment variable with the key, or None.
        timeout_s, retries, backoff_s: see `Endpoint`.
        price_input, price_output: price of a million tokens, or None.
        images: pictures of strongest samples that are sent along.
        scored: whether descriptions are tried on further samples.
    """

    base_url: str
    model: str
    temperature: float
    max_tokens: int
    template: str
    api_key_env: str | None
    timeout_s: float
    retries: int
    backoff_s: float
    price_input: float | None
    price_output: float | None
    images: int
    scored: bool


@dataclass(frozen=True)
class DescribedTables:
    """Paths of what descriptions are made of.

    Attributes:
        labels, evidence, chosen: LABELS, LABEL_EVIDENCE and LABEL_SAMPLES.
        samples: samples.jsonl of the data from which samples were chosen.
    """

    labels: str | Path
    evidence: str | Path
    chosen: str | Path
    samples: str | Path


def evidence_text(evidence: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """Write a feature's evidence as lines of text.

    Args:
        evidence: its rows of LABEL_EVIDENCE.
        labels: of all features, by name: what a neighbour is called.
    """
    lines = []
    for kind, title in KINDS.items():
        rows = evidence[evidence["kind"] == kind].sort_values("rank")
        called = labels if kind == "neighbour" else {}
        items = ", ".join(
            f"{called.get(row.what, row.what)!r} ({row.effect:.2f})" for row in rows.itertuples()
        )
        lines.append(f"{title}: {items or 'none'}.")
    return "\n".join(lines)


def digest(prompt: Content, request: Request) -> str:
    """Return the SHA-256 of everything on which an answer depends."""
    parts = [request.base_url, request.model, request.temperature, request.max_tokens, prompt]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def is_whole(answer: Reply) -> bool:
    """Tell whether a kept answer is a description; older versions kept some that were none."""
    return answer.fault(0) is None and clean(answer.text) == answer.text


class Cache:
    """Answers that were obtained already, one JSON object a line, so that nothing is asked twice."""

    def __init__(self, path: str | Path) -> None:
        """Read what is there; damaged lines, as a crash leaves, and answers that are none are ignored."""
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.known: dict[str, Reply] = {}
        kept = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        if not kept.endswith("\n") and kept:
            # What a crash cut off stays a line of its own.
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in kept.splitlines():
            try:
                entry = json.loads(line)
                key, answer = entry["key"], Reply(**entry["answer"])
                if is_whole(answer):
                    self.known[key] = answer
                else:
                    log.warning(
                        "%s: an answer that is not whole is ignored; it is asked for again", self.path
                    )
            except (ValueError, KeyError, TypeError, AttributeError):
                log.warning("%s: a damaged line is ignored; its question is asked again", self.path)

    def add(self, key: str, answer: Reply) -> None:
        """Keep an answer at once."""
        self.known[key] = answer
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "answer": asdict(answer)}) + "\n")


def announce(prompts: Sequence[Content], request: Request, later: int = 0) -> str:
    """Say how many calls are about to be made and what they may cost at most.

    Args:
        prompts: of these calls; pictures in them are counted, and not what they cost.
        request: how they are asked.
        later: short questions that follow at most.
    """
    texts = [text_of(prompt) for prompt in prompts]
    tokens, pictures = sum(map(len, texts)) // CHARACTERS_A_TOKEN, sum(map(picture_count, prompts))
    text = f"{len(prompts)} calls to {request.base_url} ({request.model}), about {tokens} tokens of prompts"
    text += f" and {pictures} pictures" if pictures else ""
    text += f", then up to {later} short questions" if later else ""
    tokens, answers = tokens + later * SHORT_QUESTION_TOKENS, (len(prompts) + later) * request.max_tokens
    if request.price_input is None or request.price_output is None:
        return f"{text}, at most {answers} tokens of answers; no price is configured"
    cost = (tokens * request.price_input + answers * request.price_output) / 1e6
    most, rest = ("", ", without what pictures cost") if request.images else ("at most ", "")
    return (
        f"{text}, at most {answers} tokens of answers: {most}about {cost:.2f} at the configured prices{rest}"
    )


def text_of(prompt: Content) -> str:
    """Return the words of a prompt."""
    return prompt if isinstance(prompt, str) else prompt[0]["text"]


def picture_count(prompt: Content) -> int:
    """Return how many pictures a prompt has."""
    return 0 if isinstance(prompt, str) else len(prompt) - 1


class Questions:
    """Asks an endpoint, and keeps its answers.

    Args:
        request: how every question is asked.
        cache: answers that are there.
    """

    def __init__(self, request: Request, cache: Cache) -> None:
        self.request, self.cache = request, cache
        key = read_key(request.api_key_env)
        self.endpoint = Endpoint(request.base_url, key, request.timeout_s, request.retries, request.backoff_s)

    def ask(self, prompts: Sequence[Content], title: str, later: int = 0) -> list[Reply]:
        """Return the answer to each prompt; each is asked once, and those that are known are not.

        Args:
            prompts: texts, or texts with pictures.
            title: of the progress.
            later: short questions that follow at most, for the announcement.

        Raises:
            EndpointError: no connection, a refusal, or an answer that is malformed or not whole.
        """
        request, known = self.request, self.cache.known
        keys = [digest(prompt, request) for prompt in prompts]
        missing = [(key, prompt) for key, prompt in dict(zip(keys, prompts)).items() if key not in known]
        told = announce([prompt for _, prompt in missing], request, later if missing else 0)
        log.info("%s: %s; %d answers are known already", title, told, len(set(keys)) - len(missing))
        for key, prompt in progress(missing, title):
            answer = self.endpoint.ask(request.model, prompt, request.temperature, request.max_tokens)
            self.cache.add(key, answer)
        return [known[key] for key in keys]


def describe_features(
    concept: str,
    seed: int,
    tables: DescribedTables,
    features: int,
    request: Request,
    cache_file: str | Path,
    outputs: tuple[str | Path, str | Path],
) -> None:
    """Ask for a description of each of the first final features; write DESCRIPTIONS and DETECTIONS.

    Args:
        concept: its name.
        seed: index of the seed.
        tables: what descriptions are made of, and scored by.
        features: at most this many features, in the order of LABELS.
        request: how questions are asked.
        cache_file: where answers are kept as they come.
        outputs: paths of the tables.

    Raises:
        EndpointError: no key, no connection, a refusal, or an answer that is malformed or not whole.
    """
    questions = Questions(request, Cache(cache_file))
    labels = read_table(tables.labels, LABELS)
    called, labels = dict(zip(labels["name"], labels["label"])), labels.head(features)
    chosen = read_table(tables.chosen, LABEL_SAMPLES).merge(labels[FEATURE], on=FEATURE)
    samples = {one.sample_id: one for one in load_samples(tables.samples)}
    evidence = dict(iter(read_table(tables.evidence, LABEL_EVIDENCE).groupby(FEATURE)))
    strongest = {key: rows.sort_values("rank") for key, rows in of_use(chosen, SHOWN).groupby(FEATURE)}
    prompts = []
    for key in zip(labels["layer"], labels["feature"]):
        text = request.template.format(concept=concept, evidence=evidence_text(evidence[key], called))
        shown = [samples[name] for name in strongest[key]["sample_id"]] if key in strongest else []
        prompts.append(with_samples(text, shown, request.images, PICTURED))
    tried = len(chosen) - len(of_use(chosen, SHOWN)) if request.scored else 0
    replies = questions.ask(prompts, "descriptions", later=tried)
    texts = dict(zip(zip(labels["layer"], labels["feature"]), (reply.text for reply in replies)))
    asked = asked_about(chosen if request.scored else chosen.head(0), texts, samples, bool(request.images))
    detections = detect(asked, texts, samples, questions)
    write_table(detections.assign(concept=concept, seed=seed), DETECTIONS, outputs[1])
    rows = [
        {
            **{name: getattr(row, name) for name in (*FEATURE, "name")},
            **description(reply, prompt, request),
            **scored,
        }
        for row, reply, prompt, scored in zip(
            labels.itertuples(), replies, prompts, scores(detections, labels), strict=True
        )
    ]
    names = [name for name in DESCRIPTIONS.names if name not in ("concept", "seed")]
    table = pd.DataFrame(rows, columns=names).assign(concept=concept, seed=seed)
    write_table(table, DESCRIPTIONS, outputs[0])


def of_use(chosen: pd.DataFrame, use: str) -> pd.DataFrame:
    """Return the rows of LABEL_SAMPLES of one use."""
    return chosen[chosen["use"] == use]


def with_samples(text: str, samples: Sequence[Sample], most: int, told: str = "") -> Content:
    """Return a prompt with the pictures of at most `most` samples, and what is told of them."""
    pictured = [sample for sample in samples if sample.image][:most]
    return with_pictures(text + told, [one.open_image() for one in pictured]) if pictured else text


def detect(
    asked: pd.DataFrame,
    descriptions: Mapping[tuple[int, int], str],
    samples: Mapping[str, Sample],
    questions: Questions,
) -> pd.DataFrame:
    """Ask of each sample whether its feature's description fits it; return rows of DETECTIONS.

    Args:
        asked: see `asked_about`.
        descriptions: by layer and feature.
        samples: by name.
        questions: asks them.
    """
    prompts = []
    for layer, feature, name in zip(asked["layer"], asked["feature"], asked["sample_id"]):
        sample, most = samples[name], min(1, questions.request.images)
        text = question(descriptions[layer, feature], sample.prompt, bool(sample.image and most))
        prompts.append(with_samples(text, [sample], most))
    replies = questions.ask(prompts, "detections") if prompts else []
    found = asked.assign(answer=[verdict(reply.text) for reply in replies])
    return found[[name for name in DETECTIONS.names if name not in ("concept", "seed")]]


def description(reply: Reply, prompt: Content, request: Request) -> dict[str, Any]:
    """Return what DESCRIPTIONS tells of an answer."""
    asked = prompt if isinstance(prompt, str) else json.dumps(prompt)
    return {
        "description": reply.text,
        "finish_reason": reply.finish_reason,
        "model": reply.model,
        "temperature": request.temperature,
        "prompt_sha256": hashlib.sha256(asked.encode()).hexdigest(),
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "images": picture_count(prompt),
    }
