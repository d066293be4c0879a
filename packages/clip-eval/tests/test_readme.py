"""The examples of the README run in order, and every public name stands in it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import clip_eval
import clip_eval.data
import open_clip
import pytest
from clip_eval.cli.main import main

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1, "head_width": 64},
    "text_cfg": {"width": 64, "layers": 1, "heads": 1},
}


@pytest.fixture
def files(
    tmp_path: Path,
    trained_directory: Path,
    color_folder: Path,
    write_tar: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The files that the examples name, in the working directory."""
    root = tmp_path / "readme"
    shutil.copytree(trained_directory, root / "runs" / "colors")
    for split in ("train", "val"):
        shutil.copytree(color_folder, root / "colors" / split)
    for number in range(2):
        image = (color_folder / "red" / f"{number}.png").read_bytes()
        write_tar(root / "shards" / f"{number}.tar", {f"{number}.png": image})
    (root / "colors.txt").write_text("red\ngreen\n")
    (root / "colors.pixels").write_text("red,250,10,10\nblue,10,10,250\n")
    monkeypatch.chdir(root)
    embed = ["embed", "--model", "runs/colors", "--data", "colors/val", "--quiet"]
    assert main([*embed, "--out", "images.npz"]) == 0
    return root


@pytest.fixture
def tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that open_clip knows as `tiny`."""
    configs = dict(open_clip.factory._MODEL_CONFIGS)
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {**configs, "tiny": TINY})


@pytest.mark.usefixtures("tiny_model")
def test_the_examples_run(files: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 12
    namespace: dict[str, object] = {}
    try:
        for block in blocks:
            exec(compile(block, str(README), "exec"), namespace)
    finally:
        clip_eval.data.FORMATS.pop("pixels", None)
    result, probe = namespace["result"], namespace["probe"]
    assert isinstance(result, clip_eval.Result)
    assert isinstance(probe, clip_eval.Result)
    assert result.metrics["acc1"] == probe.metrics["knn_acc1"] == 1.0
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("name", [*clip_eval.__all__, *clip_eval.data.__all__])
def test_every_public_name_is_shown(name: str) -> None:
    assert re.search(rf"\b{name}\b", TEXT)
