"""`osf train`, `osf search` and `osf resume`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from osf_supernet.commands.models import build_supernet
from osf_supernet.commands.run_record import checkpoints_folder, read_record, write_record
from osf_supernet.files.folders import save_supernet
from osf_supernet.files.hub import push_to_hub
from osf_supernet.output_files import make_new_directory, require_new_directory
from osf_supernet.search.config import SearchConfig
from osf_supernet.search.drawing import draw_front
from osf_supernet.search.search import search_subnets
from osf_supernet.subnets.planning import Config
from osf_supernet.supernet import Supernet
from osf_supernet.training.batch_norm import recalibrated
from osf_supernet.training.checkpoint import has_checkpoint
from osf_supernet.training.experiment import Experiment, from_factory, from_image_folder
from osf_supernet.training.loop import Progress
from osf_supernet.training.loop import train as train_supernet
from osf_supernet.training.processes import process_group
from osf_supernet.training.sandwich import Sandwich


def train(options: argparse.Namespace) -> None:
    """Train a supernet into a new directory."""
    folder = Path(options.out)
    if _is_first_rank():
        require_new_directory(folder, overwrite=options.overwrite)
    net = build_supernet(options)
    experiment = _make_experiment(net, options)
    if _is_first_rank():
        make_new_directory(folder, overwrite=options.overwrite)
        write_record(folder, options)
    _train(net, experiment, options)


def search(options: argparse.Namespace) -> None:
    """Search the best subnets into a new directory."""
    folder = Path(options.out)
    require_new_directory(folder, overwrite=options.overwrite)
    net = build_supernet(options)
    experiment = _make_experiment(net, options)
    make_new_directory(folder, overwrite=options.overwrite)
    write_record(folder, options)
    _search(net, experiment, options)


def resume(options: argparse.Namespace) -> None:
    """Continue a training or a search with the options that it was started with."""
    folder = Path(options.run)
    options = read_record(folder, options)
    net = build_supernet(options)
    experiment = _make_experiment(net, options)
    if _is_first_rank():
        write_record(folder, options)
    if options.command == "train":
        _train(net, experiment, options)
    else:
        _search(net, experiment, options)


def _is_first_rank() -> bool:
    """Whether this process writes, before the process group is there; true without torchrun."""
    return os.environ.get("RANK", "0") == "0"


def _make_experiment(net: Supernet, options: argparse.Namespace) -> Experiment:
    """Task, batches and score, on the device of the model."""
    device = next(net.model.parameters()).device

    def move(batch: object) -> object:
        return pytree.tree_map_only(Tensor, lambda x: x.to(device), batch)

    if options.data:
        made = from_factory(options.data, options.batch_size)
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
        print(f"{name}: score {_score(net, experiment, config):.4f}")
    if options.push_to_hub:
        print(push_to_hub(net, options.push_to_hub, token=options.token))


def _score(net: Supernet, experiment: Experiment, config: Config) -> float:
    with net.active(config), recalibrated(net.model, experiment.calibration):
        return experiment.evaluate(net.model)


def _search(net: Supernet, experiment: Experiment, options: argparse.Namespace) -> None:
    folder = Path(options.out)

    def evaluate(model: nn.Module) -> float:
        with recalibrated(model, experiment.calibration):
            return experiment.evaluate(model)

    config = SearchConfig(
        max_params=options.max_params,
        max_flops=options.max_flops,
        max_latency_ms=options.max_latency_ms,
        population=options.population,
        generations=options.generations,
        seed=options.seed,
    )
    result = search_subnets(net, evaluate, config, folder=folder)
    result.save(folder / "front.json")
    draw_front(result, folder / "front.svg")
    if options.json:
        print(json.dumps(result.to_dict(), indent=2))
        return
    for candidate in result.front:
        print(f"{candidate.params:,} parameters: score {candidate.score:.4f} ({candidate.origin})")
