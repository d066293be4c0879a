"""Tables and pictures of what `cifar_supernet.py` measured.

python packages/osf-supernet/bench/cifar_report.py DIR --pictures packages/osf-supernet/docs
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from cifar_importance import KEEP

MODELS = (
    "CLIP",
    "supernet's largest",
    "subnet",
    "subnet, tuned",
    "subnet, tuned as long as torch-pruning",
    "torch-pruning",
    "torch-pruning, for the seconds of the tuning",
    "from scratch",
    "CLIP, trained on",
)
COMPARED = (  # which subnet, how it is called, and what with
    (
        "subnet, tuned",
        "the tuned subnet",
        (
            "CLIP",
            "supernet's largest",
            "torch-pruning, for the seconds of the tuning",
            "torch-pruning",
            "from scratch",
            "CLIP, trained on",
        ),
    ),
    (
        "subnet, tuned as long as torch-pruning",
        "the subnet tuned as long as torch-pruning",
        ("torch-pruning", "from scratch", "CLIP, trained on"),
    ),
)
STUDENT = {2: 6.314, 3: 2.920, 4: 2.353, 5: 2.132}  # one-sided 95 %, of so many seeds
Rows = dict[str, dict[str, Any]]  # run → row name → what was measured


def runs_of(results: Rows, tower: str) -> list[dict[str, Any]]:
    """The rows of a tower's seeds, in order."""
    return [results[name] for name in sorted(results) if name.split()[0] == tower]


def table(runs: list[dict[str, Any]]) -> str:
    """Accuracy, size and cost of every model of one tower."""
    lines = [
        "| model | accuracy on `val` per seed (%) | parameters: image tower, rest | steps, "
        "processor seconds |",
        "|---|---|---|---|",
    ]
    for name in MODELS:
        rows = [run[name] for run in runs if "accuracy" in run.get(name, {})]
        if not rows:
            failed = next((r[name]["failed"] for r in runs if name in r), "not run")
            lines.append(f"| {name} | {failed} | | |")
            continue
        values = ", ".join(f"{row['accuracy']:.1f}" for row in rows)
        mean = statistics.mean(row["accuracy"] for row in rows)
        sizes = ", ".join(_range(row["parts"][part] for row in rows) for part in range(2))
        steps = _range(row["steps"] for row in rows) if "steps" in rows[0] else ""
        seconds = _range(round(row["seconds"]) for row in rows) if steps else ""
        cost = f"{steps}, {seconds}" if steps else ""
        lines.append(f"| {name} | {values} (mean {mean:.1f}) | {sizes} | {cost} |")
    return "\n".join(lines)


def _range(values: Any) -> str:
    found = sorted(values)
    one = found[0] == found[-1]
    return f"{found[0]:,}" if one else f"{found[0]:,} to {found[-1]:,}"


def losses(runs: list[dict[str, Any]]) -> str:
    """Paired differences to the tuned subnets, with the one-sided 95 % bound over seeds."""
    return "\n\n".join(_against(runs, *comparison) for comparison in COMPARED)


def _against(runs: list[dict[str, Any]], subnet: str, title: str, others: tuple[str, ...]) -> str:
    lines = [
        f"| {title} against | its loss per seed (points) | mean | 95 % upper bound |",
        "|---|---|---|---|",
    ]
    for name in others:
        paired = [
            run[name]["accuracy"] - run[subnet]["accuracy"]
            for run in runs
            if "accuracy" in run.get(name, {}) and subnet in run
        ]
        if not paired:
            continue
        mean = statistics.mean(paired)
        bound = "one seed"
        if len(paired) in STUDENT:
            spread = statistics.stdev(paired) / math.sqrt(len(paired))
            bound = f"{mean + STUDENT[len(paired)] * spread:+.2f}"
        each = ", ".join(f"{value:+.2f}" for value in paired)
        lines.append(f"| {name} | {each} | {mean:+.2f} | {bound} |")
    return "\n".join(lines)


def cuts(runs: list[dict[str, Any]]) -> str:
    """What the subnets lack, and their milliseconds."""
    lines = [
        "| seed | fewer parameters: image tower, rest | milliseconds of a batch: CLIP, subnet |",
        "|---|---|---|",
    ]
    for seed, run in enumerate(runs):
        if "subnet" in run:
            cut = ", ".join(f"{100 * share:.1f} %" for share in run["subnet"]["cut"])
            times = run.get("latency")
            ratio = "not measured"
            if times:
                full, small = times["full_ms"], times["subnet_ms"]
                ratio = f"{full:.2f}, {small:.2f} ({small / full:.2f}×)"
            lines.append(f"| {seed} | {cut} | {ratio} |")
    return "\n".join(lines)


