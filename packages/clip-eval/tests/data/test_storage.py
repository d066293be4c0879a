from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from clip_eval.data.storage import atomic_path, cache_directory, lock_file


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic_path(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    with pytest.raises(TypeError), atomic_path(path) as temporary:
        temporary.write_text(b"two")  # type: ignore[arg-type]
    assert path.read_text() == "one"
    assert os.listdir(tmp_path) == ["a"]


def test_the_cache_lies_where_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "clip-eval"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "clip-eval"


def test_a_lock_is_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with lock_file(tmp_path / "lock"):
            pass


def test_a_read_only_file_system_gives_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with (
        pytest.raises(OSError, match="Read-only file system"),
        atomic_path(tmp_path / "a") as temporary,
    ):
        temporary.write_bytes(b"x")
