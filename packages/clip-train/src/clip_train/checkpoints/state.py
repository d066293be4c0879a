"""The whole state of a run on disk: safetensors and JSON, written so that a kill loses nothing.

A checkpoint holds the model (loadable by itself), `optimizer.safetensors`, where there are such
`average.safetensors` of the weights and `augmentation.safetensors` of learned augmentation, and
`state.json` with a checksum of each of them.  All tensors are whole, however they are spread over
processes, so that any number of processes can go on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clip_models import CLIP, CheckpointError, load_model
from clip_models.config import PreprocessConfig
from clip_models.files import WEIGHTS_NAME, load_tensors, save_config, save_tensors
from torch import Tensor

from clip_train.augment.range_augment import LearnedAugmentation
from clip_train.checkpoints.stores import STATE_NAME, CheckpointStore
from clip_train.distributed.errors import run_on_first_rank
from clip_train.distributed.protocol import Backend
from clip_train.optim.ema import WeightAverage
from clip_train.optim.loss_scale import LossScale
from clip_train.optim.optimizer import Optimizers

OPTIMIZER_NAME = "optimizer.safetensors"
AVERAGE_NAME = "average.safetensors"
AUGMENTATION_NAME = "augmentation.safetensors"
FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is, and of what; all else follows from the config."""

    step: int
    samples: int
    num_samples: int
    total_steps: int
    data: str  # a digest of some of the samples' keys


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Everything of a run that changes from step to step, apart from its progress."""

    backend: Backend
    model: CLIP
    augmentation: LearnedAugmentation | None
    preprocess: PreprocessConfig
    optimizers: Optimizers
    average: WeightAverage | None
    loss_scale: LossScale | None


def save_checkpoint(
    store: CheckpointStore,
    progress: Progress,
    state: TrainingState,
    *,
    keep_last: int,
    keep_every: int | None,
) -> None:
    """Write a checkpoint, and delete what is neither among the newest nor to be kept for good.

    All ranks call it; the first one writes.

    Raises:
        OSError: It could not be written, on any rank; earlier checkpoints are as they were.
    """
    files = {WEIGHTS_NAME: full_tensors(state.backend, state.model.state_dict())}
    files[OPTIMIZER_NAME] = full_tensors(state.backend, state.optimizers.state())
    if state.augmentation is not None:
        files[AUGMENTATION_NAME] = full_tensors(state.backend, state.augmentation.state_dict())
    if state.average is not None:
        files[AVERAGE_NAME] = full_tensors(state.backend, state.average.values)
    scale = None if state.loss_scale is None else asdict(state.loss_scale)

    def write() -> None:
        with store.writing(progress.step) as directory:
            save_config(directory, state.model.config, state.preprocess)
            for name, tensors in files.items():
                save_tensors(directory / name, tensors)
            record = {
                "format_version": FORMAT_VERSION,
                "progress": asdict(progress),
                "loss_scale": scale,
                "sha256": {file.name: _sha256(file) for file in sorted(directory.iterdir())},
            }
            (directory / STATE_NAME).write_text(json.dumps(record, indent=1), encoding="utf-8")
        for step in store.steps()[:-keep_last]:
            if keep_every is None or step % keep_every:
                store.delete(step)

    run_on_first_rank(state.backend, write)


def load_checkpoint(store: CheckpointStore, step: int, state: TrainingState) -> Progress:
    """Put a checkpoint's tensors in place; how far it is.  All ranks call it.

    Raises:
        CheckpointError: A file is damaged, or does not fit the model.
    """
    with store.reading(step) as directory:
        record = _read_record(directory, store, step)
        model = dict(state.model.state_dict())
        _put(state.backend, model, directory / WEIGHTS_NAME)
        state.optimizers.initialize()
        _put(state.backend, state.optimizers.state(), directory / OPTIMIZER_NAME)
        if state.augmentation is not None:
            _put(state.backend, state.augmentation.state_dict(), directory / AUGMENTATION_NAME)
        if state.average is not None:
            _put(state.backend, state.average.values, directory / AVERAGE_NAME)
    if state.loss_scale is not None and record["loss_scale"] is not None:
        state.loss_scale.__dict__.update(LossScale(**record["loss_scale"]).__dict__)
    return Progress(**record["progress"])


def load_newest_model(store: CheckpointStore) -> tuple[CLIP, PreprocessConfig] | None:
    """The model of the newest checkpoint, and its preprocessing; None if there is no checkpoint.

    Raises:
        CheckpointError: A file is damaged.
    """
    steps = store.steps()
    if not steps:
        return None
    with store.reading(steps[-1]) as directory:
        _read_record(directory, store, steps[-1])
        return load_model(directory)


def full_tensors(backend: Backend, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU on the first rank, nothing on others; all ranks call it."""
    kept = {}
    for name, tensor in tensors.items():
        whole = backend.full_tensor(tensor)
        if backend.rank == 0:
            kept[name] = whole.to("cpu", copy=True)
    return kept


def _read_record(directory: Path, store: CheckpointStore, step: int) -> dict[str, Any]:
    """`state.json`, after all files were found to be as they were written."""
    older = [other for other in store.steps() if other < step]
    remedy = (
        f"delete it to go on from {store.describe(older[-1])}"
        if older
        else "there is no older one; start the run again"
    )
    try:
        record: dict[str, Any] = json.loads((directory / STATE_NAME).read_text(encoding="utf-8"))
        if record["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{store.describe(step)} has format {record['format_version']}, expected "
                f"{FORMAT_VERSION}; it was written by another release of clip-train"
            )
        Progress(**record["progress"])
        checksums = dict(record["sha256"])
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{store.describe(step)}/{STATE_NAME} is damaged ({error}); {remedy}"
        ) from None
    for name, checksum in checksums.items():
        file = directory / name
        if not file.is_file() or _sha256(file) != checksum:
            raise CheckpointError(
                f"{store.describe(step)}/{name} is damaged: its checksum is not the one that was "
                f"written; {remedy}"
            )
    return record


def _put(backend: Backend, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Overwrite the tensors with those of a file that must hold exactly them."""
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


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
