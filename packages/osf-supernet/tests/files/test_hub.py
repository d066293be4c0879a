"""The real client of the Hub against a server on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import huggingface_hub.constants
import huggingface_hub.errors
import pytest
import torch
from osf_supernet import Supernet, load_supernet, ratios, save_supernet
from osf_supernet.files import pull_from_hub, pull_supernet_from_hub, push_to_hub
from torch import nn

COMMIT = "89abcdef" * 5
REPOSITORY = r"([\w.-]+/[\w.-]+)"


class Hub(ThreadingHTTPServer):
    """Repositories by name (file name → content), whether private, and the tokens seen."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: set[str | None] = set()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = self.path.split("?")[0]
        if found := re.fullmatch(rf"/api/models/{REPOSITORY}(?:/revision/.+)?", path):
            files = self.server.repositories.get(found[1])
            if files is None:
                return self.missing("RepoNotFound")
            listed = [{"rfilename": name} for name in files]
            return self.json({"id": found[1], "sha": COMMIT, "siblings": listed})
        if found := re.fullmatch(rf"/api/models/{REPOSITORY}/tree/.+", path):
            files = self.server.repositories[found[1]]
            return self.json(
                [
                    {"type": "file", "path": n, "size": len(c), "oid": COMMIT}
                    for n, c in files.items()
                ]
            )
        if found := re.fullmatch(rf"/{REPOSITORY}/resolve/[^/]+/(.+)", path):
            content = self.server.repositories.get(found[1], {}).get(found[2])
            return self.missing("EntryNotFound") if content is None else self.send(content)
        return self.missing("EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            owner = asked.get("organization")
            name = f"{owner}/{asked['name']}" if owner else asked["name"]
            if name in self.server.repositories:
                url = f"{self.server.address}/{name}"
                return self.json({"error": "it exists", "url": url}, status=409)
            self.server.repositories[name] = {}
            self.server.private[name] = (
                bool(asked.get("private")) or asked.get("visibility") == "private"
            )
            return self.json({"url": f"{self.server.address}/{name}"})
        if self.path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            return self.json(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in files
                    ]
                }
            )
        found = re.match(rf"/api/models/{REPOSITORY}/commit/", self.path)
        if found is None:
            return self.missing("EntryNotFound")
        for entry in map(json.loads, body.splitlines()):
            if entry["key"] == "file":
                value = entry["value"]
                self.server.repositories[found[1]][value["path"]] = base64.b64decode(
                    value["content"]
                )
        url = f"{self.server.address}/{found[1]}/commit/{COMMIT}"
        return self.json({"commitUrl": url, "commitOid": COMMIT, "pullRequestUrl": None})

    def missing(self, code):
        self.send(b'{"error": "not found"}', status=404, headers={"X-Error-Code": code})

    def json(self, value, status=200):
        self.send(json.dumps(value).encode(), status=status)

    def send(self, content, status=200, headers=None):
        self.send_response(status)
        own = {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT}
        own["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        for name, value in (own | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def running_hub():
    """A Hub that answers inside the block."""
    hub = Hub()
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


def make():
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3)).double()


X = torch.arange(12, dtype=torch.float64).view(2, 6)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with running_hub() as server:
        yield server


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Supernet(make(), X, {"mlp": ratios(0.25, 0.5, 1)})


def test_a_subnet_goes_to_the_hub_and_comes_back(hub, net):
    small = net.extract({"mlp": 4})
    at = {"endpoint": hub.address, "token": "secret"}
    address = push_to_hub(small, "me/small", private=True, **at)
    assert address.endswith(f"me/small/commit/{COMMIT}")
    assert hub.private == {"me/small": True}
    assert hub.tokens == {"Bearer secret"}
    assert set(hub.repositories["me/small"]) >= {"README.md", "model.safetensors", "osf.json"}
    again = pull_from_hub("me/small", make(), **at)
    torch.testing.assert_close(again(X), small(X), rtol=0, atol=0)
    assert again.osf_record["config"] == {"mlp": 4}
    push_to_hub(small, "me/small", **at)  # a repository that exists is written again
    card = hub.repositories["me/small"]["README.md"].decode()
    assert "43 parameters" in card
    assert '"mlp": 4' in card
    assert "secret" not in card


def test_a_supernet_goes_to_the_hub_and_comes_back(hub, net):
    at = {"endpoint": hub.address, "token": "secret"}
    push_to_hub(net, "me/net", **at)
    again = pull_supernet_from_hub("me/net", make(), X, **at)
    assert again.choices == net.choices
    torch.testing.assert_close(again.model(X), net.model(X), rtol=0, atol=0)
    assert "mlp  mlp 16  [4, 8, 16]" in hub.repositories["me/net"]["README.md"].decode()


def test_a_repository_that_is_not_there(hub):
    with pytest.raises(huggingface_hub.errors.RepositoryNotFoundError):
        pull_from_hub("me/nothing", make(), endpoint=hub.address)


def test_a_supernet_folder_fits_one_class_only(net, tmp_path):
    save_supernet(net, tmp_path)
    with pytest.raises(ValueError, match="is of class Sequential, got Linear"):
        load_supernet(tmp_path, nn.Linear(6, 3), X)
