"""The best classes of images, without ever holding all N x C or B x C scores.

Legend: B batch, C classes, D width, K guesses, N samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CLASSES_AT_ONCE = 4096


@dataclass(frozen=True)
class Guesses:
    """The best classes of a batch, on the CPU.

    Attributes:
        classes: Class indices, best first (B, K).
        probabilities: Softmax over all C classes, at the best ones (B, K).
        finite: Whether all scores of an image are finite (B,).
    """

    classes: Tensor
    probabilities: Tensor
    finite: Tensor

    def row(self, index: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return classes and probabilities of one image; empty if its scores are not finite."""
        if not bool(self.finite[index]):
            return (), ()
        return tuple(self.classes[index].tolist()), tuple(self.probabilities[index].tolist())


@torch.no_grad()
def guess_classes(
    features: Tensor,
    classifier: Tensor,
    *,
    scale: float,
    limit: int,
    bias: Tensor | None = None,
    chunk: int = CLASSES_AT_ONCE,
) -> Guesses:
    """Find the best `limit` classes of each image.

    Args:
        features: Features of images (B, D).
        classifier: Class directions (C, D) on the same device.
        scale: Factor on the products.
        limit: Number of classes; all of them if there are fewer.
        bias: Added to the products (C,).
        chunk: Classes at a time.
    """
    scores, classes, total = [], [], []
    for start in range(0, len(classifier), chunk):
        logits = scale * features @ classifier[start : start + chunk].T  # (B, chunk)
        if bias is not None:
            logits = logits + bias[start : start + chunk]
        best = logits.topk(min(limit, logits.shape[1]), dim=-1)
        scores.append(best.values)
        classes.append(best.indices + start)
        total.append(logits.logsumexp(dim=-1))
    every = torch.stack(total, dim=-1).logsumexp(dim=-1, keepdim=True)  # (B, 1)
    values, found = torch.cat(scores, dim=-1), torch.cat(classes, dim=-1)
    best = values.topk(min(limit, values.shape[1]), dim=-1)
    probabilities = (best.values - every).exp()  # (B, K)
    return Guesses(
        found.gather(1, best.indices).cpu(),
        probabilities.cpu(),
        every.isfinite().squeeze(-1).cpu(),
    )
