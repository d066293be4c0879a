"""`osf train`, `osf search` and `osf resume`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from osf_supernet.commands.libraries import describe_types, find_factory
from osf_supernet.commands.models import build_supernet
from osf_supernet.commands.run_record import (
    RUN_NAME,
    checkpoints_folder,
    read_record,
    write_record,
)
from osf_supernet.files.folders import save_supernet
from osf_supernet.files.hub import push_to_hub
from osf_supernet.output_files import require_new_directory
from osf_supernet.run_lock import RunLock, is_unused, start_run
from osf_supernet.search.config import SearchConfig
from osf_supernet.search.drawing import draw_front
from osf_supernet.search.search import search_subnets
from osf_supernet.supernet import Supernet
from osf_supernet.training.batch_norm import recalibrated
from osf_supernet.training.checkpoint import has_checkpoint
from osf_supernet.training.experiment import Experiment, from_image_folder
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
    experiment = _make_experiment(net, options)
    with ExitStack() as stack:
        if _is_first_rank():
            stack.enter_context(RunLock(folder))
            write_record(folder, options)
        work = {"train": _train, "search": _search}[options.command]
        work(net, experiment, options)


def _start(
    options: argparse.Namespace, work: Callable[[Supernet, Experiment, argparse.Namespace], None]
) -> None:
    folder = Path(options.out)
    if _is_first_rank():
        require_new_directory(folder, overwrite=options.overwrite)
    net = build_supernet(options)
    experiment = _make_experiment(net, options)
    with ExitStack() as stack:
        if _is_first_rank():
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


def _is_first_rank() -> bool:
    """Whether this process writes, before the process group is there; true without torchrun."""
    return os.environ.get("RANK", "0") == "0"


def _call_factory(name: str, batch_size: int) -> Experiment:
    """The experiment that `module:factory` returns when called with the batch size."""
    made = find_factory(name, "data")(batch_size)
    if not isinstance(made, tuple) or len(made) != len(Experiment._fields):
        fields = ", ".join(Experiment._fields)
        raise ValueError(f"{name} must return a tuple ({fields}), got {describe_types(made)}")
    return Experiment(*made)


def _make_experiment(net: Supernet, options: argparse.Namespace) -> Experiment:
    """Task, batches and score, on the device of the model."""
    device = next(net.model.parameters()).device

    def move(batch: object) -> object:
        return pytree.tree_map_only(Tensor, lambda x: x.to(device), batch)

    if options.data:
        made = _call_factory(options.data, options.batch_size)
    elif isinstance(net.inputs, Tensor):
        made = from_image_folder(
            options.images,
            image_size=net.inputs.shape[-1],
            batch_size=options.batch_size,
            seed=options.seed,
            device=device,
        )
    else:
        raise ValueError("--images needs a model that is called with one image tensor; use --data")
    return made._replace(
        batch_of=lambda step: move(made.batch_of(step)),
        calibration=[move(batch) for batch in made.calibration],
    )


def _train(net: Supernet, experiment: Experiment, options: argparse.Namespace) -> None:
    folder = Path(options.out)
    checkpoints = checkpoints_folder(folder)
    with process_group() as rank:
        if not has_checkpoint(checkpoints):
            net.reorder(options.importance)

        def report(progress: Progress) -> None:
            due = (progress.step + 1) % options.log_interval == 0
            if rank == 0 and due and not options.quiet:
                losses = " ".join(f"{loss:.4f}" for loss in progress.losses)
                print(f"step {progress.step + 1} losses {losses}", flush=True)

        try:
            train_supernet(
                Sandwich(net, experiment.task, num_random=options.num_random, seed=options.seed),
                experiment.batch_of,
                torch.optim.AdamW(net.model.parameters(), options.lr),
                options.steps,
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
    result = search_subnets(net, partial(_score, experiment), config, folder=folder)
    result.save(folder / "front.json")
    draw_front(result, folder / "front.svg")
    if options.json:
        print(json.dumps(result.to_dict(), indent=2))
        return
    for candidate in result.front:
        print(f"{candidate.params:,} parameters: score {candidate.score:.4f} ({candidate.origin})")
