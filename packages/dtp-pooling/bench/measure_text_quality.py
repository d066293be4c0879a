"""Bits per character by kind of boundary: equal steps, equal size, several seeds.

    python bench/measure_text_quality.py TEXT --valid TEXT --out FOLDER [--seeds 3] [--steps 1100]

Any key of the configuration is a flag, such as `--model.width 64`.

Trains a small `DynamicPoolingLM` per kind and seed, evaluates it on 100 % of the validation text
and writes `table.md` (mean and sample deviation over the seeds), `results.json` and `picture.png`
into the folder after every run; needs the extras `plot` and `unigram`. A run that is in the folder
already is not made again, so a stopped table goes on where it was. Seeds are the outer loop: a
table that is not finished compares equal numbers of seeds first.

`fixed` and `random` at 1 / 4 are what `gumbel`, whose prior is 1 / 4, has to beat; `fixed 6` is the
one for whitespace. Gumbel is evaluated with its fixed noise pattern, as the published results
sample too: after so few steps hardly any boundary is more likely than not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from dtp_pooling import BoundaryConfig, LanguageModelConfig
from dtp_pooling.training.config import TrainingConfig
from dtp_pooling.training.config_flags import apply_settings, split_config_flags
from dtp_pooling.training.run_directory import create_run, read_metrics
from dtp_pooling.training.text import read_text, split_text
from dtp_pooling.training.trainer import Trainer
from matplotlib.figure import Figure

KINDS = {
    "unpooled": BoundaryConfig(kind="none"),
    "fixed 2": BoundaryConfig(kind="fixed", factor=2),
    "fixed 3": BoundaryConfig(kind="fixed", factor=3),
    "fixed 4": BoundaryConfig(kind="fixed", factor=4),
    "fixed 6": BoundaryConfig(kind="fixed", factor=6),
    "random": BoundaryConfig(kind="random", rate=0.25),
    "whitespace": BoundaryConfig(kind="whitespace"),
    "unigram": BoundaryConfig(kind="unigram"),
    "entropy": BoundaryConfig(kind="entropy"),
    "gumbel": BoundaryConfig(kind="gumbel", rate=0.25, evaluation="pattern"),
}
BASE = TrainingConfig(
    model=LanguageModelConfig(
        width=96,
        num_heads=3,
        head_dim=32,
        feedforward=384,
        pre_layers=1,
        shortened_layers=3,
        post_layers=1,
        dropout=0.0,
    ),
    batch_size=4,
    context=256,
    learning_rate=3e-3,
    warmup=100,
    clip=1.0,
    evaluation_window=256,
    evaluation_stride=128,
    unigram_vocabulary=1000,
)
COLUMNS = ("bits", "shortening", "parameters", "seconds")


def train(folder: Path, config: TrainingConfig, train_text: str, valid_text: str) -> dict[str, Any]:
    """Bits, shortening, parameters and training seconds (CPU time of the process) of one run."""
    if not (folder / "run.json").exists():
        create_run(folder, config, train_text, valid_text)
    trainer = Trainer(folder, train_text, valid_text, torch.device("cpu"))
    start = time.process_time()
    trainer.run(until=config.steps - 1)  # what is timed has no evaluation
    seconds = time.process_time() - start
    trainer.run()
    parameters = sum(p.numel() for p in trainer.model.parameters())
    return {**read_metrics(folder)[-1], "parameters": parameters, "seconds": seconds}


def summary(results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Mean and sample deviation over the seeds of each kind."""
    rows = []
    for name, runs in results.items():
        row: dict[str, Any] = {"name": name, "seeds": len(runs)}
        for column in COLUMNS:
            values = [run[column] for run in runs]
            row[column] = statistics.mean(values)
            row[f"{column}_deviation"] = statistics.stdev(values) if len(values) > 1 else 0.0
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, in the order of the kinds."""
    unpooled = next((row["seconds"] for row in rows if row["name"] == "unpooled"), None)
    lines = [
        "| boundaries | characters per segment | bits per character | training time | parameters "
        "| seeds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        bits = f"{row['bits']:.3f} ± {row['bits_deviation']:.3f}"
        shortening = f"{row['shortening']:.2f}"
        share = "" if unpooled is None else f"{row['seconds'] / unpooled:.2f}"
        cells = [row["name"], shortening, bits, share, f"{row['parameters']:.0f}", row["seeds"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Bits per character over characters per segment, a bar of one deviation each way."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    fixed = [row for row in rows if row["name"].startswith(("unpooled", "fixed"))]
    axes.plot([r["shortening"] for r in fixed], [r["bits"] for r in fixed], color="0.8", zorder=0)
    for row in rows:
        place = (row["shortening"], row["bits"])
        axes.errorbar(*place, yerr=row["bits_deviation"], fmt="o", capsize=3)
        axes.annotate(row["name"], place, textcoords="offset points", xytext=(6, 4), fontsize=8)
    axes.margins(x=0.15)
    axes.set(xlabel="characters per segment", ylabel="bits per character")
    figure.savefig(path, dpi=150)


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="training text: plain, .gz or .zip")
    parser.add_argument("--valid", type=Path, help="validation text (default: 5 %% of TEXT)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    settings, rest = split_config_flags(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(rest)
    steps = int(settings.pop("steps", 1100))
    torch.set_num_threads(1)
    if options.valid is None:
        train_text, valid_text, _ = split_text(read_text(options.text))
    else:
        train_text, valid_text = read_text(options.text), read_text(options.valid)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options.seeds):
        for name in options.kinds:
            folder = options.out / f"{name.replace(' ', '-')}-seed{seed}"
            done = folder / "result.json"
            if not done.exists():
                model = dataclasses.replace(BASE.model, boundaries=KINDS[name])
                config = dataclasses.replace(
                    BASE, model=model, seed=seed, steps=steps, evaluate_every=steps
                )
                config = apply_settings(config, settings)
                result = train(folder, config, train_text, valid_text)
                done.write_text(json.dumps(result) + "\n", encoding="utf-8")
            results.setdefault(name, []).append(json.loads(done.read_text(encoding="utf-8")))
            rows = summary(results)
            (options.out / "results.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
            (options.out / "table.md").write_text(table(rows), encoding="utf-8")
            picture(rows, options.out / "picture.png")
    print(table(rows))


if __name__ == "__main__":
    main()
