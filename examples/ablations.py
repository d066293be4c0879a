"""Ablations: recipes compared at equal training time on CIFAR-10.

    python examples/ablations.py --train imagefolder:cifar/train --val imagefolder:cifar/val
    python examples/ablations.py --train … --costs
    python examples/ablations.py --table

Each recipe is a set of flags for the preset `cifar10-compact`, on one thread with `clip-train`.
A short run measures the seconds per step of a recipe, from which the number of steps in the budget
follows; startup and evaluation do not count. Measure these on an otherwise idle machine, with
`--costs`; training itself may then share the machine. A tenth of the steps is warmup. Results are
kept in `step_costs.json` and, one line per run, in `results.jsonl`, so that an interrupted
comparison continues.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

RESNET = ("--model.vision.widths=[16, 32, 64]",)
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
LONG = (  # captions longer than a short context
    "--data.templates",
    "a low resolution photo of one {c} taken on a bright sunny day from close by.",
    "a blurry picture, cropped from a larger one, that shows a {c} in the middle.",
    "this small image of thirty-two by thirty-two pixels is a photo of a {c}.",
)
SIZES = ("--data.variable_sizes.min_size=24", "--data.variable_sizes.max_size=40")
SIZES += ("--data.variable_sizes.num_sizes=3", "--data.variable_sizes.divisor=8")
RANGE = ("--augment.range.enabled=True",)


def patches(kind: str, ratio: float) -> tuple[str, ...]:
    """Flags that reduce image tokens in training."""
    base = "--model.vision.patch_reduction"
    return (*VIT, f"{base}.kind={kind}", f"{base}.keep_ratio={ratio}")


def context(length: int, reduction: str) -> tuple[str, ...]:
    """Flags that reduce text tokens in training."""
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
    "resnet": RESNET,
    "resnet, variable sizes": (*RESNET, *SIZES),
    "resnet, RangeAugment": (*RESNET, *RANGE),
}
PHASES: dict[str, tuple[str, float]] = {
    "vit, 24 px then 32 px": ("vit, 24 px", 0.75),
    "vit, random 25% then all": ("vit, random 25%", 0.75),
}
"""Recipes that start from the weights of another one, and its share of the budget."""


def main() -> int:
    """Train the missing runs, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", help="training data, as in --data.train")
    parser.add_argument("--val", help="evaluation data, as in --data.val")
    parser.add_argument("--seconds", type=float, default=45, help="training time of a run")
    parser.add_argument("--seeds", type=int, default=3, help="number of runs per recipe")
    parser.add_argument(
        "--recipes",
        nargs="*",
        default=list(RECIPES),
        choices=list(RECIPES),
        metavar="RECIPE",
        help="recipes to compare",
    )
    parser.add_argument("--out", type=Path, default=Path("ablations"), help="directory of results")
    parser.add_argument(
        "--costs", action="store_true", help="measure the seconds per step and stop"
    )
    parser.add_argument(
        "--table", action="store_true", help="print the table of existing results and stop"
    )
    options = parser.parse_args()
    if not options.table:
        if not (options.train and options.val):
            parser.error("--train and --val are required, except with --table")
        options.out.mkdir(parents=True, exist_ok=True)
        if options.costs:
            for name in options.recipes:
                print(name, step_cost(name, (f"--data.train={options.train}",), options.out))
            return 0
        for seed in range(options.seeds):
            for name in options.recipes:
                run_once(name, seed, options)
    print(table(options.out))
    return 0


def run_once(name: str, seed: int, options: argparse.Namespace) -> None:
    """Train a recipe, unless its result exists."""
    results = options.out / "results.jsonl"
    done = [(row["recipe"], row["seed"], row["seconds_wanted"]) for row in read(results)]
    if (name, seed, options.seconds) in done:
        return
    data = (f"--data.train={options.train}", f"--data.val={options.val}")
    seconds, flags = options.seconds, (*data, f"--train.seed={seed}", *RECIPES[name])
    samples = 0
    if name in PHASES:
        first, share = PHASES[name]
        before = options.out / "first-phase"
        given = (*data, f"--train.seed={seed}", *RECIPES[first])
        rows = train(before, given, round(share * seconds / step_cost(first, data, options.out)))
        samples = max(row.get("samples", 0) for row in rows)
        tokenizer = ("--tokenizer.kind=directory", f"--tokenizer.path={before}")
        seconds = (1 - share) * seconds
        flags = (*flags, f"--model.pretrained={before}", *tokenizer)
    steps = max(10, round(seconds / step_cost(name, data, options.out)))
    rows = train(options.out / "run", flags, steps)
    row = {
        "recipe": name,
        "seed": seed,
        "accuracy": rows[-1]["acc1"],
        "samples": samples + max(row.get("samples", 0) for row in rows),
        "seconds_wanted": options.seconds,
    }
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def step_cost(name: str, data: tuple[str, ...], out: Path) -> float:
    """Seconds per training step of a recipe, measured once, on steps 11 to 40."""
    name = "vit" if name in PHASES else name  # of which a second phase is more steps
    path = out / "step_costs.json"
    costs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if name not in costs:
        with tempfile.TemporaryDirectory() as directory:
            rows = train(Path(directory, "run"), (*data, *RECIPES[name], "--data.val="), 40)
        seconds = [
            (row["samples"] - before["samples"]) / row["samples_per_s"]
            for before, row in itertools.pairwise(rows)
        ]
        costs[name] = sum(seconds) / (rows[-1]["step"] - rows[0]["step"])
        path.write_text(json.dumps(costs, indent=1) + "\n", encoding="utf-8")
    return costs[name]


def train(directory: Path, flags: tuple[str, ...], steps: int) -> list[dict]:
    """Train on one thread; the rows of metrics.jsonl."""
    shutil.rmtree(directory, ignore_errors=True)
    script = Path(sys.executable).with_name("clip-train")
    command = [str(script), "run", "cifar10-compact", *flags, f"--train.steps={steps}"]
    command += ["--data.cache_images=False", f"--optim.warmup_steps={steps // 10}"]
    command += ["--eval.every_steps=1000000", "--out", str(directory)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return read(directory / "metrics.jsonl")


def read(results: Path) -> list[dict]:
    """The rows of a JSON lines file; none if it does not exist."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def table(out: Path) -> str:
    """A markdown table of mean, standard deviation and each run's accuracy, in order of RECIPES."""
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
