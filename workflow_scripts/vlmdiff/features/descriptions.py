"""Descriptions of features by a language model, from the evidence of their labels."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vlmdiff.hub.completions import Endpoint, read_key
from vlmdiff.hub.replies import Reply, clean
from vlmdiff.runtime.progress import progress
from vlmdiff.tables.io import read_table, write_table
from vlmdiff.tables.labels import DESCRIPTIONS, LABEL_EVIDENCE, LABELS

log = logging.getLogger(__name__)
# A rule of thumb for English; the endpoint's own count is in the table.
CHARACTERS_A_TOKEN = 4
KINDS = {
    "word": "Tokens on which it is active (share of its activity)",
    "trait": "Traits of the samples on which it is strongest (difference of shares)",
    "promoted": "Tokens that its output direction makes more likely",
    "suppressed": "Tokens that its output direction makes less likely",
}


@dataclass(frozen=True)
class Request:
    """How every question is asked.

    Attributes:
        base_url, model, temperature, max_tokens: of the endpoint.
        template: the prompt; `{concept}` and `{evidence}` stand for what they say.
        api_key_env: environment variable with the key, or None.
        timeout_s, retries, backoff_s: see `Endpoint`.
        price_input, price_output: price of a million tokens, or None.
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


def evidence_text(evidence: pd.DataFrame) -> str:
    """Write a feature's evidence as lines of text."""
    lines = []
    for kind, title in KINDS.items():
        rows = evidence[evidence["kind"] == kind].sort_values("rank")
        items = ", ".join(f"{row.what!r} ({row.effect:.2f})" for row in rows.itertuples())
        lines.append(f"{title}: {items or 'none'}.")
    return "\n".join(lines)


def digest(prompt: str, request: Request) -> str:
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


def announce(prompts: Sequence[str], request: Request) -> str:
    """Say how many calls are about to be made and what they may cost at most."""
    tokens = sum(len(prompt) for prompt in prompts) // CHARACTERS_A_TOKEN
    answers = len(prompts) * request.max_tokens
    text = f"{len(prompts)} calls to {request.base_url} ({request.model}), about {tokens} tokens of prompts"
    if request.price_input is None or request.price_output is None:
        return f"{text}, at most {answers} of answers; no price is configured"
    cost = (tokens * request.price_input + answers * request.price_output) / 1e6
    return f"{text}, at most {answers} of answers: at most about {cost:.2f} at the configured prices"


def describe_features(
    concept: str,
    seed: int,
    tables: tuple[str | Path, str | Path],
    features: int,
    request: Request,
    cache_file: str | Path,
    output: str | Path,
) -> None:
    """Ask for a description of each of the first final features and write the table DESCRIPTIONS.

    Args:
        concept: its name.
        seed: index of the seed.
        tables: LABELS and LABEL_EVIDENCE.
        features: at most this many features, in the order of LABELS.
        request: how questions are asked.
        cache_file: where answers are kept as they come.
        output: path of the table.

    Raises:
        EndpointError: no key, no connection, a refusal, or an answer that is malformed or not whole.
    """
    key = read_key(request.api_key_env)
    labels = read_table(tables[0], LABELS).head(features)
    evidence = dict(iter(read_table(tables[1], LABEL_EVIDENCE).groupby(["layer", "feature"])))
    prompts = [
        request.template.format(concept=concept, evidence=evidence_text(evidence[row.layer, row.feature]))
        for row in labels.itertuples()
    ]
    cache, keys = Cache(cache_file), [digest(prompt, request) for prompt in prompts]
    missing = [(k, p) for k, p in dict(zip(keys, prompts)).items() if k not in cache.known]
    log.info(
        "%s; %d answers are known already",
        announce([p for _, p in missing], request),
        len(keys) - len(missing),
    )
    endpoint = Endpoint(request.base_url, key, request.timeout_s, request.retries, request.backoff_s)
    for one, prompt in progress(missing, "descriptions"):
        cache.add(one, endpoint.ask(request.model, prompt, request.temperature, request.max_tokens))
    rows: list[dict[str, Any]] = [
        {
            "layer": row.layer,
            "feature": row.feature,
            "name": row.name,
            "description": cache.known[key].text,
            "finish_reason": cache.known[key].finish_reason,
            "model": cache.known[key].model,
            "temperature": request.temperature,
            "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
            "prompt_tokens": cache.known[key].prompt_tokens,
            "completion_tokens": cache.known[key].completion_tokens,
        }
        for row, key, prompt in zip(labels.itertuples(index=False), keys, prompts)
    ]
    names = [name for name in DESCRIPTIONS.names if name not in ("concept", "seed")]
    write_table(pd.DataFrame(rows, columns=names).assign(concept=concept, seed=seed), DESCRIPTIONS, output)
