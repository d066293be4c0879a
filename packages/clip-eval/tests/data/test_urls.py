from __future__ import annotations

import errno
from pathlib import Path

import pytest
from clip_eval.data import DataError, ShardCache, check_url, open_location, open_source
from clip_eval.data.urls import base_name, is_unreachable, is_url, read_url


@pytest.mark.parametrize("url", ["https://host/a.tar", "S3://bucket/a", "file:///a"])
def test_schemes_that_are_read(url: str) -> None:
    assert is_url(url)
    assert check_url(url) == url.partition(":")[0].lower()


@pytest.mark.parametrize(
    ("url", "words"),
    [("ssh://host/a", "got ssh://"), ("https://a::https://b", "expected one URL, got several")],
)
def test_other_schemes_and_chains_are_refused(url: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_url(url)
    with pytest.raises(DataError, match=words):
        open_location(url)


def test_files_are_opened_by_path_and_by_url(tmp_path: Path) -> None:
    path = tmp_path / "a b.txt"
    path.write_bytes(b"content")
    for location in (str(path), path.as_uri()):
        with open_location(location) as stream:
            assert stream.read() == b"content"
        assert base_name(location) == "a b.txt"
    assert read_url(path.as_uri()) == b"content"
    assert read_url((tmp_path / "absent").as_uri()) is None


@pytest.mark.parametrize(
    ("url", "package"), [("s3://b/a", "s3fs"), ("gs://b/a", "gcsfs"), ("hf://d/a", "huggingface")]
)
def test_a_missing_package_is_named(
    url: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Absent:
        def open(self, *_: object) -> None:
            raise ImportError("no module")

    monkeypatch.setattr("importlib.import_module", lambda _: Absent())
    with pytest.raises(DataError, match=rf"{url}: .*:// needs the package {package}.*pip install"):
        open_location(url)


def test_a_host_without_a_way_to_it_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it is tried again"))
    with pytest.raises(OSError, match="cannot be fetched"):
        ShardCache(tmp_path).fetch("http://127.0.0.1:9/a.tar")
    with pytest.raises(DataError, match="cannot be read"):
        open_source("wds:http://127.0.0.1:9/{0..3}.tar", cache=ShardCache(tmp_path))
    assert is_unreachable(OSError(errno.ENETUNREACH, "no network"))
    assert not is_unreachable(ConnectionResetError())
