"""The data that `--images` or `--data` names, on the device of the model."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from osf_supernet.commands.libraries import describe_types, find_factory
from osf_supernet.search.scoring import bytes_of
from osf_supernet.supernet import Supernet
from osf_supernet.training.experiment import Experiment, from_image_folder

PRUNING_BATCHES = 4
"""Training batches that subnets are chosen by."""


def make_experiment(net: Supernet, options: argparse.Namespace) -> Experiment:
    """Task, batches and score, on the device of the model.

    Raises:
        ValueError: `--images` does not fit the model, or the factory returned something else.
    """
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


def pruning_batches(
    experiment: Experiment, options: argparse.Namespace
) -> tuple[list[Any], Callable[..., Tensor] | None]:
    """Batches to choose a subnet by, and their loss; of a factory its calibration inputs alone."""
    if options.data:
        return list(experiment.calibration), None
    return [experiment.batch_of(-1 - i) for i in range(PRUNING_BATCHES)], F.cross_entropy


def digest_of(experiment: Experiment, options: argparse.Namespace) -> str:
    """SHA-256 of what scores depend on besides the supernet, as far as can be seen.

    The first training batch, the calibration inputs, and of an image folder the names and sizes
    of the files in `val`, wherever it lies.
    """
    found = hashlib.sha256()
    for leaf in pytree.tree_leaves([experiment.batch_of(0), experiment.calibration]):
        found.update(bytes_of(leaf) if isinstance(leaf, Tensor) else repr(leaf).encode())
    if not options.data:
        val = Path(options.images) / "val"
        for file in sorted(path for path in val.rglob("*") if path.is_file()):
            found.update(f"{file.relative_to(val)} {file.stat().st_size}\n".encode())
    return found.hexdigest()


def _call_factory(name: str, batch_size: int) -> Experiment:
    """The experiment that `module:factory` returns when called with the batch size."""
    made = find_factory(name, "data")(batch_size)
    if not isinstance(made, tuple) or len(made) != len(Experiment._fields):
        fields = ", ".join(Experiment._fields)
        raise ValueError(f"{name} must return a tuple ({fields}), got {describe_types(made)}")
    return Experiment(*made)
