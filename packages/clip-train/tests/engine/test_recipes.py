"""Recipes in training: what is learned along, and what an interruption must not change."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from clip_models import ConfigError
from clip_models.files import load_tensors
from clip_train import Config, resume, train
from clip_train.config.data import RangeAugmentConfig, VariableSizesConfig


def rows(path: Path, kind: str = "train") -> list[dict[str, float]]:
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def changed(config: Config, **sections: dict[str, object]) -> Config:
    """The config with some values of some sections replaced."""
    return dataclasses.replace(
        config,
        **{
            name: dataclasses.replace(getattr(config, name), **values)
            for name, values in sections.items()
        },
    )


@pytest.fixture
def recipe(tiny_config: Config) -> Config:
    """RangeAugment on batches of three sizes, in a tower that takes any."""
    return changed(
        tiny_config,
        data={
            "variable_sizes": VariableSizesConfig(
                num_sizes=3, min_size=32, max_size=64, divisor=16
            ),
            "val": "",
        },
        augment={"range": RangeAugmentConfig(enabled=True, lr_scale=10.0)},
        model={"vision": {"pooling": "max"}},
        train={"steps": 9, "batch_size": 6},
        checkpoint={"every_steps": 4, "keep_last": 5},
        log={"every_steps": 1},
    )


def test_ranges_are_trained_logged_drawn_and_resumed(recipe: Config, tmp_path: Path) -> None:
    train(recipe, tmp_path / "run", progress=False)
    first, *_, last = rows(tmp_path / "run")
    assert first["range/target_psnr"] == pytest.approx(40)
    assert 20 < last["range/target_psnr"] < 40
    assert first["lr"] == pytest.approx(recipe.optim.lr / recipe.optim.warmup_steps)  # no lr_scale
    assert last["loss/augment.range"] > 0
    assert first["range/brightness.high"] == pytest.approx(1.5, abs=0.2)
    assert last["range/brightness.high"] < first["range/brightness.high"]
    assert last["range/brightness.low"] > first["range/brightness.low"]
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000

    whole = load_tensors(tmp_path / "run" / "model.safetensors")
    directory = tmp_path / "run"
    (directory / "model.safetensors").unlink()
    for step in (8, 9):
        for file in (directory / "checkpoints" / f"step-{step:07d}").iterdir():
            file.unlink()
        (directory / "checkpoints" / f"step-{step:07d}").rmdir()
    resume(directory, progress=False)
    again = load_tensors(directory / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    ends = [{k: v for k, v in row.items() if k.startswith("range/")} for row in rows(directory)]
    assert ends[-1] == {k: v for k, v in last.items() if k.startswith("range/")}


def test_what_cannot_go_with_learned_augmentation_is_refused(
    recipe: Config, tmp_path: Path
) -> None:
    teacher = changed(recipe, loss={"teacher": str(tmp_path)})
    with pytest.raises(ConfigError, match="teacher"):
        train(teacher, tmp_path / "run", progress=False)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_what_a_pooled_tower_computes_is_logged(
    tiny_config: Config, tmp_path: Path, accumulation: int
) -> None:
    """A quarter of 6 x 6 patches and the class token: 10 of 37 tokens."""
    vision = {
        "kind": "vit",
        "image_size": 48,
        "patch_size": 8,
        "width": 16,
        "num_layers": 2,
        "num_heads": 2,
        "pooling": {"name": "dynamic", "after_layer": 1, "args": {"kind": "top_k", "rate": 0.25}},
    }
    config = changed(
        tiny_config,
        model={"vision": vision},
        data={"val": ""},
        train={"steps": 2, "grad_accum_steps": accumulation},
        checkpoint={"every_steps": None},
    )
    train(config, tmp_path / "run", progress=False)
    row = rows(tmp_path / "run")[-1]
    assert row["vision.pooling/tokens"] == pytest.approx(10)
    assert row["vision.pooling/rate"] == pytest.approx(9 / 36)
    assert row["vision.pooling/shortening"] == pytest.approx(37 / 10)
