"""Repeated images and captions in a run: positives, a warning, the floor of an overfit check."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_models.config import from_dict
from clip_train import Config, train
from clip_train.cli.main import main
from clip_train.data.captions import digest_image, mark_images
from clip_train.data.sources import open_training_source
from clip_train.engine.data_components import build_data_components
from PIL import Image


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two images with eight captions each, a row for each caption."""
    generator = np.random.default_rng(0)
    for number in range(2):
        pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    lines = [f"{i}.png,caption number {k} of picture {i}" for i in range(2) for k in range(8)]
    (tmp_path / "rows.csv").write_text("\n".join(["filepath,title", *lines]) + "\n")
    return tmp_path / "rows.csv"


def config_of(table: Path, **sections: dict[str, Any]) -> Config:
    values: dict[str, Any] = {
        "data": {"train": f"csv:{table}", "workers": 0},
        "model": {"name": "Compact-32"},
        "tokenizer": {"kind": "bytes"},
        "train": {"steps": 2, "batch_size": 16},
        "optim": {"lr": 1e-3},
        "log": {"every_steps": 1},
    }
    return from_dict(
        Config, {k: {**values.get(k, {}), **sections.get(k, {})} for k in values | sections}
    )


def rows(path: Path, kind: str) -> list[dict[str, Any]]:
    found = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if row["kind"] == kind]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("by_length", [False, True])
def test_a_batch_marks_equal_images(table: Path, cached: bool, by_length: bool) -> None:
    config = config_of(table, data={"cache_images": cached, "sort_by_length": by_length})
    batch = build_data_components(config).make_reader()[0]
    source = open_training_source(config.data)
    files = {source.read(i).key: source.read(i).image for i in range(len(source))}
    same = [[files[a] == files[b] for b in batch.keys] for a in batch.keys]
    marks = batch.image_marks
    assert (marks[:, None] == marks[None]).all(dim=2).tolist() == same
    assert sum(map(sum, same)) == 2 * 8 * 8


def test_marks_of_files_and_of_decoded_images() -> None:
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    other = Image.new("RGB", (2, 8), (1, 2, 3))  # the same bytes, another shape
    marks = mark_images([digest_image(x) for x in (b"a", b"a", b"b", image, image.copy(), other)])
    same = (marks[:, None] == marks[None]).all(dim=2)
    assert torch.unique(same.int().argmax(dim=1)).tolist() == [0, 2, 3, 5]


def test_an_overfit_check_knows_its_floor(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text(
        '[model]\nname = "Compact-32"\n[tokenizer]\nkind = "bytes"\n[data]\nworkers = 0\n'
        "[train]\nsteps = 60\n[optim]\nlr = 1e-3\n[log]\nevery_steps = 5\n"
    )
    words = ["run", str(tmp_path / "c.toml"), "--data.train", f"csv:{table}", "--overfit-batch"]
    assert main([*words, "16", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "overfit check passed" in out
    assert (
        "the least possible is 2.0794, with 14 images and 0 captions of the batch repeated" in out
    )
    (noted,) = rows(tmp_path / "run", "overfit")
    assert noted["floor"] == pytest.approx(math.log(8))
    assert noted["collapsed"] == pytest.approx(math.log(16))
    assert rows(tmp_path / "run", "train")[-1]["loss"] < math.log(8) + 0.07

    stuck = [*words, "16", "--out", str(tmp_path / "stuck"), "--quiet", "--optim.lr", "1e-9"]
    assert main([*stuck, "--model.lock-image", "true", "--train.steps", "5"]) == 0
    assert "overfit check failed" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
def test_a_loss_that_contrasts_repeats_says_so(table: Path, tmp_path: Path, kind: str) -> None:
    config = config_of(table, loss={"kind": kind})
    message = f"14 images of 16 pairs are repeats, and loss.kind '{kind}' takes only"
    with pytest.warns(UserWarning, match=message):
        train(config, tmp_path / "run", progress=False)


def test_repeated_captions_are_counted_too(tmp_path: Path, table: Path) -> None:
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(f"{n % 2}.png,the same words" for n in range(16))]))
    config = config_of(table, loss={"kind": "infonce"})
    with pytest.warns(UserWarning, match="14 images and 15 captions of 16 pairs are repeats"):
        train(config, tmp_path / "run", progress=False)
