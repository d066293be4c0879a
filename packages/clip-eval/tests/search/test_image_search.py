"""Search by words and by an image: exact, through an index, from Python and as a command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_eval import EvaluationError, ImageSearch, load_for_evaluation, read_embeddings
from clip_eval.cli.main import main
from clip_eval.data import DataError, open_source
from clip_eval.encoding.embedding_files import Embeddings, write_embeddings
from clip_eval.encoding.embedding_parts import read_embedding_file
from clip_eval.search.faiss_index import FaissIndex
from clip_eval.search.image_search import find_nearest
from PIL import Image

COLORS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


@pytest.fixture
def photos(tmp_path: Path, encode: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of photos without classes, some of them deeper, one broken, one hidden."""
    folder = tmp_path / "photos"
    (folder / "2024" / "june").mkdir(parents=True)
    (folder / ".trash").mkdir()
    for number, (name, color) in enumerate(COLORS.items()):
        (folder / f"{name}.png").write_bytes(encode(color, seed=number))
        (folder / "2024" / "june" / f"{name}.JPG").write_bytes(encode(color, "JPEG", number))
    (folder / ".trash" / "old.png").write_bytes(encode(COLORS["red"]))
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def embed(trained_directory: Path) -> Callable[..., int]:
    return lambda *more: main(
        ["embed", *map(str, more), "--model", str(trained_directory), "--quiet"]
    )


