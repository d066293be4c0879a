"""A CLIP trained as a supernet: one run, and smaller models out of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from clip_eval import Result
from clip_models import CLIP, ConfigError, load_model, save_model
from clip_models.devices import choose_device
from clip_models.files import WEIGHTS_NAME
from osf_supernet import SearchConfig, Supernet, count_parameters, search_subnets
from osf_supernet.training import broadcast_supernet, recalibrate, recalibrated
from torch import Tensor

from clip_train.config.run import Config
from clip_train.config.supernet import SupernetSettings
from clip_train.data.batches import BatchReader
from clip_train.distributed.errors import run_on_first_rank
from clip_train.distributed.protocol import Backend
from clip_train.distributed.single import SingleBackend
from clip_train.engine import runs
from clip_train.engine.components import Parts
from clip_train.engine.step_inputs import InputMaker
from clip_train.engine.trainer import Trainer
from clip_train.logs.run_directory import RunDirectory
from clip_train.model.towers import Towers
from clip_train.objectives.batch import Embeddings, StepInputs
from clip_train.objectives.from_config import make_objective
from clip_train.supernet.gradient import SandwichGradient
from clip_train.supernet.settings import SupernetRecord, make_supernet

SUBNETS, DESCRIPTION = "subnets", "subnet.json"
TRIED_BATCHES = 4  # by whose loss subnets are chosen, and batch norms recalibrated


def start(
    config: Config,
    out: str | Path,
    settings: SupernetSettings,
    space: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> Result | None:
    """Train a supernet into the directory `out`, and take subnets out of it.

    Args:
        config: The run; `model.pretrained` names what the supernet begins as.
        out: A run directory; its model is the largest subnet, as of any run.
        settings: Which subnets are trained, and which are taken out.
        space: Sizes to choose from, as `Space.from_dict`; None is the default.
        overwrite: Set a directory in the way aside.
        progress: Show progress bars.

    Returns:
        The final evaluation of the largest subnet, if there is data for one.

    Raises:
        ConfigError, DataError: The config or the data cannot be used; nothing was written.
    """
    make = partial(SupernetTrainer, settings=settings, space=space)
    return runs.start(config, out, overwrite=overwrite, progress=progress, make_trainer=make)


def resume(path: str | Path, *, progress: bool = True) -> Result | None:
    """Go on with an interrupted run of `start`, bit for bit, as `runs.resume`.

    Where the training is over and subnets are missing, they are written and nothing is evaluated.

    Raises:
        ConfigError: It trains no supernet.
    """
    record = SupernetRecord.read(path)
    if record is None:
        raise ConfigError(f"{path} trains no supernet; continue it with `clip-train resume {path}`")
    path = Path(path)
    written = all(_folder(path, share).is_dir() for share in record.settings.keep)
    if (path / WEIGHTS_NAME).is_file() and not written:
        config = RunDirectory.read_config(path)
        with runs.reopened(path, config) as (_, parts, backend):
            run_on_first_rank(backend, partial(write_subnets, path, config, parts, record))
        return None
    make = partial(
        SupernetTrainer, settings=record.settings, space=record.space, orders=record.depth_orders
    )
    return runs.resume(path, progress=progress, make_trainer=make)


class SupernetTrainer(Trainer):
    """The loop with the gradient of several subnets in the place of one model's."""

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        parts: Parts,
        backend: Backend,
        *,
        progress: bool,
        settings: SupernetSettings,
        space: Mapping[str, Any] | None,
        orders: Mapping[str, list[int]] | None = None,
    ) -> None:
        """Args:
        config, directory, parts, backend, progress: As of `Trainer`.
        settings: Which subnets.
        space: Their sizes.
        orders: Of the blocks of a run that goes on; a new one ranks them.
        """
        _check(config, backend, settings)
        net = make_supernet(parts.model, _example(parts), space)
        _check_shares(net, settings)
        net.reorder("magnitude")
        if orders is not None:
            net.depth_orders = orders
        broadcast_supernet(net)
        self.net, self.settings = net, settings
        super().__init__(config, directory, parts, backend, progress=progress)
        self.record = SupernetRecord(
            settings=settings, space=net.space.to_dict(), depth_orders=net.depth_orders
        )

    def make_gradient(
        self, towers: Towers, *, parts: int, autocast: torch.dtype | None
    ) -> SandwichGradient:
        """Of several subnets; no wrapper watches the towers, gradients are averaged at the end."""
        return SandwichGradient(
            self.net,
            towers,
            self.backend,
            self.settings,
            lambda: self.steps_done,
            seed=self.config.train.seed,
            parts=parts,
            autocast=autocast,
        )

    def run(self) -> Result | None:
        """As `Trainer.run`; the record of the supernet is there from the beginning."""
        run_on_first_rank(self.backend, lambda: self.record.write(self.directory.path))
        return super().run()

    def finish(self) -> Result | None:
        """As `Trainer.finish`, and the subnets that the settings ask for."""
        result = super().finish()
        write = partial(write_subnets, self.directory.path, self.config, self.parts, self.record)
        run_on_first_rank(self.backend, write)
        return result


