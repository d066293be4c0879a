"""docs/journeys/from-corenet.md: a recipe in YAML, and CoreNet's tars of pickles."""

from __future__ import annotations

import base64
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import conftest
from clip_train import load_config
from pages import Page


def write_pairs(folder: str, count: int = 24) -> None:
    """Pictures and captions as CoreNet keeps them."""
    Path(folder).mkdir()
    with tarfile.open(f"{folder}/0.tar.gz", "w:gz") as tar:
        for number in range(count):
            image, caption = conftest.draw(number)
            jpg = io.BytesIO()
            image.save(jpg, "JPEG")
            record = {"image": base64.b64encode(jpg.getvalue()), "text": caption}
            data = pickle.dumps(record)
            info = tarfile.TarInfo(f"0/{number}.pkl")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    about = {"total_tar_files": 1, "max_files_per_tar": count, "tar_file_names": ["0"]}
    Path(folder, "metadata.pkl").write_bytes(pickle.dumps(about))


def test_a_published_recipe_becomes_a_run(class_folders: Callable[..., Path]) -> None:
    write_pairs("pairs")
    class_folders("imagenet")
    small = f"{conftest.TINY_VIT} --data.variable_sizes.batch_multiple 1"
    Page("docs/journeys/from-corenet.md", flags={"clip-train run": small}).run()

    ours, preset = load_config("mine.toml"), load_config("corenet-vit-b16")
    assert ours.data.train == "corenet:pairs"
    assert ours.data.variable_sizes == preset.data.variable_sizes
    assert ours.augment.range.enabled
    for name in ("lr", "betas", "warmup_steps", "first_lr", "final_lr", "ema_decay"):
        assert getattr(ours.optim, name) == getattr(preset.optim, name), name
    assert (ours.train.steps, ours.train.batch_size) == (200_000, 65_536)
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert any("augment" in key for row in rows for key in row), rows
    assert json.loads(Path("results/result.json").read_text())["n"] == 12
