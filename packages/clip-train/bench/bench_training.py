"""A training run compared with open_clip's: the same model, initial weights, data and batch size.

Speed: both commands train on the same table of JPEGs with captions as long as COCO's, each with one
data worker. Measured are samples per second after the first step, which needs an idle machine, and
the processor time of all processes of a command, which does not.
Loss curves (`--curves N`): open_clip's `train_one_epoch` and our loop see the same N batches of
procedural shapes.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import tomli_w
import torch
from clip_models import create_model, get_config, save_model
from clip_models.config import PreprocessConfig, from_dict, to_dict
from clip_train import train
from clip_train.config.run import Config
from clip_train.engine.data_components import build_data_components
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


class Speed(NamedTuple):
    """Measurements of one command."""

    samples_per_s: float  # after the first step
    processor_s: float  # of all its processes


def config_for(folder: Path, options: argparse.Namespace, data: str, augment: str) -> Config:
    """Our config of the run, with open_clip's optimizer defaults."""
    weights = folder / "weights" / "model.safetensors"
    values = {
        "data": {"train": data},
        "augment": {"kind": augment},
        "model": {"name": options.model, "pretrained": str(weights)},
        "train": {"steps": options.steps, "batch_size": options.batch, "device": "cpu"},
        "optim": {"lr": options.lr, "warmup_steps": max(1, options.steps // 5)},
        "loss": {"kind": "infonce"},
        "log": {"every_steps": 1},
    }
    return from_dict(Config, values)


def our_speed(folder: Path, options: argparse.Namespace) -> Speed:
    """Speed of `clip-train run`."""
    config = folder / "ours.toml"
    data = f"csv:{folder / 'data' / 'data.csv'}"
    values = to_dict(config_for(folder, options, data, "random_resized_crop"))
    config.write_text(tomli_w.dumps(values), encoding="utf-8")
    command = [sys.executable, "-m", "clip_train", "run", str(config), "--out", str(folder / "run")]
    _, processor_s = run(command)
    rows = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    speeds = [row["samples_per_s"] for row in rows if row["kind"] == "train"][1:]
    return Speed(len(speeds) / sum(1 / speed for speed in speeds), processor_s)


def their_speed(folder: Path, options: argparse.Namespace) -> Speed:
    """Speed of `open_clip_train.main`."""
    log, processor_s = run(
        [
            *(sys.executable, "-m", "open_clip_train.main", "--dataset-type", "csv"),
            *("--train-data", str(folder / "data" / "data.csv"), "--model", options.model),
            *("--batch-size", str(options.batch), "--epochs", "1", "--warmup", "1"),
            *("--workers", "1", "--precision", "fp32", "--device", "cpu"),
            *("--log-every-n-steps", "1", "--lr", str(options.lr), "--logs", str(folder / "logs")),
        ]
    )
    speeds = [float(x) for x in re.findall(r"Batch \(t\): [0-9.]+, ([0-9.]+)/s", log)][1:]
    return Speed(len(speeds) / sum(1 / speed for speed in speeds), processor_s)


def run(command: list[str]) -> tuple[str, float]:
    """Standard error of a command, and the processor seconds of all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stderr, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def their_losses(config: Config) -> tuple[list[float], float]:
    """Losses of open_clip's `train_one_epoch` on the batches of our reader, and its processor
    seconds."""
    import open_clip
    from open_clip_train.params import parse_args
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    weights = config.model.pretrained
    model = open_clip.create_model(config.model.name, pretrained=weights, output_dict=True)
    data_components = build_data_components(config)
    total = data_components.total_steps
    reader = data_components.make_reader()
    batches = [
        (data_components.preprocess.normalize(batch.images), batch.tokens[batch.caption_of])
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
    begun = time.process_time()
    train_one_epoch(model, data, open_clip.ClipLoss(), 0, optimizer, None, scheduler, None, args)
    spent = time.process_time() - begun
    return [float(x) for line in lines for x in re.findall(r"Loss: ([0-9.]+) ", line)], spent


class _Loader(list[Any]):
    """A loader with the attributes that `train_one_epoch` reads."""

    def __init__(self, batches: list[Any], batch_size: int) -> None:
        super().__init__(batches)
        self.num_batches, self.num_samples = len(batches), len(batches) * batch_size


def compare_curves(folder: Path, options: argparse.Namespace) -> None:
    """Print both losses of each step and the largest difference."""
    size = get_config(options.model).vision.image_size
    data = f"shapes:{options.steps * options.batch}@{size}"
    config = config_for(folder, options, data, "none")
    begun = time.process_time()
    train(config, folder / "run", progress=False)
    spent = time.process_time() - begun
    rows = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    ours = [row["loss"] for row in rows if row["kind"] == "train"]
    theirs, their_spent = their_losses(config)
    for step, pair in enumerate(zip(ours, theirs, strict=True), start=1):
        print(f"{step:>4} {pair[0]:.5f} {pair[1]:.5f}")
    worst = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
    print(f"{options.model}, batch {options.batch}, largest relative difference of the losses")
    print(f"over {options.steps} steps: {worst:.1e}")
    print(f"processor time, theirs (the steps alone) / ours (the run): {their_spent / spent:.2f}")


def compare_speeds(folder: Path, options: argparse.Namespace) -> None:
    """Print the ratios of both measurements."""
    write_data(folder / "data", options.steps * options.batch)
    ours, theirs = our_speed(folder, options), their_speed(folder, options)
    print(f"{options.model}, batch {options.batch}, {options.steps} steps")
    print(f"samples a second, ours / theirs: {ours.samples_per_s / theirs.samples_per_s:.2f}")
    print(f"processor time, theirs / ours: {theirs.processor_s / ours.processor_s:.2f}")


def main() -> None:
    """Print the ratios of speeds, or the largest difference of losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-32", help="model name of both libraries")
    parser.add_argument("--batch", type=int, default=32, help="batch size")
    parser.add_argument("--steps", type=int, default=6, help="number of steps")
    parser.add_argument("--lr", type=float, default=5e-4, help="learning rate")
    parser.add_argument("--curves", type=int, default=0, metavar="N", help="steps of loss curves")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options.steps = options.curves or options.steps
        torch.manual_seed(0)
        save_model(folder / "weights", create_model(options.model), PreprocessConfig())
        compare = compare_curves if options.curves else compare_speeds
        compare(folder, options)


if __name__ == "__main__":
    main()
