"""A tiny image–caption set on disk and a config that trains on it in seconds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from clip_models.config import from_dict, to_dict
from clip_train import Config, write_shapes

# torch_xla lives in the environment of `nox -s xla`, which names a device.
collect_ignore = [] if "PJRT_DEVICE" in os.environ else ["distributed/test_xla.py"]


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small shapes set: 96 training images in three shards, one image a held-out class."""
    directory = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(
        directory,
        num_train=96,
        image_size=48,
        num_val_per_class=1,
        shard_size=40,
        progress=False,
    )
    return directory


@pytest.fixture
def tiny_config(shapes: Path) -> Config:
    """Twelve steps of eight samples; three steps an eighth of the set are an epoch."""
    return from_dict(
        Config,
        {
            "data": {"train": f"wds:{shapes}/train", "val": f"{shapes}/val", "workers": 0},
            "augment": {"kind": "shift", "flip": True},
            "model": {"name": "Compact-48"},
            "tokenizer": {"kind": "bytes"},
            "train": {"steps": 14, "batch_size": 8},
            "optim": {"lr": 1e-3, "warmup_steps": 2, "clip_norm": 1.0},
            "checkpoint": {"every_steps": 5},
            "log": {"every_steps": 2},
        },
    )


@pytest.fixture
def vit_config(tiny_config: Config) -> Config:
    """The same with a transformer that drops patches, and no evaluation."""
    return from_dict(
        Config,
        {
            **to_dict(tiny_config),
            "data": {"train": tiny_config.data.train, "workers": 0},
            "model": {
                "name": "Compact-48",
                "vision": {
                    "kind": "vit",
                    "image_size": 48,
                    "patch_size": 16,
                    "width": 16,
                    "num_layers": 2,
                    "num_heads": 2,
                    "patch_reduction": {"kind": "random", "keep_ratio": 0.5},
                },
                "text": {"width": 16, "num_layers": 1, "num_heads": 2},
            },
        },
    )
