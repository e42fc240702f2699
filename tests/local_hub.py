"""A server that speaks as much of the hub's interface as fetching takes, of repositories in folders."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c" * 40


class LocalHub(ThreadingHTTPServer):
    """Repositories `owner/name` in a folder, all at one commit.

    Attributes:
        root: folder of the repositories.
        commit: what every revision stands for.
        errors: status and error code of what cannot be had, by `owner/name` or `owner/name@revision`.
        sent: paths of files that were sent, in their order.
    """

    def __init__(self, root: Path, errors: Mapping[str, tuple[int, str]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.errors, self.commit, self.sent = root, errors, COMMIT, []

    @property
    def url(self) -> str:
        """Address, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers about models: what there is, lists of files, files."""

    server: LocalHub

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, b"{}", X_Error_Code=code, X_Error_Message="no")

    def tell(self, found: Any) -> None:
        self.answer(200, json.dumps(found).encode(), Content_Type="application/json")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        for name, error in self.server.errors.items():
            repository, _, revision = name.partition("@")
            if repository in path and revision in path:
                return self.refuse(*error)
        owner, name, *rest = path.removeprefix("api/models/").split("/")
        folder = self.server.root / owner / name
        if not folder.is_dir():
            return self.refuse(401, "RepoNotFound")
        if not path.startswith("api/models/"):
            return self.send(folder, "/".join(rest[2:]))
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        names = [str(file.relative_to(folder)) for file in files]
        if rest[:1] == ["tree"]:
            rows = zip(names, files, strict=True)
            return self.tell(
                [{"type": "file", "path": n, "size": f.stat().st_size, "oid": oid(f)} for n, f in rows]
            )
        told = {"id": f"{owner}/{name}", "modelId": f"{owner}/{name}", "sha": self.server.commit}
        siblings = [{"rfilename": name} for name in names]
        return self.tell(told | {"private": False, "siblings": siblings, "tags": [], "downloads": 0})

    def send(self, folder: Path, name: str) -> None:
        file = folder / name
        if not file.is_file():
            return self.refuse(404, "EntryNotFound")
        if self.command == "GET":
            self.server.sent.append(f"{folder.name}/{name}")
        return self.answer(200, file.read_bytes(), ETag=f'"{oid(file)}"', X_Repo_Commit=self.server.commit)

    def log_message(self, *_: Any) -> None:
        pass


def oid(file: Path) -> str:
    """Return what stands for a file's content."""
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def serving(root: Path, errors: Mapping[str, tuple[int, str]] | None = None) -> Iterator[LocalHub]:
    """Serve a folder of repositories on a free port of this machine."""
    server = LocalHub(root, errors or {})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
