"""What exists is set aside under a free name; what cannot be written is named."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from osf_supernet import SearchConfig, Supernet, ratios, search_subnets
from osf_supernet.files.folders import save_supernet
from osf_supernet.output_files import make_new_directory, write_text
from torch import nn


@pytest.fixture
def small_files():
    """Files of more than 4 KiB cannot be written, as on a full disk or above a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", [".", "{directory}"])
def test_an_occupied_directory_is_set_aside(name, tmp_path, monkeypatch):
    directory = tmp_path / "net"
    directory.mkdir()
    (directory / "file").touch()
    monkeypatch.chdir(directory)
    make_new_directory(Path(name.format(directory=directory)), overwrite=True)
    assert list(directory.iterdir()) == []
    assert (tmp_path / "net.old-1" / "file").is_file()


@pytest.mark.usefixtures("small_files")
def test_files_that_cannot_be_written_are_named(tmp_path):
    path = tmp_path / "front.json"
    with pytest.raises(OSError, match="File too large; there is no part of it") as caught:
        write_text(path, "a" * 9999)
    assert caught.value.filename == str(path)
    write_text(path, "earlier")
    with pytest.raises(OSError, match="the earlier file is unchanged"):
        write_text(path, "a" * 9999)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "earlier"


@pytest.mark.usefixtures("small_files")
def test_a_search_and_weights_that_cannot_be_written_are_named(tmp_path):
    model = nn.Sequential(nn.Linear(6, 512), nn.GELU(), nn.Linear(512, 3))
    shares = ratios(*(n / 256 for n in range(1, 257)))
    net = Supernet(model, torch.randn(2, 6), {"mlp": shares})
    with pytest.raises(OSError, match=r"File too large.*; there is no part of it") as caught:
        save_supernet(net, tmp_path)
    assert caught.value.filename == str(tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []
    config = SearchConfig(population=200, generations=1)
    with pytest.raises(OSError, match="File too large; the scores before are whole") as caught:
        search_subnets(net, lambda _: 0.0, config, folder=tmp_path)
    assert Path(caught.value.filename).parent == tmp_path
