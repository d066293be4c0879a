"""Shards behind URLs, through a cache on disk, from a real local server."""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from clip_eval.data import BadSample, DataError
from clip_eval.data.readers.webdataset import WebDataset
from clip_eval.data.shards.cache import ShardCache, ShardFile


class Served(NamedTuple):
    url: str
    root: Path
    asked: list[str]  # paths in the order they were asked for
    failures: list[int]  # status codes to answer first


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    root = tmp_path / "served"
    root.mkdir()
    asked: list[str] = []
    failures: list[int] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if failures:
                self.send_error(failures.pop(0))
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("clip_eval.data.shards.cache.FIRST_PAUSE", 0.01)
    handler = functools.partial(Handler, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield Served(f"http://127.0.0.1:{http.server_port}", root, asked, failures)
        http.shutdown()
        thread.join()


def shards(root: Path, write_tar: Callable[..., Path], count: int = 3) -> None:
    for shard in range(count):
        files = {}
        for number in range(4):
            files[f"{shard}{number}.jpg"] = bytes([shard, number]) * 500
            files[f"{shard}{number}.txt"] = f"{shard} {number}".encode()
        write_tar(root / f"{shard:03}.tar", files)


def test_shards_behind_urls_are_read_like_local_ones(
    server: Served, write_tar: Callable[..., Path]
) -> None:
    shards(server.root, write_tar)
    remote = WebDataset(f"{server.url}/{{000..002}}.tar")
    assert not list(server.root.glob("*.idx"))
    local = WebDataset(server.root)
    order = (11, 0, 5, 6, 1)
    assert [remote.read(i) for i in order] == [local.read(i) for i in order]
    assert remote.shard_sizes == (4, 4, 4)
    again = pickle.loads(pickle.dumps(remote))
    assert again.read(3) == local.read(3)
    fetched = [path for path in server.asked if path.endswith(".tar")]
    assert sorted(fetched) == ["/000.tar", "/001.tar", "/002.tar"]
    WebDataset(f"{server.url}/{{000..002}}.tar")  # the index stays, whatever happens to shards
    assert [path for path in server.asked if path.endswith(".tar")] == fetched


def test_an_index_beside_a_remote_shard_saves_fetching_the_shard(
    server: Served, write_tar: Callable[..., Path]
) -> None:
    shards(server.root, write_tar)
    expected = WebDataset(server.root).read(7)  # writes the index files
    remote = WebDataset(f"{server.url}/{{000..002}}.tar")
    assert not [path for path in server.asked if path.endswith(".tar")]
    assert remote.read(7) == expected
    assert [path for path in server.asked if path.endswith(".tar")] == ["/001.tar"]


def test_the_cache_keeps_its_bound_and_the_shards_used_last(
    server: Served, tmp_path: Path, write_tar: Callable[..., Path]
) -> None:
    shards(server.root, write_tar, 5)
    size = (server.root / "000.tar").stat().st_size
    cache = ShardCache(tmp_path / "small", max_bytes=2 * size)
    source = WebDataset(f"{server.url}/{{000..004}}.tar", cache=cache)

    def held() -> list[str]:
        return sorted(path.name[-7:] for path in (tmp_path / "small").glob("*.tar"))

    assert len(held()) <= 2
    for index in (0, 4, 0, 8):
        source._index._files.close()
        source.read(index)
    assert held() == ["000.tar", "002.tar"]
    assert [source.read(i).captions for i in range(20)] == [
        (f"{i // 4} {i % 4}",) for i in range(20)
    ]
    assert len(held()) <= 2


def test_a_file_larger_than_the_cache_is_refused(server: Served, tmp_path: Path) -> None:
    (server.root / "big").write_bytes(bytes(1000))
    with pytest.raises(OSError, match="more than the cache may hold"):
        ShardCache(tmp_path / "c", max_bytes=999).fetch(f"{server.url}/big")
    assert not [path for path in (tmp_path / "c").iterdir() if path.suffix != ".lock"]


def test_passing_failures_are_tried_again_and_lasting_ones_named(
    server: Served, tmp_path: Path, write_tar: Callable[..., Path]
) -> None:
    shards(server.root, write_tar, 1)
    server.failures.extend([503, 500])
    cache = ShardCache(tmp_path / "c")
    assert (
        cache.fetch(f"{server.url}/000.tar").read_bytes() == (server.root / "000.tar").read_bytes()
    )
    assert server.asked.count("/000.tar") == 3
    with pytest.raises(OSError, match=r"absent\.tar cannot be fetched \(HTTP 404\)"):
        cache.fetch(f"{server.url}/absent.tar")
    assert server.asked.count("/absent.tar") == 1
    with pytest.raises(DataError, match=r"absent\.tar: cannot be read"):
        WebDataset(f"{server.url}/absent.tar")


def test_a_shard_that_vanishes_gives_bad_samples(
    server: Served, tmp_path: Path, write_tar: Callable[..., Path]
) -> None:
    shards(server.root, write_tar, 2)
    size = (server.root / "000.tar").stat().st_size
    source = WebDataset(
        f"{server.url}/{{000..001}}.tar", cache=ShardCache(tmp_path / "one", max_bytes=size)
    )
    (server.root / "000.tar").unlink()
    (server.root / "001.tar").unlink()
    for path in (tmp_path / "one").glob("*.tar"):
        path.unlink()
    source._index._files.close()
    with pytest.raises(BadSample, match=r"001\.tar, sample 1: unreadable.*HTTP 404"):
        source.read(5)


def test_the_benchmark_layout_behind_a_url(server: Served, color_shards: Path) -> None:
    for path in color_shards.rglob("*"):
        if path.is_file():
            target = server.root / path.relative_to(color_shards)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    remote, local = WebDataset(server.url), WebDataset(color_shards)
    assert remote.classnames == local.classnames
    assert remote.templates == local.templates
    assert [remote.read(i) for i in range(12)] == [local.read(i) for i in range(12)]
    with pytest.raises(DataError, match=r"expected train/nshards\.txt below it"):
        WebDataset(server.url, split="train")


def test_local_and_remote_files_know_what_they_are(tmp_path: Path) -> None:
    remote = ShardFile("https://host/a%20b/c.tar?x=1")
    assert (remote.name, remote.is_remote, remote.is_cached) == ("c.tar", True, True)
    (tmp_path / "x.tar.gz").write_bytes(b"")
    local = ShardFile(str(tmp_path / "x.tar.gz"), unzip=True)
    assert (local.name, local.is_remote, local.is_cached) == ("x.tar.gz", False, True)
