"""Tokens, keys and passwords come from the environment and are shown nowhere."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from damage import refused

from vlmdiff.config.load import load_config
from vlmdiff.data.images import download
from vlmdiff.hub.completions import Endpoint
from vlmdiff.runtime.secrets import RedactingFormatter, redacted, secret_values

SCRIPTS = Path(__file__).parents[2] / "workflow_scripts"
TOKEN, PASSWORD = "hf_FakeTokenOfThisTest0123456789", "pass-word-of-this-test"


class Refusing(BaseHTTPRequestHandler):
    """Refuses everything, and says all that it was told."""

    def do_GET(self):
        self.server.headers_seen.append(dict(self.headers))
        body = json.dumps({"error": f"refused {dict(self.headers)} {self.path}"}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.do_GET()

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    running.status, running.headers_seen = 401, []
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


FETCH = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from vlmdiff.runtime.secrets import RedactingFormatter
for handler in logging.getLogger().handlers:
    handler.setFormatter(RedactingFormatter())
from vlmdiff.hub.checkpoints import fetch_checkpoint
try:
    fetch_checkpoint("hub:owner/private@main", sys.argv[1])
except Exception as error:
    logging.exception("fetch_model failed")
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("user", ["", f"user:{PASSWORD}@"])
@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_token_of_the_hub_is_sent_and_shown_nowhere(server, tmp_path, status, user):
    server.status = status
    environment = {
        **os.environ, "PYTHONPATH": str(SCRIPTS), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": f"http://{user}127.0.0.1:{server.server_port}",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5", "HF_HUB_ETAG_TIMEOUT": "5",
    }  # fmt: skip
    command = [sys.executable, "-c", FETCH, str(tmp_path / "model")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert "HubError" in done.stdout and "owner/private" in done.stdout
    # A user in the address takes the token's place.
    assert user or any(TOKEN in json.dumps(headers) for headers in server.headers_seen)
    for secret in (TOKEN, PASSWORD):
        assert secret not in done.stdout + done.stderr
        assert not [
            path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_text("latin-1")
        ]


def test_a_password_in_an_address_of_an_image_is_shown_nowhere(server, monkeypatch):
    monkeypatch.setattr("vlmdiff.data.images.ATTEMPTS", 1)
    server.status = 500
    url = f"http://127.0.0.1:{server.server_port}/a.jpg?signature={PASSWORD}"
    assert PASSWORD not in refused(lambda: download(url), f"127.0.0.1:{server.server_port}/a.jpg")
    assert PASSWORD not in refused(lambda: download(f"http://me:{PASSWORD}@127.0.0.1/a.jpg"), "image link")


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 403, 404])
def test_a_key_of_an_endpoint_is_neither_shown_nor_sent_on(server, status):
    server.status = status
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", PASSWORD, 5.0, 0, 0.0)
    message = refused(lambda: endpoint.ask("m", "hello", 0.0, 5), f"status {status}")
    assert PASSWORD not in message
    assert len(server.headers_seen) == 1


def test_what_is_secret_is_known_by_its_name(monkeypatch):
    for name in ("HF_TOKEN", "MY_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "OPENAI_APIKEY"):
        monkeypatch.setenv(name, f"value of {name}")
        assert f"value of {name}" in secret_values()
        assert name not in redacted(f"x value of {name} y")
    monkeypatch.setenv("HF_TOKEN", "ab")
    assert redacted("cab") == "cab"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host/a", "https://***@host/a"),
        ("https://host/a?token=1&b=2 failed", "https://host/a?*** failed"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        (f"token {TOKEN}!", "token ***!"),
        ("is the cat left of the dog? yes", "is the cat left of the dog? yes"),
        ("/home/me/a.h5: layer 3 was altered", "/home/me/a.h5: layer 3 was altered"),
        ("hub:owner/name@main", "hub:owner/name@main"),
    ],
)
def test_secrets_are_taken_out_and_nothing_else(text, shown):
    assert redacted(text) == shown


def test_a_log_holds_no_secret_whoever_writes_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    handler = logging.FileHandler(tmp_path / "job.log")
    handler.setFormatter(RedactingFormatter("%(message)s"))
    log = logging.getLogger("another library")
    log.addHandler(handler)
    try:
        raise OSError(
            f"GET https://u:{PASSWORD}@host/x?sig={PASSWORD} with {{'authorization': 'Bearer {TOKEN}'}}"
        )
    except OSError:
        log.exception("request failed for %s", TOKEN)
    finally:
        log.removeHandler(handler)
        handler.close()
    text = (tmp_path / "job.log").read_text()
    assert "request failed" in text and "Traceback" in text
    assert TOKEN not in text and PASSWORD not in text


def test_a_log_sends_no_codes_to_the_terminal():
    record = logging.LogRecord(
        "a", logging.INFO, "f", 1, "\x1b[2J\x07 %s\nnext\tline", ("\u202eturned",), None
    )
    shown = RedactingFormatter("%(message)s").format(record)
    assert shown == "<U+001B>[2J<U+0007> <U+202E>turned\nnext\tline"


def test_a_configuration_has_no_place_for_a_key():
    for key in ("api_key", "token", "key", "headers"):
        assert key in refused(lambda key=key: load_config({"labelling": {key: PASSWORD}}), key)
