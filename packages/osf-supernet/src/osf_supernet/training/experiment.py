"""What `osf train` and `osf search` need besides a model: a task, batches, and a score."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from osf_supernet.training.processes import rank_and_world, shard_rows
from osf_supernet.training.tasks import Classification, Contrastive, Task

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""By Pillow's names; its PostScript reader would start Ghostscript on a file of any name."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as most models expect
Normalization = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation
CALIBRATION_BATCHES = 4


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
    normalization: Normalization = (MEAN, STD),
    workers: int = 0,
    prompts: Tensor | None = None,
) -> Experiment:
    """Classification of `train/CLASS/*` with random flips, scored on all of `val/CLASS/*`.

    With prompts both towers of a CLIP: the caption of an image is its class's prompt, and the
    score is the zero-shot accuracy.

    Needs torchvision. Class indices are the alphabetical order of the class folders. In a process
    group `batch_size` images of each rank are one batch.

    Args:
        folder: with `train` and `val`.
        image_size: side of the square in pixels.
        batch_size: images of a rank in a step.
        seed: of the order and the flips.
        device: where batches go.
        normalization: mean and standard deviation of each channel, of pixels in [0, 1]; those of
            ImageNet by default.
        workers: threads that decode images; 0 decodes in the calling one.
        prompts: tokens (C, T), a row for each class.
    """
    train, val = read_image_folder(folder)
    if prompts is not None and len(prompts) != len(train.classes):
        raise ValueError(f"{len(train.classes)} classes need as many prompts, got {len(prompts)}")
    captions = None if prompts is None else prompts.to(device)
    task = Classification() if captions is None else Contrastive()
    pool = ThreadPoolExecutor(workers) if workers else None
    read = partial(_read_rows, image_size=image_size, scale=normalization, pool=pool)

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        count = batch_size * rank_and_world()[1]
        rows = torch.randint(len(train), (count,), generator=generator)
        flip = torch.randint(2, (count,), generator=generator)
        pixels, labels = read(train, shard_rows(rows).tolist(), shard_rows(flip))
        labels = labels.to(device)
        return pixels.to(device), labels if captions is None else captions[labels]

    def evaluate(model: nn.Module) -> float:
        starts = range(0, len(val), batch_size)
        parts = (list(range(i, min(i + batch_size, len(val)))) for i in starts)
        found = (tuple(x.to(device) for x in read(val, rows)) for rows in parts)
        return task.evaluate(model, found, *([] if captions is None else [captions]))

    calibration = [batch_of(-1 - index)[0] for index in range(CALIBRATION_BATCHES)]
    return Experiment(task, batch_of, evaluate, calibration)


def read_image_folder(folder: str | Path) -> tuple[Any, Any]:
    """The data sets `train` and `val` of a folder of class folders.

    Raises:
        ImportError: torchvision or pillow is not installed.
        ValueError: the two parts have other classes.
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
    return train, val


def _read_rows(
    images: Any,
    rows: list[int],
    flip: Tensor | None = None,
    *,
    image_size: int,
    scale: Normalization,
    pool: ThreadPoolExecutor | None,
) -> tuple[Tensor, Tensor]:
    """Pixels (B, 3, side, side) and labels (B,) of some images, mirrored where `flip` is 1."""

    def decode(row: int) -> tuple[Tensor, int]:
        image, label = images[row]
        return _tensor(image, image_size, *scale), label

    pixels, labels = [], []
    decoded = map(decode, rows) if pool is None else pool.map(decode, rows)
    for position, (tensor, label) in enumerate(decoded):
        pixels.append(tensor.flip(2) if flip is not None and flip[position] else tensor)
        labels.append(label)
    return torch.stack(pixels), torch.tensor(labels)


def _load_image(path: str) -> Any:
    """An RGB image of one of `IMAGE_FORMATS`."""
    image: Any = importlib.import_module("PIL.Image")
    with image.open(path, formats=IMAGE_FORMATS) as opened:
        return opened.convert("RGB")


def _tensor(image: Any, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(3, size, size) normalized, from a PIL image."""
    numpy: Any = importlib.import_module("numpy")
    pixels = torch.from_numpy(numpy.array(image.convert("RGB").resize((size, size))))
    return ((pixels.float() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1)
