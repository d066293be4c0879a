from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from clip_eval.data import DataError
from clip_eval.data.patterns import expand_braces
from clip_eval.data.shards.paths import find_shards


def test_braces_count_and_list() -> None:
    assert expand_braces("a.tar") == ["a.tar"]
    assert expand_braces("{008..011}.tar") == ["008.tar", "009.tar", "010.tar", "011.tar"]
    assert expand_braces("{8..10}") == ["8", "9", "10"]
    assert expand_braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]


@pytest.mark.parametrize("pattern", ["{3..1}.tar", "{x}.tar"])
def test_bad_braces_are_refused(pattern: str) -> None:
    with pytest.raises(DataError):
        expand_braces(pattern)


@pytest.fixture
def shards(tmp_path: Path, write_tar: Callable[..., Path]) -> Path:
    for number in range(12):
        write_tar(tmp_path / "d" / f"s-{number}.tar", {})
    return tmp_path / "d"


def test_numbers_sort_as_numbers(shards: Path) -> None:
    names = [Path(path).name for path in find_shards(str(shards)).shards]
    assert names == [f"s-{number}.tar" for number in range(12)]
    assert [Path(path).name for path in find_shards(str(shards / "*.tar")).shards] == names


def test_a_gap_is_a_missing_shard_unless_a_glob_is_given(shards: Path) -> None:
    (shards / "s-7.tar").unlink()
    with pytest.raises(DataError, match=r"missing shard .*s-7\.tar;"):
        find_shards(str(shards))
    with pytest.raises(DataError, match=r"missing shard .*s-7\.tar, of"):
        find_shards(str(shards / "s-{0..11}.tar"))
    assert len(find_shards(str(shards / "*.tar")).shards) == 11


def test_counted_shards_must_all_be_there(color_shards: Path) -> None:
    (color_shards / "test" / "1.tar").unlink()
    with pytest.raises(DataError, match=r"missing shard .*1\.tar, of the 2 that nshards.txt"):
        find_shards(str(color_shards))
    (color_shards / "test" / "nshards.txt").write_text("many")
    with pytest.raises(DataError, match="expected the number of shards, got 'many'"):
        find_shards(str(color_shards))


def test_the_split_is_found_or_asked_for(
    color_shards: Path, write_tar: Callable[..., Path]
) -> None:
    assert find_shards(str(color_shards)).name == "wds/test"
    write_tar(color_shards / "train" / "0.tar", {})
    assert find_shards(str(color_shards)).name == "wds/test"
    assert find_shards(str(color_shards), split="train").name == "wds/train"
    (color_shards / "test").rename(color_shards / "val")
    assert find_shards(str(color_shards)).name == "wds/val"
    (color_shards / "val").rename(color_shards / "more")
    with pytest.raises(DataError, match=r"several splits \(more, train\)"):
        find_shards(str(color_shards))
    with pytest.raises(DataError, match="no split 'test'; there are more, train"):
        find_shards(str(color_shards), split="test")


def test_nothing_there(tmp_path: Path) -> None:
    for pattern, words in (
        (str(tmp_path), "no .tar shards"),
        (str(tmp_path / "*.tar"), "no file matches"),
        (str(tmp_path / "a.tar"), "no such file"),
    ):
        with pytest.raises(DataError, match=words):
            find_shards(pattern)
