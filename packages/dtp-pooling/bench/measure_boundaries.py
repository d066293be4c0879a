"""Bits per character by kind of boundary after equal CPU seconds, and by the parts of routing.

    python bench/measure_boundaries.py TEXT --valid TEXT --out FOLDER [--seconds 300] [--seeds 3]

Any key of the configuration is a flag, such as `--model.width 64`.

A run has as many steps as its kind takes in that many CPU seconds of one thread
(`time.process_time`), by the pace of `PACE_STEPS` steps; the learning rate falls to zero at its
last step. Bits are those of the whole validation text. A run that is in the folder already is not
made again, and one that was stopped goes on from its last checkpoint. `table.md` and `results.json`
are written after every run. Seeds are the outer loop.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import measure_text_quality
import torch
from dtp_pooling import BoundaryConfig
from dtp_pooling.training.config import TrainingConfig
from dtp_pooling.training.config_flags import apply_settings, split_config_flags
from dtp_pooling.training.run_directory import create_run, read_metrics
from dtp_pooling.training.text import read_text
from dtp_pooling.training.trainer import Trainer
from dtp_pooling.training.training_state import save_training_state

PACE_STEPS = 40
SAVE_EVERY = 250
ROUTING = BoundaryConfig(kind="routing", rate=0.25)
GUMBEL = BoundaryConfig(kind="gumbel", rate=0.25, evaluation="pattern")
H_NET = {"residual": "linear", "part_norms": True}


def _routing(**changes: Any) -> BoundaryConfig:
    return dataclasses.replace(ROUTING, **changes)


# name: boundaries, other settings of the model, settings of the run
KINDS: dict[str, tuple[BoundaryConfig, dict[str, Any], dict[str, Any]]] = {
    "unpooled": (BoundaryConfig(kind="none"), {}, {}),
    "fixed 4": (BoundaryConfig(kind="fixed", factor=4), {}, {}),
    "random": (BoundaryConfig(kind="random", rate=0.25), {}, {}),
    "gumbel": (GUMBEL, {}, {}),
    "gumbel calibrated": (dataclasses.replace(GUMBEL, evaluation="calibrated"), {}, {}),
    "gumbel, smoothed": (dataclasses.replace(GUMBEL, smooth=True, confidence=True), {}, {}),
    "routing": (ROUTING, {}, {}),
    "routing, ratio 0.3": (_routing(weight=0.3), {}, {}),
    "routing, mean": (_routing(value="mean"), {}, {}),
    "routing, not smoothed": (_routing(smooth=False), {}, {}),
    "routing, no confidence": (_routing(confidence=False), {}, {}),
    "routing, H-Net's parts": (ROUTING, H_NET, {}),
    "routing, H-Net's parts, ratio 0.3": (_routing(weight=0.3), H_NET, {}),
    "routing, H-Net's parts, ratio 0.3, mean": (_routing(weight=0.3, value="mean"), H_NET, {}),
    "fixed 4, norms": (BoundaryConfig(kind="fixed", factor=4), {"part_norms": True}, {}),
    "routing, outer rates": (ROUTING, {}, {"part_rates": (1.5, 1.0, 1.0)}),
}
BASE = dataclasses.replace(measure_text_quality.BASE, log_every=50, evaluate_every=10**9)


def measure_pace(folder: Path, config: TrainingConfig, texts: tuple[str, str]) -> float:
    """CPU seconds of a step, after a warm-up of as many."""
    shutil.rmtree(folder, ignore_errors=True)
    create_run(folder, config, *texts)
    trainer = Trainer(folder, *texts, torch.device("cpu"), quiet=True)
    for _ in range(PACE_STEPS):
        trainer.step()
    start = time.process_time()
    for _ in range(PACE_STEPS):
        trainer.step()
    shutil.rmtree(folder)
    return (time.process_time() - start) / PACE_STEPS


def train(
    folder: Path, config: TrainingConfig, texts: tuple[str, str], seconds: float
) -> dict[str, Any]:
    """Bits, shortening, steps and CPU seconds of one run, which goes on if it is there already."""
    plan = folder.with_name(f"{folder.name}.plan.json")
    if not plan.exists():
        pace = measure_pace(folder.with_name(f"{folder.name}.pace"), config, texts)
        plan.write_text(json.dumps({"pace": pace, "steps": max(1, round(seconds / pace))}))
    planned = json.loads(plan.read_text())
    config = dataclasses.replace(config, steps=planned["steps"])
    if not (folder / "run.json").exists():
        create_run(folder, config, *texts)
    trainer = Trainer(folder, *texts, torch.device("cpu"), quiet=True)
    while trainer.steps_done < config.steps - 1:
        start = time.process_time()
        trainer.run(until=min(config.steps - 1, trainer.steps_done + SAVE_EVERY))
        planned["cpu_seconds"] = planned.get("cpu_seconds", 0) + time.process_time() - start
        save_training_state(folder, trainer.steps_done, trainer.model, trainer.optimizer, 1)
        plan.write_text(json.dumps(planned))
    trainer.run()  # the last step, and the evaluation
    parameters = sum(p.numel() for p in trainer.model.parameters())
    return {**read_metrics(folder)[-1], **planned, "parameters": parameters}


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: mean and standard error over the seeds."""
    lines = [
        "| boundaries | characters per segment | bits per character | steps | CPU seconds "
        "| seeds |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        bits = [run["bits"] for run in runs]
        error = statistics.stdev(bits) / len(bits) ** 0.5 if len(bits) > 1 else float("nan")
        means = {
            k: statistics.mean(r[k] for r in runs) for k in ("shortening", "steps", "cpu_seconds")
        }
        cells = [
            name,
            f"{means['shortening']:.2f}",
            f"{statistics.mean(bits):.4f} ± {error:.4f}" if len(bits) > 1 else f"{bits[0]:.4f}",
            f"{means['steps']:.0f}",
            f"{means['cpu_seconds']:.0f}",
            str(len(runs)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def configure(name: str, seed: int, settings: dict[str, str]) -> TrainingConfig:
    """The run of a kind and a seed."""
    boundaries, model, run = KINDS[name]
    model = dataclasses.replace(BASE.model, boundaries=boundaries, **model)
    return apply_settings(dataclasses.replace(BASE, model=model, seed=seed, **run), settings)


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="training text: plain, .gz or .zip")
    parser.add_argument("--valid", type=Path, required=True, help="validation text")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300.0, help="CPU seconds of training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    settings, rest = split_config_flags(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(rest)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    texts = read_text(options.text), read_text(options.valid)
    for seed in options.seeds:
        for name in options.kinds:
            folder = options.out / f"{name.replace(' ', '-').replace(',', '')}-seed{seed}"
            done = folder / "result.json"
            if not done.exists():
                config = configure(name, seed, settings)
                result = train(folder, config, texts, options.seconds)
                done.write_text(json.dumps({"name": name, "seed": seed, **result}) + "\n")
            results: dict[str, list[dict[str, Any]]] = {}
            for file in sorted(options.out.glob("*/result.json")):
                run = json.loads(file.read_text())
                results.setdefault(run["name"], []).append(run)
            (options.out / "results.json").write_text(json.dumps(results, indent=1))
            (options.out / "table.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
