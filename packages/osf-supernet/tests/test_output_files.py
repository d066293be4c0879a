"""What exists is set aside under a free name, wherever it is named from."""

from __future__ import annotations

from pathlib import Path

import pytest
from osf_supernet.output_files import make_new_directory


@pytest.mark.parametrize("name", [".", "{directory}"])
def test_an_occupied_directory_is_set_aside(name, tmp_path, monkeypatch):
    directory = tmp_path / "net"
    directory.mkdir()
    (directory / "file").touch()
    monkeypatch.chdir(directory)
    make_new_directory(Path(name.format(directory=directory)), overwrite=True)
    assert list(directory.iterdir()) == []
    assert (tmp_path / "net.old-1" / "file").is_file()
