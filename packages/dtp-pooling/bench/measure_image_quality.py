"""Accuracy of a pooled image tower by kind of pooling: equal steps, equal size, several seeds.

    python bench/measure_image_quality.py FOLDER --out OUT [--seeds 3] [--steps 600]

FOLDER holds `train` and `val`, each with a folder of images per class. Trains clip-models' vision
transformer as a classifier (32 x 32 pixels, 4 x 4 patches, 6 layers of width 64, pooled after the
second), evaluates it on all of `val` and writes `table.md` (mean and sample deviation over the
seeds), `results.json` and `picture.png` into OUT after every run. A run that is in OUT already is
not made again. Seeds are the outer loop: a table that is not finished compares equal numbers of
seeds first. `merging` joins neighbors that are alike (`dissimilarity`), `learned` is `top_k`. A
second table pools the trained unpooled tower without any training, with proportional attention.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from clip_models.config import PoolingConfig, ViTConfig
from clip_models.model.vision_transformer import VisionTransformer
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.functional import pil_to_tensor

SIZE = 32
KINDS = {"fixed": "fixed", "random": "random", "merging": "dissimilarity", "learned": "top_k"}
CASES: dict[str, tuple[str, float] | None] = {"unpooled": None} | {
    f"{name} {rate}": (kind, rate) for rate in (0.5, 0.25) for name, kind in KINDS.items()
}
FREE = {
    "fixed": {"kind": "fixed"},
    "random": {"kind": "random"},
    "merging by tokens": {"kind": "dissimilarity"},
    "merging by keys": {"kind": "dissimilarity", "compare": "keys"},
}
BATCH = 64
PEAK = 1e-3
WARMUP = 60


def read_images(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """(N, 3, 32, 32) uint8 pixels, (N,) labels and the names of the classes."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    pixels, labels = [], []
    for label, name in enumerate(classes):
        for path in sorted((folder / name).iterdir()):
            with Image.open(path) as image:
                pixels.append(pil_to_tensor(image.convert("RGB").resize((SIZE, SIZE))))
            labels.append(label)
    return torch.stack(pixels), torch.tensor(labels), classes


def build(case: tuple[str, float] | None, classes: int, seed: int) -> VisionTransformer:
    """The tower with a class for each output; equal seeds give equal weights to all cases."""
    pooling = None
    if case is not None:
        settings = {"kind": case[0], "rate": case[1], "order": "hilbert"}
        pooling = PoolingConfig(name="dynamic", after_layer=2, args=settings)
    torch.manual_seed(seed)
    sizes = {"image_size": SIZE, "patch_size": 4, "width": 64, "num_layers": 6, "num_heads": 2}
    plain = VisionTransformer(ViTConfig(**sizes), classes)
    tower = VisionTransformer(ViTConfig(**sizes, pooling=pooling), classes)
    tower.load_state_dict(plain.state_dict(), strict=False)
    return tower


def pooled_as_it_is(tower: VisionTransformer, rate: float, settings: dict[str, str]) -> nn.Module:
    """The trained tower's weights with a pooling that has none of its own."""
    args = {**settings, "rate": rate, "order": "hilbert", "proportional": True}
    pooling = PoolingConfig(name="dynamic", after_layer=2, args=args)
    assert tower.proj is not None
    pooled = VisionTransformer(
        dataclasses.replace(tower.config, pooling=pooling), tower.proj.shape[1]
    )
    pooled.load_state_dict(tower.state_dict())
    return pooled.eval()


def augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, 32, 32) float: each image mirrored or not and moved by up to 4 pixels."""
    batch = normalized(pixels)
    mirror = torch.rand(len(batch), generator=generator) < 0.5
    batch = torch.where(mirror[:, None, None, None], batch.flip(3), batch)
    padded = F.pad(batch, (4, 4, 4, 4))
    corner = torch.randint(9, (len(batch), 2), generator=generator)
    rows = corner[:, :1] + torch.arange(SIZE)  # (B, 32)
    columns = corner[:, 1:] + torch.arange(SIZE)
    index = torch.arange(len(batch))[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def normalized(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 to floats within -1 and 1."""
    return pixels.float() / 127.5 - 1


