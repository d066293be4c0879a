from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clip_eval.cli.main import main
from clip_eval.data import DataError
from clip_eval.data.readers.image_files import ImageFiles
from clip_eval.encoding.encoder import Encoder
from clip_eval.report.predictions import render_predictions
from clip_eval.tasks.prediction import predict
from torch import nn


@pytest.fixture
def images(tmp_path: Path, encode: Callable[..., bytes]) -> list[Path]:
    paths = [tmp_path / "one.png", tmp_path / "two.jpg", tmp_path / "broken <b>.png"]
    paths[0].write_bytes(encode((250, 10, 10)))
    paths[1].write_bytes(encode((10, 10, 250), "JPEG"))
    paths[2].write_bytes(b"")
    return paths


def test_labels_are_ranked_with_probabilities(
    images: list[Path], color_model: Any, color_tokenizer: Any, color_preprocess: Any
) -> None:
    found = predict(
        Encoder(color_model, color_tokenizer, color_preprocess),
        ImageFiles(images),
        ["blue", "red", "green", "yellow"],
        templates=["{c}"],
        top=3,
    )
    assert [image.labels[0] for image in found.images] == ["red", "blue"]
    for image in found.images:
        assert len(image.labels) == len(image.probabilities) == 3
        assert list(image.probabilities) == sorted(image.probabilities, reverse=True)
        assert sum(image.probabilities) <= 1 + 1e-6
    assert [(s.key, s.reason) for s in found.skipped] == [(str(images[2]), "empty")]
    assert isinstance(color_model, nn.Module)
    assert color_model.training
    page = render_predictions(found, ImageFiles(images), "Labels")
    assert page.count('src="data:image/') == 2


def test_files_and_directories(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "._one.png").write_bytes(b"what macOS leaves beside a file")
    names = [Path(path).name for path in ImageFiles([images[1], tmp_path]).paths]
    assert names == ["two.jpg", "broken <b>.png", "one.png", "two.jpg"]
    with pytest.raises(DataError, match="no such file"):
        ImageFiles([tmp_path / "absent.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in this directory"):
        ImageFiles([tmp_path / "empty"])


def test_the_command(
    images: list[Path],
    trained_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = ["--model", str(trained_directory)]
    command = ["predict", *map(str, images), *model, "--labels", "red, green ,blue"]
    page = tmp_path / "page" / "p.html"
    assert main([*command, "--out", str(page), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(images[0])
    assert lines[1].split()[0] == "red"
    assert lines[4].split()[0] == "blue"
    assert lines[-1].startswith(f"skipped: {images[2]}: empty")
    assert len(lines) == 7
    assert "<b>" not in page.read_text(encoding="utf-8")

    assert main([*command, "--out", str(page)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--out", str(page), "--overwrite", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"skipped: {images[2]}: empty: the file has no bytes\n"
    records = [json.loads(line) for line in captured.out.splitlines()]
    assert [record["labels"][0] for record in records] == ["red", "blue"]

    assert main(["predict", str(images[2]), *model, "--labels", "a,b"]) == 2
    assert "none of the given images could be used (1 image)" in capsys.readouterr().err
    assert main(["predict", str(images[0]), *model, "--labels", "a,,b"]) == 2
    assert "between commas" in capsys.readouterr().err
    assert main(["predict", str(images[0]), *model, "--labels", "red,blue, red"]) == 2
    assert "expected each once, got red twice" in capsys.readouterr().err


def test_prompt_sets_by_their_names(
    images: list[Path], trained_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(images[0]), "--model", str(trained_directory), "--top", "10"]
    assert main([*command, "--classnames", "eurosat", "--templates", "cifar10"]) == 0
    assert "forest" in capsys.readouterr().out
    for more in (["--classnames", "cifar11"], ["--templates", "cifar11", "--labels", "a"]):
        assert main([*command, *more]) == 2
        assert (
            "neither a file nor a standard data set; did you mean cifar10"
            in capsys.readouterr().err
        )
