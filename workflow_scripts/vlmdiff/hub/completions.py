"""A language model behind an OpenAI-compatible endpoint: one question, one answer."""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import requests
from PIL.Image import Image
from requests.adapters import HTTPAdapter
from urllib3.exceptions import InvalidHeader
from urllib3.util.retry import Retry

from vlmdiff.hub.replies import EndpointError, Reply, error_message, read_reply, shown
from vlmdiff.runtime.secrets import HIDDEN

RETRIED = (408, 429, 500, 502, 503, 504)
# An endpoint that asks for a longer pause is asked again after this one.
LONGEST_PAUSE_S = 600
KEPT = "Answers so far are kept; run the same command again"
BLIND = " (the prompt has pictures: for a model that cannot see, set labelling.images: 0)"
# Most pixels of a side of a picture that is sent.
PICTURE_PIXELS = 512
log = logging.getLogger(__name__)
# A text, or a list of a text and pictures, as chat completions take them.
Content = str | list[dict[str, Any]]


def with_pictures(text: str, pictures: Sequence[Image]) -> Content:
    """Return a text with small copies of pictures behind it."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    for picture in pictures:
        small, content = picture.convert("RGB"), BytesIO()
        small.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
        # Drawings of few pixels would blur.
        kind = "png" if max(small.size) <= 64 else "jpeg"
        small.save(content, kind, quality=90)
        url = f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


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


class PatientRetry(Retry):
    """Waits as `Retry-After` says, tells of long pauses, and takes an unreadable date for none."""

    def parse_retry_after(self, retry_after: str) -> float:
        """Return seconds to wait; 0 leaves the pause to the back-off."""
        try:
            seconds = super().parse_retry_after(retry_after)
        except (InvalidHeader, ValueError, OverflowError):
            return 0.0
        log.info("the endpoint is busy; it is asked again after %.0f s", seconds)
        return seconds


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
        self.key = key
        self.session = requests.Session()
        # Credentials of a netrc file or proxies' cookies have no business here.
        self.session.trust_env = False
        if key is not None:
            self.session.headers["Authorization"] = f"Bearer {key}"
        retry = PatientRetry(
            total=retries,
            status_forcelist=RETRIED,
            allowed_methods=["POST"],
            backoff_factor=backoff_s,
            raise_on_status=False,
            retry_after_max=LONGEST_PAUSE_S,
        )
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=retry))

    def ask(self, model: str, prompt: Content, temperature: float, max_tokens: int) -> Reply:
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
            raise EndpointError(f"{self.url}: no answer: {self.silence(error)}. {KEPT}") from error
        try:
            if response.status_code != requests.codes.ok:
                raise EndpointError(refusal(response) + (BLIND if isinstance(prompt, list) else ""))
            return read_reply(parsed(response), max_tokens)
        except EndpointError as error:
            # Some endpoints repeat the key when they complain about it.
            text = str(error).replace(self.key, HIDDEN) if self.key else str(error)
            raise EndpointError(f"{self.url}: {text}. {KEPT}") from None

    def silence(self, error: requests.RequestException) -> str:
        """Say why nothing came back."""
        if isinstance(error, requests.Timeout) or "timed out" in str(error):
            return f"it took longer than labelling.timeout_s = {self.timeout_s:g} s; raise it"
        return f"{type(error).__name__}; check labelling.base_url and that the endpoint runs"


def refusal(response: requests.Response) -> str:
    """Say what a status means, what the endpoint says of it, and what to do."""
    advice = {
        400: "check labelling.model, max_tokens and temperature",
        401: "the key is missing or wrong: check labelling.api_key_env",
        403: "the key may not use this model: check labelling.model",
        404: "no such model or path: check labelling.base_url and labelling.model",
        429: "too many requests: wait",
    }
    status = response.status_code
    what = advice.get(status, "the endpoint is broken or busy: wait")
    try:
        said = f" (it says {shown(error_message(response.json()))})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        said = ""
    return f"status {status}{said}; {what}"


def parsed(response: requests.Response) -> object:
    """Return the body of a response.

    Raises:
        EndpointError: it is not JSON.
    """
    try:
        return response.json()
    except (ValueError, RecursionError):
        raise EndpointError(
            f"the answer is not a chat completion, it is not even JSON: {shown(response.text)}. Check "
            "labelling.base_url"
        ) from None
