from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from clip_eval import EvaluationError, read_embeddings
from clip_eval.cli.main import main
from clip_eval.encoding.embedding_files import Embeddings, write_embeddings
from pyarrow import parquet


@pytest.fixture
def embed(trained_directory: Path) -> Callable[..., int]:
    return lambda *more: main(
        ["embed", "--model", str(trained_directory), *map(str, more)]
        + ([] if "--texts" in more else ["--quiet"])
    )


def test_images(
    embed: Callable[..., int],
    color_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (color_folder / "red" / "bad.png").write_bytes(b"")
    out = tmp_path / "deep" / "images.npz"
    assert embed("--data", color_folder, "--out", out, "--batch-size", 5) == 0
    shown = capsys.readouterr().out
    assert "12 embeddings of 8, 1 skipped" in shown
    assert "skipped: red/bad.png: empty" in shown
    with np.load(out) as found:
        assert found["features"].shape == (12, 8)
        np.testing.assert_allclose(np.linalg.norm(found["features"], axis=1), 1, atol=1e-5)
        assert found["labels"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert found["keys"][0] == "blue/0.png"
        near = found["features"] @ found["features"].T
    assert near[:4, :4].min() > near[:4, 4:].max()
    assert embed("--data", color_folder, "--out", out) == 2
    assert "exists already" in capsys.readouterr().err


def test_texts_as_a_table(embed: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a red thing\n\na blue thing\n")
    assert embed("--texts", tmp_path / "texts.txt", "--out", tmp_path / "t.parquet") == 0
    table = parquet.read_table(tmp_path / "t.parquet").to_pydict()
    assert table["key"] == ["a red thing", "a blue thing"]
    assert len(table["embedding"][0]) == 8


def test_what_was_written_is_read(embed: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a red thing\na blue thing\n")
    for suffix in ("npz", "parquet"):
        out = tmp_path / f"t.{suffix}"
        assert embed("--texts", tmp_path / "texts.txt", "--out", out) == 0
    (keys, features), again = map(read_embeddings, sorted(tmp_path.glob("t.*")))
    assert keys == again[0] == ["a red thing", "a blue thing"]
    assert features.shape == (2, 8)
    np.testing.assert_array_equal(features, again[1])
    assert read_embeddings(str(tmp_path / "t.npz"))[0] == keys


def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    rows = np.zeros((2, 3), np.float32)
    np.savez(tmp_path / "cut.npz", keys=["a", "b"], features=rows)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-40])
    (tmp_path / "words.npz").write_bytes(b"no archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, rows)
    np.savez(tmp_path / "other.npz", weights=rows)
    parquet.write_table(pyarrow.table({"key": ["a"], "embedding": [1.0]}), tmp_path / "1.parquet")
    parquet.write_table(pyarrow.table({"key": ["a"]}), tmp_path / "2.parquet")
    (tmp_path / "3.parquet").write_bytes(b"")
    for path in [*tmp_path.iterdir(), tmp_path / "t.csv"]:
        with pytest.raises(EvaluationError, match="a file of `clip-eval embed`"):
            read_embeddings(path)
    for name, features in (("fewer", rows[:1]), ("more", np.zeros((5, 3))), ("flat", rows[:, 0])):
        np.savez(tmp_path / f"{name}.npz", keys=["a", "b"], features=features)
        with pytest.raises(EvaluationError, match="a row of features for each of 2 keys, got"):
            read_embeddings(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_a_flipped_bit_is_refused(suffix: str, tmp_path: Path) -> None:
    path, rows = tmp_path / f"e.{suffix}", np.arange(48, dtype=np.float32).reshape(16, 3)
    write_embeddings(path, Embeddings(rows, list("abcdefghijklmnop"), np.zeros(16, np.int64)))
    data = bytearray(path.read_bytes())
    data[data.index(rows[5].tobytes()) + 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(EvaluationError, match=r"e\.\w+ is not a file of"):
        read_embeddings(path)


def test_a_key_that_is_no_utf_8_is_written(tmp_path: Path) -> None:
    found = Embeddings(np.ones((1, 3), np.float32), ["\udcff.png"], np.zeros(1, np.int64))
    for suffix, key in (("npz", "\udcff.png"), ("parquet", "\\udcff.png")):
        write_embeddings(tmp_path / f"e.{suffix}", found)
        assert read_embeddings(tmp_path / f"e.{suffix}")[0] == [key]


def test_another_suffix_is_refused(
    embed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("x\n")
    assert embed("--texts", tmp_path / "texts.txt", "--out", tmp_path / "t.csv") == 2
    assert ".npz or .parquet" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.txt"]
    (tmp_path / "texts.txt").write_text("\n\n")
    assert embed("--texts", tmp_path / "texts.txt", "--out", tmp_path / "t.npz") == 2
    assert "expected at least one text" in capsys.readouterr().err


def test_a_small_file_that_grows_is_refused_before_it_does(tmp_path: Path) -> None:
    np.savez_compressed(
        tmp_path / "bomb.npz", features=np.zeros((1, 10**6), np.float32), keys=["a"], labels=[0]
    )
    with pytest.raises(EvaluationError, match="it would grow to 4,000,"):
        read_embeddings(tmp_path / "bomb.npz")