def _check(config: Config, backend: Backend, settings: SupernetSettings) -> None:
    """Refuse what the gradients of subnets cannot go with, and a search that cannot be made.

    Raises:
        ConfigError: The backend or a key of the config does not work, or pymoo is missing.
    """
    if settings.generations and find_spec("pymoo") is None:
        raise ConfigError(
            f"generations must be 0 without pymoo, got {settings.generations}; "
            "`pip install osf-supernet[search]`"
        )
    if backend.name not in ("single", "ddp"):
        raise ConfigError(f"supernets train on backends 'single' and 'ddp', not {backend.name!r}")
    for key, is_set in {
        "train.compile": bool(config.train.compile),
        "augment.range": config.augment.range.enabled,
        "model.lock_image": config.model.lock_image,
        "model.lock_text": config.model.lock_text,
    }.items():
        if is_set:
            raise ConfigError(f"{key} does not work with supernets; leave it out")


def _check_shares(net: Supernet, settings: SupernetSettings) -> None:
    """Refuse subnets to take out that are smaller than the smallest.

    Raises:
        ConfigError: There is such a share.
    """
    least = net.parameters_of(net.smallest) / net.parameters_of(net.largest)
    too_small = [share for share in settings.keep if share < least]
    if too_small:
        raise ConfigError(
            f"keep must be at least {least:.3f}, the smallest subnet's share of the parameters, "
            f"got {min(too_small):g}; widen the space"
        )


def _example(parts: Parts) -> tuple[Tensor, Tensor]:
    """Two images and two texts of the shapes that the model takes."""
    device, side = next(parts.model.parameters()).device, parts.model.config.vision.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, side, side, generator=generator)
    tokens = torch.as_tensor(parts.tokenizer(["one", "another one"]))
    return images.to(device), tokens.to(device)


def write_subnets(path: Path, config: Config, parts: Parts, record: SupernetRecord) -> None:
    """Choose subnets of a run that is over, and write each as a model directory of its own.

    A directory appears complete or not at all, and one that is there stays. Subnets are chosen by
    the loss on a few training batches, never by validation data; those with batch norms are
    recalibrated on the same batches.

    Args:
        path: The run directory, which holds the weights.
        config: The run's.
        parts: What it was made of.
        record: Its supernet.
    """
    backend = SingleBackend(choose_device(config.train.device, setting="train.device"))
    model, preprocess = load_model(path, device=backend.device)
    net = make_supernet(model, _example(replace(parts, model=model)), record.space)
    net.depth_orders = record.depth_orders
    inputs = _some_inputs(config, parts, backend)
    score = _score_by_loss(config, inputs, backend)
    for share in record.settings.keep:
        folder = _folder(path, share)
        if folder.is_dir():
            continue
        search = SearchConfig(
            max_params=float(share),
            population=record.settings.population,
            greedy=record.settings.population,
            generations=record.settings.generations,
            seed=config.train.seed,
        )
        found = search_subnets(net, score, search)
        small = net.extract(found.best.config)
        assert isinstance(small, CLIP)
        recalibrate(small, [(batch.images, batch.tokens) for batch in inputs])
        partial_folder = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial_folder, ignore_errors=True)
        save_model(partial_folder, small, preprocess)
        parts.save_prompting(partial_folder)
        _write_description(partial_folder, net, found.best.config, found.best.score)
        os.replace(partial_folder, folder)


def _folder(path: Path, share: float) -> Path:
    """Where the subnet of a share is, in a run directory."""
    return path / SUBNETS / f"{share:g}"


def _some_inputs(config: Config, parts: Parts, backend: SingleBackend) -> list[StepInputs]:
    """The first batches of training; no image is cached for so few."""
    config = replace(config, data=replace(config.data, cache_images=False))
    reader = BatchReader(parts.source, parts.plan, config, parts.preprocess, parts.tokenizer)
    make = InputMaker(config, backend, parts.preprocess, parts.model)
    count = min(TRIED_BATCHES, parts.plan.steps_per_epoch)
    return [make(reader[step]) for step in range(count)]


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
                out = Towers(model.eval())(*batch[:4])
                embeddings = Embeddings(
                    F.normalize(out.images, dim=-1),
                    F.normalize(out.texts, dim=-1),
                    out.logit_scale,
                    out.logit_bias,
                )
                total += float(sum(objective(embeddings, batch.candidates).values()))
        return -total / len(inputs)

    return score


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