def importance(runs: list[dict[str, Any]]) -> str:
    """Accuracy by method and share kept, without training."""
    found = [run["importance"] for run in runs if "importance" in run]
    if not found:
        return "importance: not run"
    lines = ["| method | " + " | ".join(f"{keep:.0%} kept" for keep in KEEP) + " |"]
    lines.append("|---|" + "---|" * len(KEEP))
    for method in found[0]:
        means = [statistics.mean(run[method][i] for run in found) for i in range(len(KEEP))]
        lines.append(f"| {method} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |")
    return "\n".join(lines)


def draw_fronts(results: Rows, path: Path, cost: str) -> None:
    """Accuracy on `val` against parameters or latency: a panel per tower."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, tower in zip(figure.subplots(1, 2), ("vit", "resnet"), strict=True):
        for seed, run in enumerate(runs_of(results, tower)):
            if "front" in run and (cost == "params" or "latency" in run):
                _draw_seed(axes, run, seed, cost)
        axes.set_title({"vit": "ViT", "resnet": "compact ResNet"}[tower])
        axes.set_xlabel(
            "parameters without the token embedding (thousands)"
            if cost == "params"
            else "time of 32 images and ten texts, the CLIP's is 1"
        )
        axes.set_ylabel("accuracy on val (%)")
        axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
    figure.savefig(path)


def _shares(times: dict[str, Any], key: str) -> list[float]:
    """Times as shares of the full model's."""
    found = times[key] if isinstance(times[key], list) else [times[key]]
    return [value / times["full_ms"] for value in found]


def _draw_seed(axes: Any, run: dict[str, Any], seed: int, cost: str) -> None:
    color, times = f"C{seed}", run.get("latency", {})
    rows = run["front"]["rows"]
    where = (
        [sum(r["parts"]) / 1e3 for r in rows] if cost == "params" else _shares(times, "front_ms")
    )
    points = sorted(zip(where, (r["accuracy"] for r in rows), strict=True))
    axes.plot(*zip(*points, strict=True), "o-", color=color, ms=4, lw=1)
    marks = {
        "CLIP": ("*", "full_ms"),
        "supernet's largest": ("s", "full_ms"),
        "subnet, tuned": ("D", "subnet_ms"),
    }
    if cost == "params":
        marks |= {"torch-pruning": ("x", ""), "from scratch": ("+", "")}
    for name, (marker, key) in marks.items():
        if "accuracy" in run.get(name, {}):
            x = sum(run[name]["parts"]) / 1e3 if cost == "params" else _shares(times, key)[0]
            label = name if seed == 0 else None
            axes.plot(x, run[name]["accuracy"], marker, color=color, ms=8, label=label)
    if seed == 0:
        axes.plot([], [], "ko-", ms=4, lw=1, label="front, not tuned (a color per seed)")


def draw_importance(results: Rows, path: Path) -> None:
    """Accuracy against the share kept, mean over seeds: a panel per tower."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, tower in zip(figure.subplots(1, 2), ("vit", "resnet"), strict=True):
        runs = [run for run in runs_of(results, tower) if "importance" in run]
        for method in runs[0]["importance"] if runs else []:
            means = [
                statistics.mean(run["importance"][method][i] for run in runs)
                for i in range(len(KEEP))
            ]
            axes.plot([100 * keep for keep in KEEP], means, "o-", ms=4, label=method)
        axes.set_title({"vit": "ViT", "resnet": "compact ResNet"}[tower])
        axes.set_xlabel("kept of every MLP and channel group (%)")
        axes.set_ylabel("accuracy without training (%)")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Print the tables; draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what cifar_supernet.py wrote")
    parser.add_argument("--pictures", type=Path, help="folder to draw into")
    parser.add_argument("--format", default="svg")
    options = parser.parse_args()
    results = json.loads((options.folder / "results.json").read_text())
    for tower in ("vit", "resnet"):
        runs = runs_of(results, tower)
        if runs:
            print(f"### {tower}\n")
            for part in (table, losses, cuts, importance):
                print(part(runs) + "\n")
    if options.pictures:
        for cost in ("params", "latency"):
            draw_fronts(results, options.pictures / f"cifar-{cost}.{options.format}", cost)
        draw_importance(results, options.pictures / f"cifar-importance.{options.format}")


if __name__ == "__main__":
    main()
