from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clip_eval import EvaluationError, read_embeddings
from clip_eval.cli import main


@pytest.fixture
def embed(trained_directory: Path) -> Callable[..., int]:
    return lambda *more: main(
        ["embed", "--model", str(trained_directory), *map(str, more)]
        + ([] if "--texts" in more else ["--quiet"])
    )


def test_images(
    embed: Callable[..., int],
    colour_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (colour_folder / "red" / "bad.png").write_bytes(b"")
    out = tmp_path / "deep" / "images.npz"
    assert embed("--data", colour_folder, "--out", out, "--batch-size", 5) == 0
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
    assert embed("--data", colour_folder, "--out", out) == 2
    assert "exists already" in capsys.readouterr().err


def test_texts_as_a_table(embed: Callable[..., int], tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

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
    (tmp_path / "t.npz").write_bytes(b"no archive")
    for name in ("t.npz", "t.csv"):
        with pytest.raises(EvaluationError, match="a file of `clip-eval embed`"):
            read_embeddings(tmp_path / name)


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
