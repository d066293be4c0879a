"""Smaller models out of a trained supernet, chosen by their loss on training batches."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from clip_models import CLIP, load_model, save_model
from clip_models.devices import choose_device
from osf_supernet import SearchConfig, Supernet, count_parameters, search_subnets
from osf_supernet.training import recalibrate, recalibrated
from torch import Tensor
from tqdm import tqdm

from clip_train.config.run import Config
from clip_train.distributed.single import SingleBackend
from clip_train.engine.data_components import DataComponents
from clip_train.engine.gradients import normalized_embeddings
from clip_train.engine.step_inputs import InputMaker
from clip_train.logs.progress import progress_bar
from clip_train.model.towers import Towers
from clip_train.objectives.batch import StepInputs
from clip_train.objectives.from_config import make_objective
from clip_train.supernet.definition import SupernetRecord, make_supernet

SUBNETS, DESCRIPTION = "subnets", "subnet.json"
SCORING_BATCHES = 4  # by whose loss subnets are chosen, and batch norms recalibrated


def trace_example(data: DataComponents, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two images and two texts of the shapes that the model takes."""
    side = data.clip_config.vision.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, side, side, generator=generator)
    tokens = torch.as_tensor(data.tokenizer(["one", "another one"]))
    return images.to(device), tokens.to(device)


def write_subnets(
    path: Path, data: DataComponents, record: SupernetRecord, *, progress: bool = False
) -> None:
    """Choose subnets of a run after its last step, and write each as a model directory.

    A directory appears complete or not at all, and an existing one stays. Subnets are chosen by the
    loss on a few training batches, never by validation data; those with batch norms are
    recalibrated on the same batches.

    Args:
        path: The run directory, which holds the weights.
        data: The data side of the run.
        record: Its supernet.
        progress: Show how many candidates were tried.
    """
    config = data.config
    backend = SingleBackend(choose_device(config.train.device, setting="train.device"))
    model, preprocess = load_model(path, device=backend.device)
    net = make_supernet(model, trace_example(data, backend.device), record.space)
    net.depth_orders = record.depth_orders
    inputs = _scoring_inputs(data, model, backend)
    score = _score_by_loss(config, inputs, backend)
    missing = [share for share in record.settings.keep if not subnet_folder(path, share).is_dir()]
    for share in missing:
        folder = subnet_folder(path, share)
        search = SearchConfig(
            max_params=float(share),
            population=record.settings.population,
            greedy=record.settings.population,
            generations=record.settings.generations,
            seed=config.train.seed,
        )
        with progress_bar(desc=f"subnet {share:g}", unit="candidate", show=progress) as bar:
            found = search_subnets(net, _counted(score, bar), search)
        small = net.extract(found.best.config)
        assert isinstance(small, CLIP)
        recalibrate(small, [(batch.images, batch.tokens) for batch in inputs])
        partial_folder = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial_folder, ignore_errors=True)
        save_model(partial_folder, small, preprocess)
        data.save_prompts(partial_folder)
        _write_description(partial_folder, net, found.best.config, found.best.score)
        os.replace(partial_folder, folder)


def subnet_folder(path: Path, share: float) -> Path:
    """Where a run directory has the subnet with a share of the parameters."""
    return path / SUBNETS / f"{share:g}"


def _scoring_inputs(data: DataComponents, model: CLIP, backend: SingleBackend) -> list[StepInputs]:
    """The first batches of training; no image is cached for so few."""
    reader = data.make_reader(cache=False)
    make_inputs = InputMaker(data.config, backend, data.preprocess, model)
    count = min(SCORING_BATCHES, data.plan.steps_per_epoch)
    return [make_inputs(reader[step]) for step in range(count)]


def _score_by_loss(
    config: Config, inputs: list[StepInputs], backend: SingleBackend
) -> Callable[[Any], float]:
    """Negative mean loss of a model on the batches: the contrastive loss, without any teacher."""
    objective = make_objective(config.loss, backend)

    def score(model: CLIP) -> float:
        total = 0.0
        calls = [(batch.images, batch.tokens) for batch in inputs]
        with recalibrated(model, calls), torch.no_grad():
            for batch in inputs:
                embeddings = normalized_embeddings(Towers(model.eval())(*batch[:4]))
                total += float(sum(objective(embeddings, batch.candidates).values()))
        return -total / len(inputs)

    return score


def _counted(score: Callable[[Any], float], bar: tqdm[Any]) -> Callable[[Any], float]:
    def call(model: Any) -> float:
        value = score(model)
        bar.update()
        return value

    return call


def _write_description(folder: Path, net: Supernet, config: dict[str, int], score: float) -> None:
    """What the subnet is, for people and scripts."""
    full, small = count_parameters(net.model), int(net.parameters_of(config))
    text = {
        "parameters": small,
        "of": full,
        "fewer": round(1 - small / full, 4),
        "loss_on_training_batches": -score,
        "config": config,
    }
    (folder / DESCRIPTION).write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")


def describe_subnet(folder: Path) -> str:
    """One line for a subnet that was written: its size, and where it is."""
    text = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return f"{text['parameters']:,} of {text['of']:,} parameters in {folder}"
