"""A whole training run against open_clip's: the same model, weights, data and batch, two threads.

Speed: both commands train ViT-B/32 at 224 px on the same table of JPEGs with captions as long as
COCO's, each with one process that reads and one that trains; samples a second after the first step.
Curves (`--curves N`): open_clip's own `train_one_epoch` and our loop see the same N batches.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tomli_w
import torch
from clip_models import PreprocessConfig, create_model, from_dict, save_model, to_dict
from clip_train import start
from clip_train.build import build
from clip_train.config import Config
from clip_train.loading import BatchReader
from PIL import Image

SIZE = (500, 375)
SENTENCES = """
a the of on in with and man woman dog cat two people sitting standing table street next to large
small red white black blue green riding holding train bus kitchen room beach water grass field plate
food pizza tennis ball player snow skiing surfboard bench park old young group children playing
front building window near sign clock tower horse elephant giraffe
"""


def write_data(folder: Path, count: int) -> None:
    """Photograph-like JPEGs with captions of 7 to 16 words (COCO's have 10.5 on average)."""
    rng, noise = random.Random(0), np.random.default_rng(0)
    folder.mkdir()
    with open(folder / "data.csv", "w", encoding="utf-8") as table:
        table.write("filepath\ttitle\n")
        for number in range(count):
            coarse = noise.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)
            grain = noise.normal(0, 12, (SIZE[1], SIZE[0], 3))
            pixels = (np.asarray(picture) + grain).clip(0, 255).astype(np.uint8)
            file = folder / f"{number:06d}.jpg"
            Image.fromarray(pixels).save(file, quality=90)
            words = min(16, max(7, round(rng.gauss(10.5, 2.3))))
            caption = " ".join(rng.choices(SENTENCES.split(), k=words)) + "."
            table.write(f"{file}\t{caption}\n")


def config_for(folder: Path, options: argparse.Namespace, augment: str) -> Config:
    """Our config of the run; the optimizer's numbers are open_clip's defaults."""
    weights = folder / "weights" / "model.safetensors"
    values = {
        "data": {"train": f"csv:{folder / 'data' / 'data.csv'}"},
        "augment": {"kind": augment},
        "model": {"name": "ViT-B-32", "pretrained": str(weights)},
        "train": {"steps": options.steps, "batch_size": options.batch, "device": "cpu"},
        "optim": {"warmup_steps": max(1, options.steps // 5)},
        "loss": {"kind": "infonce"},
        "log": {"every_steps": 1},
    }
    return from_dict(Config, values)


def our_speed(folder: Path, options: argparse.Namespace) -> float:
    """Samples a second of `clip-train run`, after the first step."""
    config = folder / "ours.toml"
    values = to_dict(config_for(folder, options, "random_resized_crop"))
    config.write_text(tomli_w.dumps(values), encoding="utf-8")
    command = [sys.executable, "-m", "clip_train", "run", str(config), "--out", str(folder / "run")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    rows = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    speeds = [row["samples_per_s"] for row in rows if row["kind"] == "train"][1:]
    return len(speeds) / sum(1 / speed for speed in speeds)


def their_speed(folder: Path, options: argparse.Namespace) -> float:
    """Samples a second of `open_clip_train.main`, after the first step."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "open_clip_train.main", "--dataset-type", "csv"),
            *("--train-data", str(folder / "data" / "data.csv"), "--model", "ViT-B-32"),
            *("--batch-size", str(options.batch), "--epochs", "1", "--warmup", "1"),
            *("--workers", "1", "--precision", "fp32", "--device", "cpu"),
            *("--log-every-n-steps", "1", "--lr", "5e-4", "--logs", str(folder / "logs")),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    speeds = [float(x) for x in re.findall(r"Batch \(t\): [0-9.]+, ([0-9.]+)/s", done.stderr)][1:]
    return len(speeds) / sum(1 / speed for speed in speeds)


def their_losses(config: Config) -> list[float]:
    """Losses of open_clip's `train_one_epoch` over the batches that our reader gives."""
    import open_clip
    from open_clip_train.params import parse_args
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    weights = config.model.pretrained
    model = open_clip.create_model("ViT-B-32", pretrained=weights, output_dict=True)
    parts = build(config)
    total = parts.total_steps
    reader = BatchReader(parts.source, parts.plan, config, parts.preprocess, parts.tokenizer)
    batches = [
        (parts.preprocess.normalize(batch.images), batch.tokens[batch.caption_of])
        for batch in map(reader.__getitem__, range(total))
    ]
    loader = _Loader(batches, config.train.batch_size)
    data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)}
    args = parse_args(["--precision", "fp32", "--log-every-n-steps", "1"])
    args.device, args.rank, args.world_size = "cpu", 0, 1
    args.distill = args.wandb = False
    excluded = ("bn", "ln", "bias", "logit_scale")
    groups: dict[bool, list[Any]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        groups[parameter.ndim < 2 or any(word in name for word in excluded)].append(parameter)
    optim = config.optim
    optimizer = torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": 0.0},
            {"params": groups[False], "weight_decay": optim.weight_decay},
        ],
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
    )
    scheduler = cosine_lr(optimizer, optim.lr, optim.warmup_steps, total)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    train_one_epoch(model, data, open_clip.ClipLoss(), 0, optimizer, None, scheduler, None, args)
    return [float(x) for line in lines for x in re.findall(r"Loss: ([0-9.]+) ", line)]


class _Loader(list[Any]):
    """What `train_one_epoch` asks of a loader."""

    def __init__(self, batches: list[Any], batch_size: int) -> None:
        super().__init__(batches)
        self.num_batches, self.num_samples = len(batches), len(batches) * batch_size


def main() -> None:
    """Print the ratio of speeds, or the largest difference of losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--curves", type=int, default=0, metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options.steps = options.curves or options.steps
        write_data(folder / "data", options.steps * options.batch)
        torch.manual_seed(0)
        save_model(folder / "weights", create_model("ViT-B-32"), PreprocessConfig())
        if not options.curves:
            ours, theirs = our_speed(folder, options), their_speed(folder, options)
            print(f"ViT-B/32, batch {options.batch}, {options.steps} steps, samples a second")
            print(f"clip-train {ours:.2f}, open_clip {theirs:.2f}: {ours / theirs:.2f} times")
            return
        config = config_for(folder, options, "none")
        start(config, folder / "run", progress=False)
        rows = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
        ours = [row["loss"] for row in rows if row["kind"] == "train"]
        theirs = their_losses(config)
        for step, pair in enumerate(zip(ours, theirs, strict=True), start=1):
            print(f"{step:>4} {pair[0]:.5f} {pair[1]:.5f}")
        worst = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
        print(f"largest relative difference over {options.steps} steps: {worst:.1e}")


if __name__ == "__main__":
    main()
