"""Retrieval: what counts as one image, and as one caption."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clip_eval import EvaluationConfig, Result, evaluate, read_embeddings
from clip_eval.cli.main import main
from clip_eval.data import open_source
from clip_eval.data.samples import Source

COLORS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}
CAPTIONS = {name: [f"a {name} thing", f"some {name}", name] for name in COLORS}


@pytest.fixture
def images(tmp_path: Path, encode: Callable[..., bytes]) -> dict[str, bytes]:
    """Three images in a directory, with three captions each as a table and as COCO's JSON."""
    files = {f"{name}.png": encode(color) for name, color in COLORS.items()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    pairs = [(name, caption) for name, texts in CAPTIONS.items() for caption in texts]
    lines = ["filepath,caption", *(f"{name}.png,{caption}" for name, caption in pairs[::-1])]
    (tmp_path / "captions.csv").write_text("\n".join(lines) + "\n")
    coco = {
        "images": [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(COLORS)],
        "annotations": [
            {"image_id": list(COLORS).index(name), "caption": text} for name, text in pairs
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(coco))
    return files


@pytest.fixture
def retrieve(
    color_model: Any, color_tokenizer: Any, color_preprocess: Any
) -> Callable[[Source], Result]:
    return lambda source: evaluate(
        color_model,
        source,
        tokenizer=color_tokenizer,
        preprocess=color_preprocess,
        config=EvaluationConfig(task="retrieval", keep_predictions=True),
    )


def test_rows_of_one_image_are_one_image(
    retrieve: Callable[[Source], Result], images: dict[str, bytes], tmp_path: Path
) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [(images[f"{name}.png"], text) for name, texts in CAPTIONS.items() for text in texts]
    table = pyarrow.table({"image": [row[0] for row in rows], "caption": [row[1] for row in rows]})
    parquet.write_table(table, tmp_path / "captions.parquet")
    expected = retrieve(open_source(f"coco:{tmp_path / 'captions.json'}"))
    assert expected.metrics["image_retrieval_recall@1"] == 1.0
    assert not expected.warnings
    for kind in ("csv", "parquet"):
        found = retrieve(open_source(f"{kind}:{tmp_path / f'captions.{kind}'}"))
        assert found.metrics == expected.metrics
        assert (found.n, found.details) == (3, {"n_captions": 9})
        assert any("9 rows are of 3 images" in warning for warning in found.warnings)
        keys = [record["key"] for record in found.records or ()]
        assert len(set(keys)) == len(keys) == 12


def test_an_image_of_several_rows_is_embedded_once(
    images: dict[str, bytes], trained_directory: Path, tmp_path: Path
) -> None:
    command = ["embed", "--model", str(trained_directory), "--out"]
    data = ["--data", f"csv:{tmp_path / 'captions.csv'}", "--quiet"]
    assert main([*command, str(tmp_path / "i.npz"), *data]) == 0
    (tmp_path / "texts.txt").write_text("one\ntwo\none\n")
    assert main([*command, str(tmp_path / "t.npz"), "--texts", str(tmp_path / "texts.txt")]) == 0
    keys, features = read_embeddings(tmp_path / "i.npz")
    assert sorted(keys) == sorted(images)
    assert len(features) == 3
    assert read_embeddings(tmp_path / "t.npz")[0] == ["one", "two"]


def write_table(path: Path, rows: list[tuple[str, str]]) -> Source:
    lines = [f"{image},{caption}" for image, caption in rows]
    (path / "pairs.csv").write_text("\n".join(["filepath,caption", *lines]) + "\n")
    return open_source(f"csv:{path / 'pairs.csv'}")


def test_equal_captions_are_one_caption_of_all_their_images(
    retrieve: Callable[[Source], Result], encode: Callable[..., bytes], tmp_path: Path
) -> None:
    rows = []
    for number in range(12):
        name = list(COLORS)[number % 3]
        (tmp_path / f"{number}.png").write_bytes(encode(COLORS[name], seed=number))
        rows.append((f"{number}.png", f"a {name} thing"))
    found = retrieve(write_table(tmp_path, rows))
    assert set(found.metrics.values()) == {1.0, None}  # five captions of three do not exist
    assert found.details == {"n_captions": 3}
    assert found.chance == pytest.approx(4 / 12)  # four of twelve images are right
    assert any("9 of 12 captions repeat another" in warning for warning in found.warnings)
    texts = [r for r in found.records or () if r["key"].startswith("text ")]
    assert [r["images"] for r in texts] == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert [f["correct"] for f in texts[0]["found"]] == [True] * 4 + [False]


def test_letter_case_and_blanks_make_no_other_caption(
    retrieve: Callable[[Source], Result], encode: Callable[..., bytes], tmp_path: Path
) -> None:
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(encode(COLORS["red"], seed=number))
    (tmp_path / "2.png").write_bytes(encode(COLORS["blue"]))
    spelled = [("0.png", "a red  thing"), ("1.png", "A red thing"), ("2.png", "blue")]
    found = retrieve(write_table(tmp_path, spelled))
    assert found.metrics["text_retrieval_recall@1"] == 1.0
    assert found.metrics["image_retrieval_recall@1"] == 1.0
    assert found.details == {"n_captions": 2}


def test_one_picture_in_two_files_is_reported_as_a_tie(
    retrieve: Callable[[Source], Result], encode: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "0.png").write_bytes(encode(COLORS["red"]))
    (tmp_path / "1.bmp").write_bytes(encode(COLORS["red"], "BMP"))
    (tmp_path / "2.png").write_bytes(encode(COLORS["blue"]))
    rows = [("0.png", "red one"), ("1.bmp", "red two"), ("2.png", "blue")]
    found = retrieve(write_table(tmp_path, rows))
    assert found.metrics["text_retrieval_recall@1"] == pytest.approx(1 / 3)
    for noun in ("2 images have", "2 captions have"):
        assert any(f"{noun} exactly the embedding" in warning for warning in found.warnings)


def test_captions_of_one_image_may_tie(
    retrieve: Callable[[Source], Result], images: dict[str, bytes], tmp_path: Path
) -> None:
    found = retrieve(open_source(f"coco:{tmp_path / 'captions.json'}"))
    assert found.warnings == ()
    queries = [r for r in found.records or () if r["key"].startswith("image ")]
    assert queries[0]["captions"] == CAPTIONS["red"]
    assert [f["correct"] for f in queries[0]["found"]] == [True] * 3 + [False] * 2


def test_embeddings_are_kept_when_asked_for(
    images: dict[str, bytes],
    tmp_path: Path,
    color_model: Any,
    color_tokenizer: Any,
    color_preprocess: Any,
) -> None:
    def run(**settings: Any) -> Result:
        return evaluate(
            color_model,
            open_source(f"csv:{tmp_path / 'captions.csv'}"),
            tokenizer=color_tokenizer,
            preprocess=color_preprocess,
            config=EvaluationConfig(task="retrieval", **settings),
        )

    assert run().embeddings is None
    found = run(keep_embeddings=True).embeddings
    assert found is not None
    assert (found.images.shape[0], found.texts.shape[0]) == (3, 9)
    scores = (found.images @ found.texts.T).argmax(axis=0)  # a perfect model finds each image
    assert [[int(scores[caption]), caption] for _, caption in found.pairs] == found.pairs.tolist()
