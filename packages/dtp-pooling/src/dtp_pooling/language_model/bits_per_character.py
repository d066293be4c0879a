"""Bits per character of a whole text, every character counted once.

N symbols of the text, B batch, L window, V vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dtp_pooling.language_model.model import DynamicPoolingLM


class BitsPerCharacter(NamedTuple):
    """How well a model predicts a text.

    Attributes:
        bits: Mean bits per character over all N.
        characters: N.
        shortening: Characters per segment over all windows, 1 without pooling.
    """

    bits: float
    characters: int
    shortening: float


class _Window(NamedTuple):
    start: int  # first input
    first: int  # first character to score
    end: int  # one past the last


def bits_per_character(
    model: DynamicPoolingLM, text: Tensor, *, window: int = 2048, stride: int = 512, batch: int = 16
) -> BitsPerCharacter:
    """Bits per character with sliding context.

    Windows advance by `stride` characters and each is scored once, by the first window that
    reaches it, so that it has at least `window - stride` characters before it wherever the text
    has them. The very first character has no context and is charged log2 V bits.

    Args:
        model: In evaluation mode.
        text: (N,) int64 ids, N at least 1.
        window: Most inputs of the model at once.
        stride: Characters scored per window, at most `window`.
        batch: Windows per forward pass.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride must be within 1 and window = {window}, got {stride}")
    if model.training:
        raise ValueError("evaluation needs model.eval()")
    if len(text) < 1:
        raise ValueError("expected at least one character, got an empty text")
    bits = math.log2(model.config.vocabulary)
    boundaries, tokens = 0.0, 0
    windows = _make_windows(len(text), window, stride)
    for begin in range(0, len(windows), batch):
        nats, closed, seen = _score_windows(model, text, windows[begin : begin + batch])
        bits += nats / math.log(2)
        boundaries, tokens = boundaries + closed, tokens + seen
    pooled = model.segmenter is not None
    shortening = tokens / max(boundaries, 1.0) if pooled else 1.0
    return BitsPerCharacter(bits / len(text), len(text), shortening)


def _make_windows(size: int, window: int, stride: int) -> list[_Window]:
    """Every character but the first falls in exactly one [first, end)."""
    windows = []
    first = 1
    while first < size:
        # the first window scores all it sees, later ones their last `stride`
        end = min(size, first + (window if first == 1 else stride))
        windows.append(_Window(max(0, end - 1 - window), first, end))
        first = end
    return windows


@torch.no_grad()
def _score_windows(
    model: DynamicPoolingLM, text: Tensor, windows: list[_Window]
) -> tuple[float, float, int]:
    """Nats of the scored characters; boundaries and tokens of all inputs."""
    device = model.head.weight.device
    lengths = torch.tensor([w.end - 1 - w.start for w in windows])
    size = int(lengths.max())
    tokens = torch.zeros(len(windows), size, dtype=torch.int64)
    targets = torch.full((len(windows), size), -100)  # ignored
    for row, (start, first, end) in enumerate(windows):
        tokens[row, : end - 1 - start] = text[start : end - 1]
        targets[row, first - 1 - start : end - 1 - start] = text[first:end]
    ragged = lengths.to(device) if int(lengths.min()) < size else None
    out = model(tokens.to(device), lengths=ragged)
    logits = out.logits.float().flatten(0, 1)
    nats = F.cross_entropy(logits, targets.to(device).flatten(), reduction="none")
    closed = 0.0 if out.boundaries is None else float(out.boundaries.sum())
    return float(nats.double().sum()), closed, int(lengths.sum())
