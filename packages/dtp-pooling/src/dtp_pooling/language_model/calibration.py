"""The threshold at which an unsure predictor closes as many segments as it was trained for.

N symbols of a text, L window.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from dtp_pooling.language_model.config import BoundaryConfig
from dtp_pooling.language_model.model import DynamicPoolingLM

_SURE = 30.0  # a logit beyond it has a probability that rounds to 0 or 1
_FAR = 2.0  # times more, or fewer, segments than wanted


@torch.no_grad()
def calibrate_threshold(
    model: DynamicPoolingLM, text: Tensor, *, window: int, windows: int = 64, batch: int = 16
) -> float:
    """Set and return the probability above which a share `rate` of the tokens closes a segment.

    The probabilities are those of windows at equal distances in the text. Where probabilities are
    equal at the threshold, fewer close.

    Args:
        model: In evaluation mode, with boundaries of the kind `gumbel`.
        text: (N,) ids of the training text.
        window: L, at most N is used.
        windows: Number of windows.
        batch: Windows per forward pass.
    """
    assert model.segmenter is not None
    window = min(window, len(text))
    count = min(windows, len(text) // window)
    starts = torch.linspace(0, len(text) - window, count).long()
    tokens = text[starts[:, None] + torch.arange(window)].long()  # (windows, L)
    device = model.head.weight.device
    parts = [model(part.to(device)).boundary_logits for part in torch.split(tokens, batch)]
    logits = torch.cat([part.flatten().double().cpu() for part in parts if part is not None])
    ranked = logits.sort(descending=True).values
    closed = min(max(round(model.segmenter.config.rate * len(ranked)), 1), len(ranked) - 1)
    between = ranked[closed - 1 : closed + 1].mean().clamp(-_SURE, _SURE)
    threshold = float(between.sigmoid())
    _set_threshold(model, threshold)
    return threshold


def _set_threshold(model: DynamicPoolingLM, threshold: float) -> None:
    assert model.segmenter is not None
    boundaries = dataclasses.replace(model.config.boundaries, threshold=threshold)
    model.config = dataclasses.replace(model.config, boundaries=boundaries)
    model.segmenter.config = boundaries.resolve()


def explain_rate(config: BoundaryConfig, shortening: float) -> str | None:
    """Why a model cuts far more or less in evaluation than its rate, or None if it does not."""
    is_unsure = config.kind == "gumbel" and config.evaluation == "threshold"
    if not is_unsure and config.kind != "routing":
        return None
    wanted = 1 / config.rate
    if wanted / _FAR <= shortening <= wanted * _FAR:
        return None
    found = (
        f"segments have {shortening:,.1f} characters in evaluation, {wanted:.1f} were aimed at: "
    )
    if config.kind == "routing":
        return found + "train longer, or with a higher --model.boundaries.weight"
    return (
        f"{found}the predictor is not sure enough for its threshold; train longer, or with "
        "--model.boundaries.evaluation calibrated"
    )
