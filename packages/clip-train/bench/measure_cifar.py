"""Accuracy over seconds on CIFAR-10, ablations at a fixed number of steps, and their picture.

python packages/clip-train/bench/measure_cifar.py run cifar10-cpu --data cifar --out results
python packages/clip-train/bench/measure_cifar.py ablate cifar10-cpu --data cifar --out results
python packages/clip-train/bench/measure_cifar.py table --out results
python packages/clip-train/bench/measure_cifar.py draw --out results --picture curves.png

`cifar` holds `train` and `val` as folders of classes. `run` is `clip-train run` in a process of its
own; what it writes is read while it trains, so that the seconds are those from its start, reading
the data and evaluations included. `ablate` leaves out one ingredient after the other and evaluates
on a tenth of `train` that is held out; its runs share one process, which decodes the images once.
Flags of the config stand after `--`. The results are lines of `runs.jsonl`, and an ablation
continues where it ended.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from clip_train import train
from clip_train.config.keys import apply_flags
from clip_train.config.presets import load_config
from clip_train.data import batches
from clip_train.data.decoding import PixelReader

BUDGET = ("--train.epochs=2", "--data.val=", "--data.holdout=0.1", "--eval.every_steps=None")
NARROW = ("--model.vision.widths=[32, 128, 128]",)
WITHOUT = {
    "all ingredients": (),
    "a trained first layer, no whitening": ("--model.vision.stem=trained",),
    "no identity start": ("--model.vision.dirac=false",),
    "trained scales of batch norms": ("--model.vision.norm_scale=true",),
    "running statistics with momentum 0.1": ("--model.vision.norm_momentum=0.1",),
    "flips drawn anew": ("--augment.flip_choice=random",),
    "no flips": ("--augment.flip_choice=random", "--augment.flip=false"),
    "no shifts": ("--augment.kind=none",),
    "no label smoothing": ("--loss.label_smoothing=0",),
    "both directions of the loss": ("--loss.caption_share=0.5",),
    "logit scale 14": ("--model.logit_scale=14.286",),
    "AdamW at 1e-3 for convolutions": ("--optim.convolutions.name=", "--optim.lr=1e-3"),
    "filters of free norm": ("--optim.convolutions.keep_norm=false",),
    "cosine decay": ("--optim.schedule=cosine",),
    "with Nesterov SGD for biases": ("--optim.biases.name=sgd", "--optim.biases.lr=2"),
    "with an EMA of 0.98": ("--optim.ema_decay=0.98",),
}
"""What is left out (or added), and the flags that do it."""


def measure(preset: str, data: Path, out: Path, flags: list[str], name: str) -> dict[str, Any]:
    """Run one training to its end; its curve as (seconds, step, accuracy)."""
    directory = out / name.replace(" ", "-")
    command = [
        *(sys.executable, "-m", "clip_train", "run", preset, "--quiet", "--overwrite"),
        *("--data.train", f"imagefolder:{data / 'train'}", "--out", str(directory), *flags),
    ]
    command += ["--data.val", f"imagefolder:{data / 'val'}"]
    curve: list[tuple[float, int, float]] = []
    start, metrics = time.monotonic(), directory / "metrics.jsonl"
    begun = time.time()
    process = subprocess.Popen(command)
    while True:
        done = process.poll() is not None
        if metrics.is_file() and metrics.stat().st_mtime >= begun:
            lines = [line for line in metrics.read_text().splitlines() if line.endswith("}")]
            found = [row for row in map(json.loads, lines) if row["kind"] == "eval"]
            now = round(time.monotonic() - start, 1)
            curve.extend((now, row["step"], row["acc1"]) for row in found[len(curve) :])
        if done:
            break
        time.sleep(0.2)
    seconds = time.monotonic() - start
    if process.returncode:
        raise SystemExit(f"{name}: exit status {process.returncode}")
    return {"name": name, "preset": preset, "flags": flags, "seconds": seconds, "curve": curve}


def ablate(preset: str, data: Path, out: Path, flags: list[str]) -> None:
    """Train without each ingredient, those not yet measured with these flags."""
    decoded: dict[int, batches.DecodedSource] = {}
    decode = batches.DecodedSource

    def decode_once(reader: PixelReader, size: int, *, progress: bool) -> batches.DecodedSource:
        if size not in decoded:
            decoded[size] = decode(reader, size, progress=progress)
        return decoded[size]

    batches.DecodedSource = decode_once  # type: ignore[assignment, misc]
    for name, change in WITHOUT.items():
        given = [f"--data.train=imagefolder:{data / 'train'}", *BUDGET, *NARROW, *flags, *change]
        if any(run["name"] == name and run["flags"] == given for run in read_runs(out)):
            continue
        config = apply_flags(load_config(preset), given)
        start = time.process_time()
        result = train(config, out / "ablation", overwrite=True, progress=False)
        assert result is not None
        seconds = time.process_time() - start
        curve = [(round(seconds, 1), 0, result.metrics["acc1"])]
        add_run(out, {"name": name, "flags": given, "seconds": seconds, "curve": curve})


def read_runs(out: Path) -> list[dict[str, Any]]:
    """The runs measured so far."""
    file = out / "runs.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def add_run(out: Path, run: dict[str, Any]) -> None:
    """Note one more."""
    with (out / "runs.jsonl").open("a") as file:
        file.write(json.dumps(run) + "\n")
    print(f"{run['name']}: {100 * run['curve'][-1][2]:.2f} %, {run['seconds']:.0f} s", flush=True)


def draw(runs: list[dict[str, Any]], picture: Path) -> None:
    """Accuracy over minutes from the start, a line for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        minutes, accuracies = zip(*((s / 60, 100 * a) for s, _, a in run["curve"]), strict=True)
        axes.plot(minutes, accuracies, "o-", markersize=3, label=run["name"])
        axes.annotate(f"{accuracies[-1]:.1f}", (minutes[-1], accuracies[-1]), fontsize=8)
    axes.set_xlabel("minutes from the start of the command, two idle cores")
    axes.set_ylabel("prompted ten-way accuracy (%)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(picture, dpi=120)


def main() -> None:
    """Measure, or show what was measured."""
    words, flags = sys.argv[1:], []
    if "--" in words:
        words, flags = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("task", choices=["run", "ablate", "table", "draw"])
    parser.add_argument("preset", nargs="?", default="cifar10-cpu")
    parser.add_argument("--data", type=Path, help="folder with train and val")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--name", help="name of a run; by default that of its preset")
    parser.add_argument("--picture", type=Path, help="file of the drawing")
    options = parser.parse_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    runs = read_runs(options.out)
    if options.task == "run":
        name = options.name or options.preset
        add_run(options.out, measure(options.preset, options.data, options.out, flags, name))
    elif options.task == "ablate":
        ablate(options.preset, options.data, options.out, flags)
    elif options.task == "table":
        for run in runs:
            print(f"| {run['name']} | {100 * run['curve'][-1][2]:.1f} % | {run['seconds']:.0f} s |")
    else:
        draw(runs, options.picture)


if __name__ == "__main__":
    main()
