"""A data format is one class and one row: a toy one is trained on, resumed and evaluated."""

from __future__ import annotations

import json
import shutil
import struct
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from clip_eval.cli.main import main as clip_eval
from clip_eval.data import FORMATS, BadSample, Format, Sample, Source, register_format
from clip_models.config import to_dict
from clip_train import Config
from clip_train.cli.main import main as clip_train
from clip_train.data.sources import open_training_source
from clip_train.data.validation import open_validation_sets
from PIL import Image

SIDE = 48
COLORS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220)}


class RawImages(Source):
    """A file of raw RGB images of 48 pixels a side, each after its label: one byte."""

    kind = "raw"

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.name = self.path.stem
        self.classnames = tuple(COLORS)
        self.templates = ("a {c} image", "something {c}")

    def __len__(self) -> int:
        return self.path.stat().st_size // (1 + 3 * SIDE**2)

    def read(self, index: int) -> Sample:
        size = 1 + 3 * SIDE**2
        with self.path.open("rb") as file:
            file.seek(index * size)
            data = file.read(size)
        if len(data) < size:
            raise BadSample("truncated", f"{len(data)} of {size} bytes", str(index))
        image = Image.frombytes("RGB", (SIDE, SIDE), data[1:])
        key, label = f"{index:03}", data[0]
        return Sample(key, image, self.class_captions(label, key), label)


ROW = Format(
    kind="raw",
    reader=RawImages,
    form="raw:FILE",
    content="raw images with labels",
    file_names=("*.raw",),
)


def write_raw(path: Path, count: int) -> None:
    with path.open("wb") as file:
        for index in range(count):
            label = index % len(COLORS)
            image = Image.new("RGB", (SIDE, SIDE), list(COLORS.values())[label])
            file.write(struct.pack("B", label) + image.tobytes())


@pytest.fixture
def work(tmp_path: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the toy data and a config that names it by relative paths."""
    monkeypatch.setattr("clip_eval.data.formats.FORMATS", dict(FORMATS))
    register_format(ROW)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_raw(Path("train.raw"), 48)
    write_raw(Path("val.raw"), 9)
    config = to_dict(tiny_config)
    config["data"] |= {"train": "raw:train.raw", "val": "val.raw"}
    Path("config.toml").write_text(tomli_w.dumps(config))
    return folder


def test_train_resume_elsewhere_and_evaluate(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert clip_train(["run", "config.toml", "--out", "whole"]) == 0
    assert clip_train(["run", "config.toml", "--out", "cut"]) == 0
    shutil.rmtree(work / "cut" / "checkpoints" / "step-0000014")
    (work / "cut" / "model.safetensors").unlink()  # what an interrupted run looks like
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert clip_train(["resume", str(work / "cut")]) == 0
    weights = [(work / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    data = f"raw:{work}/val.raw"
    run = ["run", "--model", str(work / "cut"), "--data", data, "--out", "results", "--no-cache"]
    assert clip_eval([*run, "--quiet"]) == 0
    result = json.loads(Path("results/result.json").read_text())
    assert (result["n"], result["classnames"]) == (9, list(COLORS))
    capsys.readouterr()


def test_a_missing_file_and_the_classes_are_known_by_the_row(
    work: Path, tiny_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert clip_train(["run", "config.toml", "--data.train", "raw:absent", "--out", "run"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"raw:{work}/absent: no such file or directory; name your data" in message
    config = tomllib.loads(Path("config.toml").read_text())["data"]
    data = replace(tiny_config.data, **{name: config[name] for name in ("train", "val")})
    assert isinstance(open_training_source(data), RawImages)
    source = open_validation_sets(Config(data=data))[0].source
    assert source is not None
    assert source.classnames == tuple(COLORS)