def colors(keys: list[str]) -> list[str]:
    return [re.split(r"[/.]", key)[-2] for key in keys]


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_a_folder_is_embedded_and_searched(
    suffix: str, photos: Path, embed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"photos.{suffix}"
    assert embed("photos", "--out", out) == 0
    assert "6 embeddings of 8, 1 skipped" in capsys.readouterr().out
    assert len(read_embeddings(out)[0]) == 6
    query = ["search", "a red thing", "--image", "photos/blue.png", "--in", out, "--top", "2"]
    assert main(query) == 0  # the model is remembered
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "a red thing"
    assert colors([line.split()[-1] for line in shown[1:3]]) == ["red", "red"]
    assert shown[4] == "photos/blue.png"
    assert shown[5].split() == ["1", "1.000", "photos/blue.png"]
    assert shown[6].endswith("photos/2024/june/blue.JPG")
    assert main([*query, "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["query"], second["query"]) == ("a red thing", "photos/blue.png")
    assert [len(one["found"]) for one in (first, second)] == [2, 2]


def test_the_page_holds_the_pictures_and_opens_no_file(
    photos: Path, embed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(photos, "--out", "photos.npz") == 0
    photos.rename(photos.with_name("moved"))
    query = ["search", "a <b>red</b> thing", "--in", "photos.npz", "--html"]
    assert main(query) == 0
    page = Path("search.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/') == 6
    assert "a &lt;b&gt;red" in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    capsys.readouterr()
    assert main(query) == 2
    assert "search.html exists already" in capsys.readouterr().err
    assert main([*query[:-1], "--out", "other.html"]) == 0
    assert embed("moved", "--thumbnails", "0", "--out", "bare.npz") == 0
    assert main(["search", "red", "--in", "bare.npz", "--html", "bare.html"]) == 0
    assert Path("bare.html").read_text(encoding="utf-8").count("no picture kept") == 6


def test_what_a_stranger_puts_into_thumbnails_is_no_more_than_a_picture(
    photos: Path, trained_directory: Path
) -> None:
    rows = np.eye(8, dtype=np.float32)[:3]
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    bad = Embeddings(
        rows, ["/etc/passwd", "b", "c"], np.zeros(3, np.int64), thumbnails=(svg, b"", b"x")
    )
    write_embeddings(Path("bad.npz"), bad)
    command = ["search", "red", "--in", "bad.npz", "--html", "bad.html"]
    assert main([*command, "--model", str(trained_directory)]) == 0
    page = Path("bad.html").read_text(encoding="utf-8")
    assert page.count("no picture kept") == 3
    assert "alert" not in page


def test_wrong_turns(
    photos: Path,
    embed: Callable[..., int],
    trained_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert embed(photos, "--out", "photos.npz") == 0

    def fails(words: str, *command: object) -> None:
        capsys.readouterr()
        assert main([*map(str, command)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1

    model = ("--model", trained_directory)
    fails("expected words", "search", "--in", "photos.npz")
    fails("No such file", "search", "x", "--in", "absent.npz")
    fails("No such file", "search", "--image", "absent.png", "--in", "photos.npz")
    fails("photos/broken.jpg", "search", "--image", "photos/broken.jpg", "--in", "photos.npz")
    fails("one of: image files", "embed", *model, "--out", "x.npz")
    fails("one of: image files", "embed", "photos", "--data", "photos", *model, "--out", "x.npz")
    (tmp_path / "empty").mkdir()
    fails("no image in this directory", "embed", "empty", *model, "--out", "x.npz")
    write_embeddings(
        Path("theirs.npz"), read_embedding_file("photos.npz")._replace(weights="0" * 64)
    )
    fails("name it with --model", "search", "x", "--in", "theirs.npz")
    fails("has other weights", "search", "x", "--in", "theirs.npz", *model)
    narrow = Embeddings(np.eye(3, dtype=np.float32), ["a", "b", "c"], np.zeros(3, np.int64))
    write_embeddings(Path("narrow.npz"), narrow)
    fails("embeddings of 3 numbers", "search", "x", "--in", "narrow.npz", *model)


def test_from_python(photos: Path, trained_directory: Path) -> None:
    search = ImageSearch.embed(load_for_evaluation(trained_directory), [photos])
    assert len(search) == 6
    found = search.find("a green thing", top=2)
    assert colors([match.key for match in found]) == ["green", "green"]
    assert found[0].score >= found[1].score
    (same, _), (other, _) = search.find_all(
        [photos / "red.png", Image.new("RGB", (9, 9), "blue")], top=2
    )
    assert same.key.endswith("photos/red.png")
    assert same.score == pytest.approx(1, abs=1e-5)
    assert colors([other.key]) == ["blue"]
    assert len(search.find("red", top=99)) == 6
    with pytest.raises(DataError, match="no such file"):
        ImageSearch.embed(load_for_evaluation(trained_directory), [photos / "absent"])


def test_a_data_set_can_be_searched(color_folder: Path, trained_directory: Path) -> None:
    search = ImageSearch.embed(load_for_evaluation(trained_directory), open_source(color_folder))
    assert {match.key.split("/")[0] for match in search.find("a blue thing", top=4)} == {"blue"}


def unit(rows: int, width: int, seed: int) -> Any:
    vectors = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_the_exact_search_is_a_full_sort(chunk: int) -> None:
    queries, features = unit(5, 6, 0), unit(150, 6, 1)
    features[10] = features[20]  # a tie keeps the order
    items, scores = find_nearest(queries, features, 12, chunk=chunk)
    table = queries @ features.T
    expected = np.argsort(-table, axis=1, kind="stable")[:, :12]
    np.testing.assert_allclose(scores, np.take_along_axis(table, expected, axis=1), atol=1e-6)
    for row, own in enumerate(items):
        np.testing.assert_allclose(table[row, own], scores[row], atol=1e-6)
        assert len(set(own.tolist())) == 12


def test_an_index_on_disk_finds_the_same(tmp_path: Path) -> None:
    queries, features = unit(20, 16, 0), unit(3000, 16, 1)
    built = FaissIndex.open(tmp_path / "a.faiss", features)
    again = FaissIndex.open(tmp_path / "a.faiss", features)
    expected, scores = find_nearest(queries, features, 10)
    for index in (built, again):
        items, found = index.search(queries, 10)
        shared = [
            len(set(a) & set(b)) for a, b in zip(items.tolist(), expected.tolist(), strict=True)
        ]
        assert sum(shared) >= 0.98 * 200  # recall@10
        np.testing.assert_allclose(found[:, 0], scores[:, 0], atol=1e-5)
    with pytest.raises(EvaluationError, match="index of other embeddings"):
        FaissIndex.open(tmp_path / "a.faiss", features[::-1].copy())
    data = (tmp_path / "a.faiss").read_bytes()
    (tmp_path / "a.faiss").write_bytes(data[: len(data) // 2])
    with pytest.raises(EvaluationError, match="no index of faiss"):
        FaissIndex.open(tmp_path / "a.faiss", features)


def test_the_command_searches_through_an_index(
    photos: Path,
    embed: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert embed(photos, "--out", "photos.npz") == 0
    query = ["search", "a red thing", "--in", "photos.npz", "--top", "2"]
    shown = []
    for more in ([], ["--index", "photos.faiss"], ["--index", "photos.faiss"]):
        capsys.readouterr()
        assert main([*query, *more]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] == shown[2]
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    assert main([*query, "--index", "other.faiss"]) == 2
    assert "pip install clip-eval[faiss]" in capsys.readouterr().err
