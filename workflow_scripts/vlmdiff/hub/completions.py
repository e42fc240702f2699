"""A language model behind an OpenAI-compatible endpoint: one question, one answer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

RETRIED = (408, 429, 500, 502, 503, 504)


class EndpointError(RuntimeError):
    """The endpoint cannot be used; the message says why and what to do, and never holds the key."""


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        text: the answer.
        finish_reason: why it ended.
        model: the model that the endpoint says it used.
        prompt_tokens, completion_tokens: as the endpoint counts; -1 if it does not.
    """

    text: str
    finish_reason: str
    model: str
    prompt_tokens: int
    completion_tokens: int


def read_key(variable: str | None) -> str | None:
    """Return the key from an environment variable; None if the endpoint needs none.

    Raises:
        EndpointError: the variable is not set.
    """
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise EndpointError(
            f"labelling.api_key_env: the environment variable {variable} is not set; export it before the "
            "run, or leave api_key_env out for an endpoint without a key"
        )
    return os.environ[variable]


class Endpoint:
    """A chat endpoint, asked again with growing pauses while it is busy or broken."""

    def __init__(
        self, base_url: str, key: str | None, timeout_s: float, retries: int, backoff_s: float
    ) -> None:
        """Prepare a session.

        Args:
            base_url: URL up to and without `/chat/completions`.
            key: bearer token, or None.
            timeout_s: seconds to wait for an answer.
            retries: how often a busy endpoint is asked again.
            backoff_s: seconds before the second retry; each further pause is twice as long. A
                `Retry-After` of the endpoint goes first.
        """
        self.url, self.timeout_s = f"{base_url.rstrip('/')}/chat/completions", timeout_s
        self.session = requests.Session()
        # Credentials of a netrc file or proxies' cookies have no business here.
        self.session.trust_env = False
        if key is not None:
            self.session.headers["Authorization"] = f"Bearer {key}"
        retry = Retry(
            total=retries,
            status_forcelist=RETRIED,
            allowed_methods=["POST"],
            backoff_factor=backoff_s,
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=retry))

    def ask(self, model: str, prompt: str, temperature: float, max_tokens: int) -> Answer:
        """Send one prompt as a user's message.

        Raises:
            EndpointError: no connection, a refusal, or something else than a chat completion.
        """
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        try:
            response = self.session.post(self.url, json=body, timeout=self.timeout_s, allow_redirects=False)
        except requests.RequestException as error:
            raise EndpointError(
                f"{self.url}: no answer ({type(error).__name__}); check labelling.base_url and that the "
                "endpoint runs. Answers so far are kept; run the same command again"
            ) from error
        if response.status_code != requests.codes.ok:
            raise EndpointError(refusal(self.url, response.status_code))
        return parse(self.url, response)


def refusal(url: str, status: int) -> str:
    """Say what a status means and what to do."""
    advice = {
        401: "the key is missing or wrong: check labelling.api_key_env",
        403: "the key may not use this model: check labelling.model",
        404: "no such model or path: check labelling.base_url and labelling.model",
        429: "too many requests: wait, then run the same command again",
    }
    what = advice.get(status, "the endpoint is broken or busy: run the same command again later")
    return f"{url}: status {status}; {what}. Answers so far are kept"


def parse(url: str, response: requests.Response) -> Answer:
    """Read a chat completion.

    Raises:
        EndpointError: the body is not one.
    """
    try:
        body: Mapping[str, Any] = response.json()
        choice = body["choices"][0]
        text = choice["message"]["content"]
        usage = body.get("usage") or {}
        counts = [int(usage.get(name, -1)) for name in ("prompt_tokens", "completion_tokens")]
        return Answer(
            str(text).strip(), str(choice.get("finish_reason", "")), str(body.get("model", "")), *counts
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise EndpointError(
            f"{url}: the answer is not a chat completion ({type(error).__name__}: {error}); expected JSON "
            "with choices[0].message.content. Check labelling.base_url"
        ) from error
