"""A hub on this machine: as much of the Hugging Face hub's HTTP API as its client needs here."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a mapping from file names to contents."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?(\?.*)?", self.path):
            files = self.server.repositories.get(match[1])
            if files is None:
                self.reply(404, {"error": "Repository not found"}, code="RepoNotFound")
            else:
                siblings = [{"rfilename": name} for name in files]
                self.reply(200, {"id": match[1], "sha": COMMIT, "siblings": siblings})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+?)(\?.*)?", self.path):
            files = self.server.repositories.get(match[1])
            if files is None:
                self.reply(404, {"error": "Repository not found"}, code="RepoNotFound")
            elif match[2] not in files:
                self.reply(404, {"error": "Entry not found"}, code="EntryNotFound")
            else:
                self.send(200, files[match[2]])
        elif match := re.match(r"/api/models/([^/]+/[^/]+)/tree/", self.path):
            files = self.server.repositories.get(match[1], {})
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": COMMIT}
                for name, content in files.items()
            ]
            self.reply(200, entries)
        else:
            self.reply(404, {"error": f"no {self.path} here"})

    def do_POST(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = (
                f"{asked['organization']}/{asked['name']}"
                if asked.get("organization")
                else asked["name"]
            )
            if name in self.server.repositories:
                self.reply(409, {"error": "it exists", "url": f"{self.server.address}/{name}"})
            else:
                self.server.repositories[name] = {}
                self.reply(200, {"url": f"{self.server.address}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.reply(200, {"errors": [], "warnings": []})
        elif re.search(r"/preupload/", self.path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.reply(200, {"files": files})
        elif match := re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.server.repositories[match[1]][entry["value"]["path"]] = content
                elif entry["key"] == "deletedFile":
                    del self.server.repositories[match[1]][entry["value"]["path"]]
            url = f"{self.server.address}/{match[1]}/commit/{COMMIT}"
            self.reply(200, {"commitUrl": url, "commitOid": COMMIT, "pullRequestUrl": None})
        else:
            self.reply(404, {"error": f"no {self.path} here"})

    def reply(self, status: int, values: Any, *, code: str | None = None) -> None:
        self.send(status, json.dumps(values).encode(), code=code, kind="application/json")

    def send(
        self, status: int, content: bytes, *, code: str | None = None, kind: str = "text/plain"
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
