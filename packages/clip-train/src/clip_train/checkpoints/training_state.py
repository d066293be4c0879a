"""The whole state of a run in a checkpoint.

A checkpoint holds the model (loadable by itself), `optimizer.safetensors`, where there is EMA or a
learned augmentation `average.safetensors` and `augmentation.safetensors`, and `state.json` with a
SHA-256 of each file and of itself. All tensors are unsharded, so that any number of processes can
continue from them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from clip_models import CLIP, CheckpointError, load_model
from clip_models.command_line import read_small_file
from clip_models.config import PreprocessConfig
from clip_models.files import load_tensors, save_config
from dtp_pooling import checkpoint_files
from dtp_pooling.checkpoint_files import STATE_NAME
from torch import Tensor

from clip_train.augment.range_augment import LearnedAugmentation
from clip_train.checkpoints.stores import CheckpointStore
from clip_train.distributed.errors import run_on_first_rank
from clip_train.distributed.protocol import Backend
from clip_train.optim.ema import ExponentialMovingAverage
from clip_train.optim.loss_scale import LossScale
from clip_train.optim.optimizer import Optimizers

# Names of the files of tensors, without their suffix.
MODEL, OPTIMIZER, AVERAGE, AUGMENTATION = "model", "optimizer", "average", "augmentation"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is, and which run; all else follows from the config.

    Attributes:
        step: Optimizer steps done.
        samples: Images of all ranks that they took.
        num_samples: Samples of the training data.
        total_steps: Steps of the run.
        data: A digest of the samples.
        best: Which evaluation was the best so far, where a metric decides.
    """

    step: int
    samples: int
    num_samples: int
    total_steps: int
    data: str
    best: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Everything of a run that changes from step to step, except its progress."""

    backend: Backend
    model: CLIP
    augmentation: LearnedAugmentation | None
    preprocess: PreprocessConfig
    optimizers: Optimizers
    ema: ExponentialMovingAverage | None
    loss_scale: LossScale | None

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """All tensors that a checkpoint holds, by file and name; sharded ones as they are."""
        tensors: dict[str, Mapping[str, Tensor]] = {
            MODEL: self.model.state_dict(),
            OPTIMIZER: self.optimizers.state(),
        }
        if self.augmentation is not None:
            tensors[AUGMENTATION] = self.augmentation.state_dict()
        if self.ema is not None:
            tensors[AVERAGE] = self.ema.values
        return tensors


def save_checkpoint(
    store: CheckpointStore,
    progress: Progress,
    state: TrainingState,
    *,
    keep_last: int,
    keep_every: int | None,
) -> None:
    """Write a checkpoint, and delete older ones; all ranks call it, the first one writes.

    Args:
        store: Where to.
        progress: How far the run is.
        state: Everything else.
        keep_last: Number of newest checkpoints to keep.
        keep_every: Checkpoints of steps that it divides are kept for good.

    Raises:
        OSError: It could not be written, on any rank; earlier checkpoints are as they were.
    """
    tensors = {name: _full_tensors(state.backend, x) for name, x in state.tensors().items()}
    scale = None if state.loss_scale is None else asdict(state.loss_scale)
    record = {"progress": asdict(progress), "loss_scale": scale}

    def write() -> None:
        store.write(
            progress.step,
            tensors,
            record,
            lambda directory: save_config(directory, state.model.config, state.preprocess),
        )
        store.keep_last(keep_last, keep_every)

    run_on_first_rank(state.backend, write)


def load_checkpoint(store: CheckpointStore, step: int, state: TrainingState) -> Progress:
    """Copy a checkpoint's tensors into the state; how far it is. All ranks call it.

    Raises:
        CheckpointError: A file is damaged, or does not fit the model.
    """
    with store.reading(step) as directory:
        progress, loss_scale = _read_state(directory, store, step)
        state.optimizers.initialize()
        for name, tensors in state.tensors().items():
            _copy_from_file(state.backend, tensors, directory / f"{name}.safetensors")
    if state.loss_scale is not None and loss_scale is not None:
        state.loss_scale.__dict__.update(loss_scale.__dict__)
    return progress


def load_newest_model(store: CheckpointStore) -> tuple[CLIP, PreprocessConfig] | None:
    """The model of the newest checkpoint, and its preprocessing; None if there is no checkpoint.

    Raises:
        CheckpointError: A file is damaged.
    """
    steps = store.steps()
    if not steps:
        return None
    with store.reading(steps[-1]) as directory:
        _read_state(directory, store, steps[-1])
        return load_model(directory)


def full_model(state: TrainingState) -> CLIP:
    """The model that a run evaluates and exports: unsharded, with EMA weights if there are any.

    It is the trained model if that is neither sharded nor averaged, else a copy; all ranks call it.
    """
    backend = state.backend
    if state.ema is None and backend.name in ("single", "ddp"):
        return state.model
    with torch.device("meta"):
        copy = CLIP(state.model.config)
    tensors = dict(state.model.state_dict())
    if state.ema is not None:
        tensors |= state.ema.values
    device = torch.device("cpu") if backend.needs_fixed_shapes else backend.device
    full = {name: backend.full_tensor(x).to(device, copy=True) for name, x in tensors.items()}
    copy.load_state_dict(full, assign=True)
    return copy.eval()


def _full_tensors(backend: Backend, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Unsharded copies on the CPU on the first rank, nothing on others; all ranks call it."""
    copies = {}
    for name, tensor in tensors.items():
        full = backend.full_tensor(tensor)
        if backend.rank == 0:
            copies[name] = full.to("cpu", copy=True)
    return copies


def _read_state(
    directory: Path, store: CheckpointStore, step: int
) -> tuple[Progress, LossScale | None]:
    """The state besides tensors, after every file was verified.

    Raises:
        CheckpointError: A file is damaged.
    """
    try:
        record = _read_version_2(directory) or checkpoint_files.read_state(directory)
        scale = record["loss_scale"]
        return Progress(**record["progress"]), None if scale is None else LossScale(**scale)
    except (checkpoint_files.CheckpointError, KeyError, TypeError) as error:
        message = str(error)
        if not isinstance(error, checkpoint_files.CheckpointError):
            file = directory / STATE_NAME
            message = f"{file} is damaged: {error!r}; delete {directory} to go on from an older one"
        older = [other for other in store.steps() if other < step]
        remedy = store.describe(older[-1]) if older else "there is none, start the run again"
        message = message.replace(str(directory), store.describe(step))
        raise CheckpointError(f"{message}: {remedy}") from None


def _read_version_2(directory: Path) -> dict[str, Any] | None:
    """The record of format version 2, verified; None if `state.json` has another version."""
    try:
        record = json.loads(read_small_file(directory / STATE_NAME))
        if record["format_version"] != 2:
            return None
        digests = dict(record["sha256"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    checkpoint_files.verify_files(directory, digests)
    return dict(record)


def _copy_from_file(backend: Backend, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Overwrite the tensors with those of a file that must hold exactly them.

    Raises:
        CheckpointError: It holds others, or of other shapes.
    """
    found = load_tensors(file)
    faults = [f"missing {name}" for name in tensors if name not in found]
    faults += [f"unexpected {name}" for name in found if name not in tensors]
    faults += [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in tensors.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if faults:
        more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise CheckpointError(
            f"{file} does not fit the run: {'; '.join(faults[:4])}{more}. The run's config is not "
            "the one that the checkpoint was written with"
        )
    for name, tensor in tensors.items():
        backend.load_full_tensor(tensor, found[name])
