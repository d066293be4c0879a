from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clip_eval.data.shards.cache import ShardCache
from clip_eval.data.storage import atomic_path, cache_directory, lock_file
from clip_eval.encoding.embedding_files import Embeddings, write_embeddings


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of more than 4 KiB cannot be written, as on a full disk or above a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


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


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.usefixtures("small_files")
def test_embeddings_that_cannot_be_written_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    features = np.random.default_rng(0).random((99, 32), dtype=np.float32)
    rows = Embeddings(features, [str(n) for n in range(99)], np.zeros(99, np.int64))
    for kept in ("there is no part of it", "the earlier file is unchanged"):
        with pytest.raises(OSError, match=f"File too large; {kept}") as caught:
            write_embeddings(path, rows)
        assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
        path.write_text("earlier")
    assert list(tmp_path.iterdir()) == [path]


def test_a_shard_that_does_not_fit_on_the_disk_is_named(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "a.tar").write_bytes(b"a" * 9999)
    request.getfixturevalue("small_files")
    cache = ShardCache(tmp_path / "cache")
    with pytest.raises(OSError, match="File too large; other files of the cache") as caught:
        cache.fetch((tmp_path / "a.tar").as_uri())
    assert str(caught.value.filename).startswith(str(tmp_path / "cache"))
