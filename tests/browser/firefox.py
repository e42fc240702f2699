"""A Firefox without a screen, spoken to by WebDriver BiDi, the protocol that it has built in."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import websocket

PATIENCE_S = 60.0


class Firefox:
    """Opens pages and runs scripts in them.

    Attributes:
        problems: what the pages' consoles told, if it was worse than information.
    """

    def __init__(self, folder: Path) -> None:
        """Start it with a profile of its own in a folder."""
        command = [shutil.which("firefox-esr"), "--headless", "--no-remote", "--profile", str(folder)]
        self.process = subprocess.Popen(
            [*command, "--remote-debugging-port", "0"], stderr=subprocess.PIPE, text=True
        )
        told = next(line for line in self.process.stderr if "WebDriver BiDi listening on" in line)
        self.channel = websocket.create_connection(
            told.split()[-1] + "/session", timeout=PATIENCE_S, suppress_origin=True
        )
        self.asked, self.problems = 0, []
        self.ask("session.new", capabilities={})
        self.ask("session.subscribe", events=["log.entryAdded"])
        self.tab = self.ask("browsingContext.getTree")["contexts"][0]["context"]

    def __enter__(self) -> Firefox:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self.process.terminate()
        self.process.wait()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self.asked += 1
        self.channel.send(json.dumps({"id": self.asked, "method": method, "params": params}))
        while True:
            answer = json.loads(self.channel.recv())
            if answer.get("id") == self.asked:
                assert answer["type"] == "success", answer
                return answer["result"]
            if answer.get("method") == "log.entryAdded" and answer["params"]["level"] in ("error", "warn"):
                self.problems.append(answer["params"]["text"])

    def get(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self.ask("browsingContext.navigate", context=self.tab, url=url, wait="complete")

    def run(self, expression: str) -> Any:
        """Return the value of an expression in the page, by way of JSON."""
        code = f"(async () => JSON.stringify(await ({expression})))()"
        found = self.ask("script.evaluate", expression=code, target={"context": self.tab}, awaitPromise=True)
        assert found["type"] == "success", found
        return json.loads(found["result"]["value"])

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        ends = time.monotonic() + PATIENCE_S
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < ends, f"{expression} never became true"
            time.sleep(0.05)
