from __future__ import annotations

from pathlib import Path

import pytest
from clip_eval.data import DataError, check_url, open_location
from clip_eval.data.urls import base_name, is_url, read_url


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
