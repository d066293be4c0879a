"""What `osf train` and `osf search` need besides a model: a task, batches, and a score."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from osf_supernet.training.processes import rank_and_world, shard_rows
from osf_supernet.training.tasks import Classification, Task

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""By Pillow's names; its PostScript reader would start Ghostscript on a file of any name."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as most models expect


class Experiment(NamedTuple):
    """A task with its data.

    Attributes:
        task: the loss.
        batch_of: step → batch of a training.
        evaluate: model → score, higher is better.
        calibration: inputs that batch norms are recalibrated with.
    """

    task: Task
    batch_of: Callable[[int], Any]
    evaluate: Callable[[nn.Module], float]
    calibration: list[Any]


def from_image_folder(
    folder: str | Path,
    *,
    image_size: int,
    batch_size: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Experiment:
    """Classification of `train/CLASS/*` with random flips, scored on all of `val/CLASS/*`.

    Needs torchvision. Class indices are the alphabetical order of the class folders. In a process
    group `batch_size` images of each rank are one batch.
    """
    try:
        sets: Any = importlib.import_module("torchvision.datasets")
        importlib.import_module("PIL.Image")
    except ModuleNotFoundError as error:
        raise ImportError(
            "folders of images need torchvision and pillow: pip install osf-supernet[images]"
        ) from error
    train, val = (
        sets.ImageFolder(Path(folder) / part, loader=_load_image) for part in ("train", "val")
    )
    if train.classes != val.classes:
        raise ValueError("train and val must have the same class folders")
    task = Classification()
    read = partial(_read_rows, image_size=image_size, device=device)

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        count = batch_size * rank_and_world()[1]
        rows = torch.randint(len(train), (count,), generator=generator)
        flip = torch.randint(2, (count,), generator=generator)
        return read(train, shard_rows(rows).tolist(), shard_rows(flip))

    def evaluate(model: nn.Module) -> float:
        starts = range(0, len(val), batch_size)
        parts = (list(range(i, min(i + batch_size, len(val)))) for i in starts)
        return task.evaluate(model, (read(val, rows) for rows in parts))

    calibration = [batch_of(-1 - index)[0] for index in range(4)]
    return Experiment(task, batch_of, evaluate, calibration)


def _read_rows(
    images: Any,
    rows: list[int],
    flip: Tensor | None = None,
    *,
    image_size: int,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Pixels (B, 3, side, side) and labels (B,) of some images, mirrored where `flip` is 1."""
    pixels, labels = [], []
    for position, row in enumerate(rows):
        image, label = images[row]
        tensor = _tensor(image, image_size)
        pixels.append(tensor.flip(2) if flip is not None and flip[position] else tensor)
        labels.append(label)
    return torch.stack(pixels).to(device), torch.tensor(labels).to(device)


def _load_image(path: str) -> Any:
    """An RGB image of one of `IMAGE_FORMATS`."""
    image: Any = importlib.import_module("PIL.Image")
    with image.open(path, formats=IMAGE_FORMATS) as opened:
        return opened.convert("RGB")


def _tensor(image: Any, size: int) -> Tensor:
    """(3, size, size) normalized, from a PIL image."""
    numpy: Any = importlib.import_module("numpy")
    pixels = torch.from_numpy(numpy.array(image.convert("RGB").resize((size, size))))
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return ((pixels.float() / 255 - mean) / std).permute(2, 0, 1)
