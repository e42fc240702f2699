"""Descriptions through a real local HTTP server: retries, refusals, resumption; a key never leaks."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from feature_tables import write

from vlmdiff.features.descriptions import Cache, Request, announce, describe_features
from vlmdiff.hub.completions import Endpoint, EndpointError
from vlmdiff.tables.io import read_table
from vlmdiff.tables.labels import DESCRIPTIONS, LABEL_EVIDENCE, LABELS

KEY = "sk-very-secret"


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's script: a list of statuses, then chat completions."""

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.requests.append(
            (self.path, self.headers.get("Authorization"), json.loads(self.rfile.read(length)))
        )
        status = self.server.script.pop(0) if self.server.script else 200
        body = self.server.body
        if body is None:
            said = self.server.requests[-1][2]["messages"][0]["content"]
            answer = {"message": {"content": f" about {len(said)} "}, "finish_reason": "stop"}
            body = json.dumps(
                {"choices": [answer], "model": "m-1", "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
            )
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.requests, found.script, found.body = [], [], None
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()


def url(server) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


def request(server, **changes) -> Request:
    values = {
        "base_url": url(server), "model": "m", "temperature": 0.0, "max_tokens": 9,
        "template": "{concept}: {evidence}", "api_key_env": None, "timeout_s": 5.0, "retries": 3,
        "backoff_s": 0.0, "price_input": None, "price_output": None,
    }  # fmt: skip
    return Request(**{**values, **changes})


@pytest.fixture
def tables(tmp_path):
    rows = [{"layer": 0, "feature": f, "name": f"L0F{f}", "label": "x"} for f in (3, 5, 9)]
    evidence = [
        {"layer": 0, "feature": f, "kind": kind, "rank": 0, "what": f"<b>{f}</b>", "effect": 0.5}
        for f in (3, 5, 9)
        for kind in ("word", "trait", "promoted", "suppressed")
    ]
    return write(tmp_path / "labels.csv", LABELS, rows), write(
        tmp_path / "evidence.csv", LABEL_EVIDENCE, evidence
    )


def describe(tables, tmp_path, how, features=3):
    output = tmp_path / "descriptions.csv"
    describe_features("space", 0, tables, features, how, tmp_path / "cache" / "answers.jsonl", output)
    return read_table(output, DESCRIPTIONS)


def test_every_feature_is_described_with_its_own_evidence(server, tables, tmp_path):
    found = describe(tables, tmp_path, request(server))
    assert list(found["feature"]) == [3, 5, 9]
    assert (found["description"].str.startswith("about ")).all()
    assert (found["prompt_tokens"] == 7).all()
    assert set(found["model"]) == {"m-1"}
    path, key, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert key is None
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 9)
    assert "space" in body["messages"][0]["content"]
    assert "<b>3</b>" in body["messages"][0]["content"]
    assert found["prompt_sha256"].nunique() == 3


def test_a_busy_endpoint_is_asked_again(server, tables, tmp_path):
    server.script = [429, 503]
    assert len(describe(tables, tmp_path, request(server), features=1)) == 1
    assert len(server.requests) == 3


def test_an_endpoint_that_stays_busy_is_an_error(server, tables, tmp_path):
    server.script = [429] * 10
    with pytest.raises(EndpointError, match="429; too many requests"):
        describe(tables, tmp_path, request(server, retries=2))


@pytest.mark.parametrize(
    ("status", "words"), [(401, "api_key_env"), (403, "labelling.model"), (404, "base_url")]
)
def test_a_refusal_says_what_to_do(server, tables, tmp_path, status, words):
    server.script = [status]
    with pytest.raises(EndpointError, match=words):
        describe(tables, tmp_path, request(server))


@pytest.mark.parametrize(
    "body", ["not json", "{}", '{"choices": []}', '{"choices": [{"message": null}]}', "[]"]
)
def test_something_else_than_a_completion_is_an_error(server, tables, tmp_path, body):
    server.body = body
    with pytest.raises(EndpointError, match="not a chat completion"):
        describe(tables, tmp_path, request(server))


def test_no_endpoint_is_an_error(tables, tmp_path, server):
    closed = request(server, base_url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(EndpointError, match="no answer"):
        describe(tables, tmp_path, closed)


def test_a_key_is_sent_and_shown_nowhere(server, tables, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TEST_KEY", KEY)
    with caplog.at_level(logging.DEBUG):
        describe(tables, tmp_path, request(server, api_key_env="TEST_KEY"))
        server.script = [401]
        with pytest.raises(EndpointError) as error:
            describe(tables, tmp_path, request(server, api_key_env="TEST_KEY", max_tokens=8))
    assert server.requests[0][1] == f"Bearer {KEY}"
    assert KEY not in caplog.text
    assert KEY not in str(error.value)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any(KEY in path.read_text() for path in written)


def test_a_missing_key_is_an_error_before_any_call(server, tables, tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_KEY", raising=False)
    with pytest.raises(EndpointError, match="environment variable TEST_KEY is not set"):
        describe(tables, tmp_path, request(server, api_key_env="TEST_KEY"))
    assert server.requests == []


def test_nothing_is_asked_twice(server, tables, tmp_path):
    server.script = [200, 401]
    with pytest.raises(EndpointError):
        describe(tables, tmp_path, request(server))
    assert len(server.requests) == 2
    first = describe(tables, tmp_path, request(server))
    assert len(server.requests) == 4
    again = describe(tables, tmp_path, request(server))
    assert len(server.requests) == 4
    assert again.equals(first)


def test_another_model_is_asked_anew(server, tables, tmp_path):
    describe(tables, tmp_path, request(server))
    describe(tables, tmp_path, request(server, model="other"))
    assert len(server.requests) == 6


def test_a_line_that_a_crash_cut_off_is_asked_again(server, tables, tmp_path):
    describe(tables, tmp_path, request(server))
    cache = tmp_path / "cache" / "answers.jsonl"
    cache.write_text(cache.read_text()[:-10])
    assert len(Cache(cache).known) == 2
    assert len(describe(tables, tmp_path, request(server))) == 3
    assert len(server.requests) == 4


def test_calls_and_cost_are_announced_before_the_first(server, tables, tmp_path, caplog):
    server.script = [401]
    how = request(server, price_input=1.0, price_output=10.0)
    with caplog.at_level(logging.INFO), pytest.raises(EndpointError):
        describe(tables, tmp_path, how)
    assert "3 calls to" in caplog.text
    assert "at most about 0.00" in caplog.text
    assert announce(["x" * 4_000_000], how).endswith("at most about 1.00 at the configured prices")


def test_redirects_are_not_followed(server):
    """A redirect could carry the key to another host."""
    server.script = [307]
    with pytest.raises(EndpointError, match="status 307"):
        Endpoint(url(server), KEY, 5.0, 0, 0.0).ask("m", "hello", 0.0, 5)
    assert len(server.requests) == 1
