"""A language model trained on `train.txt` and scored on all of `val.txt`. T tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from osf_supernet.training.experiment import CALIBRATION_BATCHES, Experiment
from osf_supernet.training.processes import rank_and_world, shard_rows
from osf_supernet.training.tasks import LanguageModel


def from_text_folder(
    folder: str | Path,
    encode: Callable[[str], list[int]],
    *,
    length: int,
    batch_size: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    call: Callable[[nn.Module, Tensor], Tensor] | None = None,
) -> Experiment:
    """Next-token prediction on pieces of `train.txt`; `val.txt` gives the negated perplexity.

    Args:
        folder: with `train.txt` and `val.txt`, UTF-8.
        encode: text → token ids.
        length: tokens of a piece; pieces of a step begin anywhere, those of `val.txt` one
            after the other, with the last token of the one before.
        batch_size: pieces of a rank in a step.
        seed: of the places.
        device: where batches go.
        call: model and tokens (B, T) → logits (B, T, V); the plain call by default.

    Raises:
        ValueError: a text is shorter than a piece.
    """
    train, val = (
        _read_tokens(Path(folder) / f"{part}.txt", encode, length) for part in ("train", "val")
    )
    task = LanguageModel()

    def batch_of(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        count = batch_size * rank_and_world()[1]
        starts = torch.randint(len(train) - length + 1, (count,), generator=generator)
        return train[shard_rows(starts)[:, None] + torch.arange(length)].to(device)

    def evaluate(model: nn.Module) -> float:
        whole = val.unfold(0, length, length - 1)
        rest = val[len(whole) * (length - 1) :][None]
        parts = [*torch.split(whole, batch_size), *([rest] if rest.shape[1] > 1 else [])]
        return task.evaluate(model, (part.to(device) for part in parts))

    calibration = [batch_of(-1 - index) for index in range(CALIBRATION_BATCHES)]
    return Experiment(task, batch_of, evaluate, calibration)


def _read_tokens(file: Path, encode: Callable[[str], list[int]], length: int) -> Tensor:
    tokens = torch.tensor(encode(file.read_text(encoding="utf-8")), dtype=torch.long)
    if len(tokens) < length:
        raise ValueError(f"{file} must have at least {length} tokens, got {len(tokens)}")
    return tokens
