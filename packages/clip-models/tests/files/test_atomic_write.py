"""Files that cannot be written are named, with what is still whole."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from clip_models.files.atomic_write import copy_file, save_json, save_tensors, save_text
from clip_models.files.conversion import _write_file


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of more than 4 KiB cannot be written, as on a full disk or above a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


LARGE = {"weight": torch.zeros(9999)}
WRITERS: dict[str, Callable[[Path], None]] = {
    "a.json": lambda path: save_json(path, {"a": "a" * 9999}),
    "a.txt": lambda path: save_text(path, "a" * 9999),
    "a.safetensors": lambda path: save_tensors(path, LARGE),
    "a.npz": lambda path: _write_file(path, LARGE),
    "a.pt": lambda path: _write_file(path, LARGE),
}


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_cannot_be_written_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for kept in ("there is no part of it", "the earlier file is unchanged"):
        with pytest.raises(OSError, match=f"File too large; {kept}") as caught:
            WRITERS[name](path)
        assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
        assert list(tmp_path.iterdir()) == ([path] if "earlier" in kept else [])
        path.write_text("earlier")
    assert path.read_text() == "earlier"


def test_a_copy_that_cannot_be_written_names_the_copy(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"a" * 9999)
    request.getfixturevalue("small_files")
    with pytest.raises(OSError, match="File too large; there is no part of it") as caught:
        copy_file(source, tmp_path / "copy")
    assert caught.value.filename == str(tmp_path / "copy")
    with pytest.raises(FileNotFoundError) as caught:
        copy_file(tmp_path / "missing", tmp_path / "copy")
    assert caught.value.filename == str(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == [source]
