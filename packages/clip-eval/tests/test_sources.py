from __future__ import annotations

from pathlib import Path

import pytest
from clip_eval.data import DataError, open_source
from clip_eval.data.image_folder import ImageFolder
from clip_eval.data.shards.webdataset import WebDataset


def test_a_bare_path_is_recognised(colour_folder: Path, colour_shards: Path) -> None:
    assert isinstance(open_source(colour_folder), ImageFolder)
    for path in (
        colour_shards,
        colour_shards / "test",
        colour_shards / "test" / "0.tar",
        colour_shards / "test" / "{0..1}.tar",
        colour_shards / "test" / "*.tar",
    ):
        assert isinstance(open_source(path), WebDataset)


def test_kinds_say_what_to_read(colour_folder: Path, colour_shards: Path) -> None:
    assert len(open_source(f"imagefolder:{colour_folder}")) == 12
    assert len(open_source(f"wds:{colour_shards}", split="test")) == 12


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("imagfolder:x", "did you mean imagefolder:"),
        ("parket:x", "did you mean parquet:"),
        ("wds:", "expected a path after wds:"),
        ("absent/dir", "no such file or directory"),
    ],
)
def test_what_is_not_understood_says_what_is_expected(spec: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_source(spec)


def test_other_files_and_empty_directories(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        open_source(tmp_path)
    (tmp_path / "x.zip").write_text("x")
    with pytest.raises(DataError, match="not a kind of data"):
        open_source(tmp_path / "x.zip")


def test_a_path_with_a_colon_in_it_is_a_path(tmp_path: Path, encode: object) -> None:
    folder = tmp_path / "a:b" / "cat"
    folder.mkdir(parents=True)
    assert callable(encode)
    (folder / "1.png").write_bytes(encode((1, 2, 3)))
    assert len(open_source(tmp_path / "a:b")) == 1
