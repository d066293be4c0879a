"""Does it help?  Recipes compared at an equal budget of computing time on CIFAR-10.

    python examples/does_it_help.py --train imagefolder:cifar/train --val imagefolder:cifar/val
    python examples/does_it_help.py --table

Every recipe is a set of flags over the preset `cifar10-cpu`, trained with `clip-train` on one
thread.  The budget is processor time, which other work on the machine does not inflate: two short
runs find what a step of a recipe costs, and the number of steps follows; a tenth of them warm up.
Start and evaluation do not count.  `step_costs.json` and a line of `results.jsonl` for each run
stay: what is there is not repeated, so an interrupted comparison goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

VIT = (
    "--model.vision.kind=vit",
    "--model.vision.image_size=32",
    "--model.vision.patch_size=4",
    "--model.vision.width=64",
    "--model.vision.num_layers=6",
    "--model.vision.num_heads=2",
    "--train.batch_size=64",
    "--optim.lr=1e-3",
)
LONG = (  # captions that a short context cannot hold
    "--data.templates",
    "a low resolution photo of one {c} taken on a bright sunny day from close by.",
    "a blurry picture, cropped from a larger one, that shows a {c} in the middle.",
    "this small image of thirty-two by thirty-two pixels is a photo of a {c}.",
)
SIZES = ("--data.variable_sizes.min_size=24", "--data.variable_sizes.max_size=40")
SIZES += ("--data.variable_sizes.num_sizes=3", "--data.variable_sizes.divisor=8")
RANGE = ("--augment.range.enabled=True",)


def patches(kind: str, ratio: float) -> tuple[str, ...]:
    """Flags of a reduction of image tokens in training."""
    base = "--model.vision.patch_reduction"
    return (*VIT, f"{base}.kind={kind}", f"{base}.keep_ratio={ratio}")


def context(length: int, reduction: str) -> tuple[str, ...]:
    """Flags of a reduction of text tokens in training."""
    short = f"--model.text.context_length={length}"
    return (*VIT, *LONG, short, f"--tokenizer.reduction={reduction}")


RECIPES: dict[str, tuple[str, ...]] = {
    "vit": VIT,
    "vit, 24 px": (*VIT, "--model.vision.image_size=24"),
    "vit, 24 px then 32 px": (*VIT, "--optim.lr=3e-4"),
    "vit, random 25% then all": (*VIT, "--optim.lr=3e-4"),
    **{
        f"vit, {kind} {ratio:.0%}": patches(kind, ratio)
        for ratio in (0.5, 0.25)
        for kind in ("random", "grid", "block")
    },
    "vit, long captions": (*VIT, *LONG),
    **{
        f"vit, long captions, {reduction} 10": context(10, reduction)
        for reduction in ("truncate", "random", "shuffle", "block")
    },
    "vit, variable sizes": (*VIT, *SIZES),
    "vit, RangeAugment": (*VIT, *RANGE),
    "resnet": (),
    "resnet, variable sizes": SIZES,
    "resnet, RangeAugment": RANGE,
}


PHASES: dict[str, tuple[str, float]] = {
    "vit, 24 px then 32 px": ("vit, 24 px", 0.75),
    "vit, random 25% then all": ("vit, random 25%", 0.75),
}
"""Recipes that go on from another one's weights, which took that share of the budget."""


def main() -> int:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", help="training source, as for --data.train")
    parser.add_argument("--val", help="evaluation source, as for --data.val")
    parser.add_argument("--seconds", type=float, default=45, help="processor time of a run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("does-it-help"))
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    options = parser.parse_args()
    if not options.table:
        if not (options.train and options.val):
            parser.error("--train and --val are needed; --table alone prints what is there")
        options.out.mkdir(parents=True, exist_ok=True)
        for seed in range(options.seeds):
            for name in options.recipes:
                run_once(name, seed, options)
    print(table(options.out))
    return 0


def run_once(name: str, seed: int, options: argparse.Namespace) -> None:
    """One training run of a recipe, unless its line is there."""
    results = options.out / "results.jsonl"
    done = [(row["recipe"], row["seed"], row["seconds_wanted"]) for row in read(results)]
    if (name, seed, options.seconds) in done:
        return
    data = (f"--data.train={options.train}", f"--data.val={options.val}")
    seconds, flags = options.seconds, (*data, f"--train.seed={seed}", *RECIPES[name])
    samples_before = 0
    if name in PHASES:
        first, share = PHASES[name]
        before = options.out / "first-phase"
        first_steps = round(share * seconds / step_cost(first, data, options.out))
        given = (*data, f"--train.seed={seed}", *RECIPES[first])
        _, _, samples_before = train(before, given, first_steps)
        tokenizer = ("--tokenizer.kind=directory", f"--tokenizer.path={before}")
        seconds = (1 - share) * seconds
        flags = (*flags, f"--model.pretrained={before}", *tokenizer)
    steps = max(10, round(seconds / step_cost(name, data, options.out)))
    spent, accuracy, samples = train(options.out / "run", flags, steps)
    row = {
        "recipe": name,
        "seed": seed,
        "accuracy": accuracy,
        "steps": steps,
        "samples": samples_before + samples,
        "seconds_wanted": options.seconds,
        "seconds_in_all": round(spent, 1),
    }
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def step_cost(name: str, data: tuple[str, ...], out: Path) -> float:
    """Processor seconds of a training step of a recipe, measured once."""
    path = out / "step_costs.json"
    costs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if name not in costs:
        flags = (*data, *RECIPES[name], "--data.val=")
        with tempfile.TemporaryDirectory() as directory:
            short, long = (train(Path(directory, "run"), flags, steps)[0] for steps in (5, 45))
        costs[name] = (long - short) / 40
        path.write_text(json.dumps(costs, indent=1) + "\n", encoding="utf-8")
    return costs[name]


def train(directory: Path, flags: tuple[str, ...], steps: int) -> tuple[float, float | None, int]:
    """Processor time of a run, evaluation included, its accuracy, and the samples it saw."""
    shutil.rmtree(directory, ignore_errors=True)
    script = Path(sys.executable).with_name("clip-train")
    command = [str(script), "run", "cifar10-cpu", *flags, f"--train.steps={steps}"]
    command += ["--data.cache_images=False", f"--optim.warmup_steps={steps // 10}"]
    command += ["--eval.every_steps=1000000", "--out", str(directory)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = children_seconds()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = list(map(json.loads, lines))
    accuracies = [row["acc1"] for row in rows if "acc1" in row]
    samples = max(row.get("samples", 0) for row in rows)
    return children_seconds() - before, accuracies[-1] if accuracies else None, samples


def children_seconds() -> float:
    """Processor time of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def read(results: Path) -> list[dict]:
    """The lines that are there."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def table(out: Path) -> str:
    """Mean, spread and every run's accuracy, in the order of the recipes, as markdown."""
    rows = defaultdict(list)
    for row in read(out / "results.jsonl"):
        rows[row["recipe"]].append(row)
    lines = ["| recipe | images seen | accuracy, mean ± sd | runs |", "|---|---|---|---|"]
    for name in RECIPES:
        if name in rows:
            values = [100 * row["accuracy"] for row in rows[name]]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            samples = round(statistics.mean(row["samples"] for row in rows[name]))
            runs = ", ".join(f"{value:.1f}" for value in values)
            mean = statistics.mean(values)
            lines.append(f"| {name} | {samples:,} | {mean:.1f} %{spread} | {runs} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