def train(
    case: tuple[str, float] | None, seed: int, steps: int, data: dict[str, Any]
) -> dict[str, float]:
    """Accuracy, FLOPs of an image's forward pass, CPU seconds of training and of evaluation."""
    pixels, labels = data["train"]
    tower = build(case, data["classes"], seed).train()
    optimizer = torch.optim.AdamW(tower.parameters(), lr=PEAK, weight_decay=0.05)
    generator = torch.Generator().manual_seed(seed)
    start = time.process_time()
    for step in range(steps):
        progress = max(0.0, (step - WARMUP) / max(1, steps - WARMUP))
        rate = min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = PEAK * rate
        chosen = torch.randint(len(labels), (BATCH,), generator=generator)
        keys = (seed * steps + step) * BATCH + torch.arange(BATCH)
        out = tower.run(augmented(pixels[chosen], generator), generator=keys)
        loss = F.cross_entropy(out.features, labels[chosen]) + sum(out.losses.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
    result = {"train_seconds": time.process_time() - start}
    tower.eval()
    with FlopCounterMode(display=False) as counter:  # with gradients: it sees into attention
        tower(normalized(data["val"][0][:BATCH]))
    result["megaflops"] = counter.get_total_flops() / BATCH / 1e6
    start = time.process_time()
    result["accuracy"] = accuracy(tower, *data["val"])
    result["forward_seconds"] = time.process_time() - start
    if case is None:
        for name, settings in FREE.items():
            for rate in (0.5, 0.25):
                pooled = pooled_as_it_is(tower, rate, settings)
                result[f"{name} {rate}"] = accuracy(pooled, *data["val"])
    return result


@torch.no_grad()
def accuracy(tower: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """Share of images whose highest output is their class."""
    batches = zip(pixels.split(250), labels.split(250), strict=True)
    right = sum(int((tower(normalized(x)).argmax(1) == y).sum()) for x, y in batches)
    return right / len(labels)


def summary(results: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Mean and sample deviation over the seeds of each case."""
    rows = []
    for name, runs in results.items():
        row: dict[str, Any] = {"name": name, "seeds": len(runs)}
        for column in runs[0]:
            values = [run[column] for run in runs]
            row[column] = statistics.mean(values)
            row[f"{column}_deviation"] = statistics.stdev(values) if len(values) > 1 else 0.0
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, in the order of the cases."""
    lines = [
        "| pooling | accuracy, % | MFLOPs per image | forward time | training time | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = [f"{row[c] / rows[0][c]:.2f}" for c in ("forward_seconds", "train_seconds")]
        flops = f"{row['megaflops']:.1f}"
        cells = [row["name"], percent(row, "accuracy"), flops, *share, str(row["seeds"])]
        lines.append("| " + " | ".join(cells) + " |")
    if rows[0]["name"] == "unpooled":
        lines += ["", "| unpooled in training, pooled by | rate 0.5 | rate 0.25 |", "|---|---|---|"]
        for name in FREE:
            cells = [name, *(percent(rows[0], f"{name} {rate}") for rate in (0.5, 0.25))]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def percent(row: dict[str, Any], column: str) -> str:
    """Mean and deviation of a share."""
    return f"{100 * row[column]:.1f} ± {100 * row[f'{column}_deviation']:.1f}"


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy over FLOPs, a bar of one deviation each way."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        name = row["name"].split()[0]
        axes.errorbar(
            row["megaflops"],
            100 * row["accuracy"],
            yerr=100 * row["accuracy_deviation"],
            fmt="o",
            capsize=3,
            color=f"C{['unpooled', *KINDS].index(name)}",
            label=name if row["name"] in ("unpooled", f"{name} 0.5") else None,
        )
    axes.set(xlabel="MFLOPs per image", ylabel="accuracy, %")
    axes.legend()
    figure.savefig(path, dpi=150)


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with train/CLASS/* and val/CLASS/*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    *training, classes = read_images(options.folder / "train")
    *validation, others = read_images(options.folder / "val")
    if classes != others:
        parser.error(f"train has the classes {classes}, val has {others}")
    data = {"train": training, "val": validation, "classes": len(classes)}
    results: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for name in options.cases:
            done = options.out / f"{name.replace(' ', '-')}-seed{seed}.json"
            if not done.exists():
                result = train(CASES[name], seed, options.steps, data)
                done.write_text(json.dumps(result) + "\n", encoding="utf-8")
            results.setdefault(name, []).append(json.loads(done.read_text(encoding="utf-8")))
            rows = summary(results)
            (options.out / "results.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
            (options.out / "table.md").write_text(table(rows), encoding="utf-8")
            picture(rows, options.out / "picture.png")
            print(name, seed, results[name][-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
