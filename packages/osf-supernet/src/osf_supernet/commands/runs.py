"""`osf train`, `osf search` and `osf resume`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import nn

from osf_supernet.command_line import read_launch
from osf_supernet.commands.experiments import digest_of, make_experiment, require_data
from osf_supernet.commands.models import build_supernet
from osf_supernet.commands.run_record import (
    RUN_NAME,
    checkpoints_folder,
    read_record,
    write_record,
)
from osf_supernet.files.folders import save_supernet
from osf_supernet.files.hub import push_to_hub
from osf_supernet.output_files import require_new_directory, write_text
from osf_supernet.run_lock import RunLock, is_unused, start_run
from osf_supernet.search.config import SearchConfig
from osf_supernet.search.drawing import draw_front
from osf_supernet.search.scoring import digest
from osf_supernet.search.search import search_subnets
from osf_supernet.supernet import Supernet
from osf_supernet.training.batch_norm import recalibrated
from osf_supernet.training.checkpoint import has_checkpoint
from osf_supernet.training.experiment import Experiment
from osf_supernet.training.loop import Progress
from osf_supernet.training.loop import train as train_supernet
from osf_supernet.training.processes import process_group
from osf_supernet.training.sandwich import Sandwich


def train(options: argparse.Namespace) -> None:
    """Train a supernet into a new directory."""
    _start(options, _train)


def search(options: argparse.Namespace) -> None:
    """Search the best subnets into a new directory."""
    _start(options, _search)


def resume(options: argparse.Namespace) -> None:
    """Continue a training or a search with the options that it was started with."""
    folder = Path(options.run)
    options = read_record(folder, options)
    net = build_supernet(options)
    experiment = make_experiment(net, options)
    with ExitStack() as stack:
        if read_launch().is_first:
            stack.enter_context(RunLock(folder))
            write_record(folder, options)
        work = {"train": _train, "search": _search}[options.command]
        work(net, experiment, options)


def _start(
    options: argparse.Namespace, work: Callable[[Supernet, Experiment, argparse.Namespace], None]
) -> None:
    folder = Path(options.out)
    if read_launch().is_first:
        require_new_directory(folder, overwrite=options.overwrite)
    require_data(options)  # before the model is traced, which takes a while
    net = build_supernet(options)
    experiment = make_experiment(net, options)
    with ExitStack() as stack:
        if read_launch().is_first:
            stack.enter_context(_start_run(folder, options))
        work(net, experiment, options)


def _start_run(folder: Path, options: argparse.Namespace) -> RunLock:
    """Make the directory with its record in it; the lock on it."""

    def is_occupied() -> bool:
        require_new_directory(folder, overwrite=options.overwrite)
        return not is_unused(folder)

    return start_run(
        folder,
        lambda new: write_record(new, options),
        last=RUN_NAME,
        is_occupied=is_occupied,
    )


def _train(net: Supernet, experiment: Experiment, options: argparse.Namespace) -> None:
    folder = Path(options.out)
    checkpoints = checkpoints_folder(folder)
    with process_group(next(net.model.parameters()).device) as rank:
        if not has_checkpoint(checkpoints):
            net.reorder(options.importance)

        report = _LossPrinter(options) if rank == 0 and not options.quiet else None
        try:
            train_supernet(
                Sandwich(net, experiment.task, num_random=options.num_random, seed=options.seed),
                experiment.batch_of,
                torch.optim.AdamW(
                    net.model.parameters(), options.lr, weight_decay=options.weight_decay
                ),
                options.steps,
                learning_rate=partial(_learning_rate, options),  # also of a run that goes on
                folder=checkpoints,
                save_every=options.save_interval,
                report=report,
            )
        except KeyboardInterrupt:
            message = f"interrupted; continue with `osf resume {folder}`"
            raise KeyboardInterrupt(message) from None
    if rank:
        return
    save_supernet(net, folder)
    for name, config in (("largest", net.largest), ("smallest", net.smallest)):
        with net.active(config):
            print(f"{name}: score {_score(experiment, net.model):.4f}")
    if options.push_to_hub:
        print(push_to_hub(net, options.push_to_hub, token=options.token))


def _learning_rate(options: argparse.Namespace, step: int) -> float:
    """The rate of a step: up from 0 over the warm-up, then as `--schedule` says."""
    if step < options.warmup:
        return float(options.lr) * (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    factor = {
        "constant": 1.0,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "linear": 1 - done,
    }[options.schedule]
    return float(options.lr) * factor


class _LossPrinter:
    """Prints the losses of every `--log-interval`-th step, and how long the rest will take."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.steps, self.interval = options.steps, options.log_interval
        self.begin, self.done = time.monotonic(), 0

    def __call__(self, progress: Progress) -> None:
        if not self.done:
            print("losses: largest, smallest, then random subnets")
        self.done += 1
        if (progress.step + 1) % self.interval:
            return
        losses = " ".join(f"{loss:.4f}" for loss in progress.losses)
        left = self.steps - progress.step - 1
        seconds = left * (time.monotonic() - self.begin) / self.done
        print(
            f"step {progress.step + 1} losses {losses} ({left} steps left, {seconds:.0f} s)",
            flush=True,
        )


def _score(experiment: Experiment, model: nn.Module) -> float:
    with recalibrated(model, experiment.calibration):
        return experiment.evaluate(model)


def _search(net: Supernet, experiment: Experiment, options: argparse.Namespace) -> None:
    folder = Path(options.out)
    config = SearchConfig(
        max_params=options.max_params,
        max_flops=options.max_flops,
        max_latency_ms=options.max_latency_ms,
        population=options.population,
        generations=options.generations,
        seed=options.seed,
    )
    can_draw = importlib.util.find_spec("matplotlib") is not None
    if not can_draw:
        print("osf: no picture of the front: pip install osf-supernet[plot]", file=sys.stderr)
    importance = None if options.supernet else options.importance  # a trained one is in order
    if importance:
        net.reorder(importance)
    result = search_subnets(
        net,
        experiment.evaluate,
        config,
        folder=folder,
        data=digest_of(experiment, options),
        calibration=experiment.calibration,
        full_model=True,
        quiet=options.quiet or not sys.stderr.isatty(),
    )
    found = result.to_dict() | {"supernet": digest(net), "importance": importance}
    write_text(folder / "front.json", json.dumps(found, indent=2) + "\n")
    if can_draw:
        draw_front(result, folder / "front.svg")
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(result)
    best = result.best
    print(f"best: {best.params:,} parameters: score {best.score:.4f} ({best.origin})")
    source = "" if not options.supernet else f" --supernet {options.supernet}"
    print(f"osf extract {options.model}{source} --from {folder / 'front.json'} --out NAME")
