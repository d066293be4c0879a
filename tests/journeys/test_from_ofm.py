"""docs/journeys/from-ofm.md: the command of OFM's CLIP example, to smaller models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from clip_models import create_model
from clip_train import load_config
from pages import Page


def test_a_published_command_becomes_a_supernet(
    class_folders: Callable[..., Path], tiny_clip: Callable[..., Path]
) -> None:
    class_folders("cifar10")
    tiny_clip("openai/clip-vit-base-patch32", to="clip-models")
    data = "--data.train imagefolder:cifar10/train --data.val imagefolder:cifar10/val"
    Page(
        "docs/journeys/from-ofm.md",
        swap={
            "--data cifar10": "--data imagefolder:cifar10/val",
            "--keep 0.9": "--keep 0.995",  # nearly all of the tiny model is its vocabulary
            "subnets/0.9 ": "subnets/0.995 ",
            "[2048, 1536, 1024]": "[128, 64]",  # hidden units of the tiny model
            "[3072, 2048, 1280]": "[128, 96]",
        },
        flags={
            "clip-train supernet": f"{data} --model.pretrained openai/clip-vit-base-patch32",
        },
    ).run()

    config = load_config("mine.toml")
    assert config.model.pretrained == "hf-hub:openai/clip-vit-base-patch32"
    assert (config.optim.lr, config.train.batch_size, config.log.every_steps) == (2e-5, 64, 100)
    assert "clip-train supernet THIS.toml --out ckpts/clip-cifar10" in Path("mine.toml").read_text()
    whole = create_model("ckpts/clip-cifar10")
    part = create_model("ckpts/clip-cifar10/subnets/0.995")
    count = [sum(one.numel() for one in model.parameters()) for model in (whole, part)]
    assert count[1] <= 0.995 * count[0]
    results = [json.loads(file.read_text()) for file in Path("results").rglob("result.json")]
    assert [one["n"] for one in results] == [12, 12]
    assert Path("results/family.html").is_file()
