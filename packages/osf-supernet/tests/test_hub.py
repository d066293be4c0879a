"""The Hub is a local folder here: the client's calls are replaced, its files are real."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from osf_supernet import Supernet, load_supernet, ratios, save_supernet
from osf_supernet.hub import pull_from_hub, pull_supernet_from_hub, push_to_hub
from torch import nn


def make():
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3)).double()


X = torch.arange(12, dtype=torch.float64).view(2, 6)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    calls = []

    class Api:
        def __init__(self, endpoint=None, token=None):
            calls.append(("api", endpoint, token))

        def create_repo(self, name, *, private, exist_ok):
            calls.append(("create", name, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path):
            shutil.copytree(folder_path, tmp_path / repo_id)
            return f"https://hub/{repo_id}/commit/1"

    def snapshot_download(name, *, allow_patterns, **_):
        target = tmp_path / "cache" / name
        target.mkdir(parents=True)
        for pattern in allow_patterns:
            for file in (tmp_path / name).glob(pattern):
                shutil.copy(file, target)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return tmp_path, calls


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Supernet(make(), X, {"mlp": ratios(0.25, 0.5, 1)})


def test_a_subnet_goes_to_the_hub_and_comes_back(hub, net):
    folder, calls = hub
    small = net.extract({"mlp": 4})
    address = push_to_hub(small, "me/small", token="secret", private=True)
    assert address == "https://hub/me/small/commit/1"
    assert calls == [("api", None, "secret"), ("create", "me/small", True, True)]
    again = pull_from_hub("me/small", make())
    torch.testing.assert_close(again(X), small(X), rtol=0, atol=0)
    card = (folder / "me/small/README.md").read_text()
    assert "43 parameters" in card
    assert '"mlp": 4' in card
    assert "secret" not in card


def test_a_supernet_goes_to_the_hub_and_comes_back(hub, net):
    push_to_hub(net, "me/net")
    again = pull_supernet_from_hub("me/net", make(), X)
    assert again.choices == net.choices
    torch.testing.assert_close(again.model(X), net.model(X), rtol=0, atol=0)
    assert "mlp  mlp 16  [4, 8, 16]" in (hub[0] / "me/net/README.md").read_text()


def test_a_supernet_folder_fits_one_class_only(net, tmp_path):
    save_supernet(net, tmp_path)
    with pytest.raises(ValueError, match="is of class Sequential, got Linear"):
        load_supernet(tmp_path, nn.Linear(6, 3), X)
    assert Path(tmp_path, "osf_supernet.json").exists()
