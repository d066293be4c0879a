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
from osf_supernet import SearchConfig, SearchResult, Supernet, count_parameters, search_subnets
from osf_supernet.training import recalibrate
from torch import Tensor
from tqdm import tqdm

from clip_train.config.run import Config
from clip_train.distributed.single import SingleBackend
from clip_train.engine.data_components import DataComponents
from clip_train.engine.gradients import normalized_embeddings
from clip_train.engine.step_inputs import InputMaker
from clip_train.logs.files import replace_text
from clip_train.logs.progress import progress_bar
from clip_train.model.towers import Towers
from clip_train.objectives.batch import StepInputs
from clip_train.objectives.from_config import make_objective
from clip_train.supernet.definition import SupernetRecord, make_supernet

SUBNETS, DESCRIPTION = "subnets", "subnet.json"
SCORING_BATCHES = 4  # by whose loss subnets are chosen, and batch norms recalibrated


def trace_example(data: DataComponents, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two images and two texts of the shapes that the model takes."""
    side = data.clip_config.vision.image_side
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
    if not record.settings.keep:
        return
    inputs = _scoring_inputs(data, model, backend)
    found = _search(net, config, inputs, backend, record, progress=progress)
    full = count_parameters(net.model)
    written: dict[str, str] = {}  # subnet → name of its directory; alike after a resume
    for share in sorted(set(record.settings.keep), reverse=True):
        best = found.best_within(share * full)
        folder = subnet_folder(path, share)
        subnet = json.dumps(net.canonical(best.config), sort_keys=True)
        name = written.setdefault(subnet, folder.name)
        if is_written(path, share):
            continue
        if name != folder.name:
            _write_json(_note_of(folder), {"same_as": name})
            continue
        small = net.extract(best.config)
        assert isinstance(small, CLIP)
        recalibrate(small, [(batch.images, batch.tokens) for batch in inputs])
        partial_folder = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial_folder, ignore_errors=True)
        save_model(partial_folder, small, preprocess)
        data.save_prompts(partial_folder)
        _write_description(partial_folder, net, best.config, best.score)
        os.replace(partial_folder, folder)


def _search(
    net: Supernet,
    config: Config,
    inputs: list[StepInputs],
    backend: SingleBackend,
    record: SupernetRecord,
    *,
    progress: bool,
) -> SearchResult:
    """One search for all shares, so that a larger one is never worse than a smaller one."""
    shares = record.settings.keep
    search = SearchConfig(
        max_params=float(max(shares)),
        smaller_params=tuple(float(share) for share in sorted(shares)[:-1]),
        population=record.settings.population,
        greedy=record.settings.population,
        generations=record.settings.generations,
        seed=config.train.seed,
    )
    calls = [(batch.images, batch.tokens) for batch in inputs]
    score = _score_by_loss(config, inputs, backend)
    with progress_bar(desc="subnets", unit="candidate", show=progress) as bar:
        return search_subnets(net, _counted(score, bar), search, calibration=calls, quiet=True)


def subnet_folder(path: Path, share: float) -> Path:
    """Where a run directory has the subnet with a share of the parameters."""
    return path / SUBNETS / f"{share:g}"


def is_written(path: Path, share: float) -> bool:
    """Whether the subnet of a share is there, as a directory or as a note that names another's."""
    folder = subnet_folder(path, share)
    return folder.is_dir() or _note_of(folder).is_file()


def describe_subnets(path: Path) -> list[str]:
    """A line for each subnet that a run directory has, the smallest share first."""
    entries = sorted(path.joinpath(SUBNETS).iterdir(), key=lambda entry: entry.name)
    return [describe_subnet(at) if at.is_dir() else _describe_note(at) for at in entries]


def _note_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _describe_note(note: Path) -> str:
    same = json.loads(note.read_text(encoding="utf-8"))["same_as"]
    share = note.name.removesuffix(".json")
    return f"the best within {share} is that of {same}: {note.parent / same}"


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
        with torch.no_grad():
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
    _write_json(folder / DESCRIPTION, text)


def _write_json(file: Path, value: object) -> None:
    replace_text(file, json.dumps(value, indent=2) + "\n")


def describe_subnet(folder: Path) -> str:
    """One line for a subnet that was written: its size, and where it is."""
    text = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return f"{text['parameters']:,} of {text['of']:,} parameters in {folder}"
