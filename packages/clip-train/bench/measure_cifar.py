"""Accuracy over seconds on CIFAR-10, ablations at a fixed number of steps, and their picture.

python packages/clip-train/bench/measure_cifar.py run cifar10-cpu --data cifar --out results
python packages/clip-train/bench/measure_cifar.py ablate cifar10-cpu --data cifar --out results
python packages/clip-train/bench/measure_cifar.py table --out results
python packages/clip-train/bench/measure_cifar.py draw --out results --picture curves.png

`cifar` holds `train` and `val` as folders of classes. Each run is `clip-train run` in a process of
its own, with flags after `--`; what it wrote is read while it trains, so that the seconds are those
from its start, reading the data and evaluations included. The results are lines of `runs.jsonl`;
an ablation continues where it ended.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WITHOUT = {
    "all ingredients": (),
    "no whitening: a trained first layer": ("--model.vision.stem=trained",),
    "no identity start": ("--model.vision.dirac=false",),
    "scales of batch norms trained": ("--model.vision.norm_scale=true",),
    "running statistics of momentum 0.1": ("--model.vision.norm_momentum=0.1",),
    "flips drawn anew": ("--augment.flip_choice=random",),
    "no flips": ("--augment.flip=false", "--augment.flip_choice=random"),
    "no shifts": ("--augment.kind=none",),
    "no label smoothing": ("--loss.label_smoothing=0",),
    "both directions of the loss": ("--loss.caption_share=0.5",),
    "AdamW for convolutions": ("--optim.convolutions.name=",),
    "filters of free norm": ("--optim.convolutions.keep_norm=false",),
    "cosine instead of linear decay": ("--optim.schedule=cosine",),
    "AdamW for biases": ("--optim.biases.name=",),
}
"""What is left out, and the flags that do it; a row that changes nothing is not run."""


def measure(preset: str, data: Path, out: Path, flags: list[str], name: str) -> dict[str, Any]:
    """Run one training to its end; its curve as (seconds, step, accuracy)."""
    directory = out / name.replace(" ", "-").replace(":", "").replace("/", "-")
    command = [
        *(sys.executable, "-m", "clip_train", "run", preset, "--quiet", "--overwrite"),
        *("--data.train", f"imagefolder:{data / 'train'}", "--out", str(directory), *flags),
    ]
    if not any(flag.startswith(("--data.holdout", "--data.val")) for flag in flags):
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
        for name, change in WITHOUT.items():
            if not any(run["name"] == name and run["flags"] == [*flags, *change] for run in runs):
                change_flags = [*flags, *change]
                found = measure(options.preset, options.data, options.out, change_flags, name)
                add_run(options.out, found)
    elif options.task == "table":
        for run in runs:
            seconds, step, accuracy = run["curve"][-1]
            print(f"| {run['name']} | {step} | {100 * accuracy:.1f} % | {seconds:.0f} s |")
    else:
        draw(runs, options.picture)


if __name__ == "__main__":
    main()
