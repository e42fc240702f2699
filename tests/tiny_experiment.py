"""The tiny experiment of tests/workflow/config.yaml: how tests run it, and an endpoint for its features."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "tests" / "workflow" / "config.yaml"
RESULTS = "results/tiny"
# All of them together make every rule run, `descriptions` and published sources aside.
TARGETS = ("all", "world_models", "controls", "stages", "sensitivity", "scoreboard", "chosen")


class Endpoint(BaseHTTPRequestHandler):
    """Answers every chat request, and counts them."""

    def do_POST(self) -> None:
        """Answer a request."""
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls += 1
        self.send_response(200)
        self.end_headers()
        said = "Yes." if b"Does the description fit" in asked else "a place"
        answer = {"message": {"content": said}, "finish_reason": "stop"}
        self.wfile.write(json.dumps({"choices": [answer], "model": "stub"}).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def endpoint() -> Iterator[ThreadingHTTPServer]:
    """Serve chat requests on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.calls = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def submissions() -> dict[str, Any]:
    """Return scores of features and of directions that nothing found, for the scoreboard."""
    features, directions = (str(CONFIG.with_name(f"{name}.csv")) for name in ("features", "directions"))
    return {
        "features": {"file": features, "controls": {"shuffled_images": features}},
        "directions": {"file": directions, "seconds": 1.0},
    }


def settings(port: int) -> dict[str, Any]:
    """Return the experiment's configuration, with scores from files and the endpoint at a port."""
    labelling = {"base_url": f"http://127.0.0.1:{port}/v1", "model": "m", "features": 2}
    values = yaml.safe_load(CONFIG.read_text())
    values["scoreboard"]["submissions"] = submissions()
    values["ablation"]["chosen"] = str(CONFIG.with_name("chosen.csv"))
    return {**values, "labelling": labelling}


def snakemake(
    *arguments: str, config: str | Path = CONFIG, folder: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake as a user would and return what it printed."""
    command = [sys.executable, "-m", "snakemake", "--configfile", str(config), "--cores", "2", *arguments]
    variables = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **environment}
    return subprocess.run(command, cwd=folder, env=variables, text=True, capture_output=True, check=False)
