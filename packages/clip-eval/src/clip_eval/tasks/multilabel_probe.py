"""A linear probe for several labels per image: one logistic regression for each class.

Solved to convergence by L-BFGS in float64, like the probe of one label.

Legend: N samples, B batch, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from clip_eval.encoding.batches import ImageBatch
from clip_eval.errors import EvaluationError
from clip_eval.metrics.functions import average_precision
from clip_eval.plurals import count_noun
from clip_eval.results.result import Result
from clip_eval.tasks.linear_probe import Probe, minimize, search_penalty
from clip_eval.tasks.multilabel import MultiLabel, ScoredImage, require_targets


class MarkedFeature(NamedTuple):
    """One sample: its features (D,) and its classes."""

    feature: NDArray[np.float32]
    targets: tuple[int, ...]


class CollectMarks:
    """Collects the features of images with several labels, except those that are not finite."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes

    def rows(self, batch: ImageBatch, features: Tensor) -> list[MarkedFeature]:
        """The batch's features and classes."""
        return [
            MarkedFeature(feature, require_targets(sample.key, sample.targets, self.n_classes))
            for sample, feature in zip(batch.samples, features.cpu().numpy(), strict=True)
            if np.isfinite(feature).all()
        ]

    def stack(self, rows: Sequence[MarkedFeature]) -> tuple[Tensor, Tensor]:
        """Stack rows to features (N, D) and marks of classes (N, C), 0 or 1.

        Raises:
            EvaluationError: There are no rows.
        """
        if not rows:
            raise EvaluationError("none of the training images could be used")
        marks = torch.zeros(len(rows), self.n_classes)
        for row, own in zip(rows, marks, strict=True):
            own[list(row.targets)] = 1
        return torch.from_numpy(np.stack([row.feature for row in rows])), marks


def choose_marked_shots(marks: Tensor, shots: int, seed: int) -> Tensor:
    """Choose `shots` samples with each class by the seed; the positions of all of them, in order.

    Args:
        marks: (N, C).
        shots: Samples per class; one may be of several classes.
        seed: Seed of the choice.
    """
    order = torch.randperm(len(marks), generator=torch.Generator().manual_seed(seed))
    taken = [order[marks[order, c] > 0][:shots] for c in range(marks.shape[1])]
    return torch.tensor(sorted(set(torch.cat(taken).tolist())))


def fit_marked_probe(
    features: Tensor, marks: Tensor, penalty: float, start: Probe | None = None
) -> Probe:
    """Minimize mean binary cross-entropy + penalty / 2 · |w|² of each class.

    scikit-learn's `C` is `1 / (N · penalty)`; biases are not penalized. A class that no sample has,
    or every one, gets weights of 0, because there is nothing to learn.

    Args:
        features: (N, D).
        marks: 1 where a sample has a class (N, C).
        penalty: L2 penalty.
        start: Initial weights and biases.
    """
    x, y = features.double(), marks.double()
    learned = (y.mean(dim=0) > 0) & (y.mean(dim=0) < 1)
    weight, bias = x.new_zeros(y.shape[1], x.shape[1]), x.new_zeros(y.shape[1])
    w = weight[learned] if start is None else start.weight.double()[learned].clone()
    b = bias[learned] if start is None else start.bias.double()[learned].clone()

    def loss(w: Tensor, b: Tensor) -> Tensor:
        logits = x @ w.T + b
        each = binary_cross_entropy_with_logits(logits, y[:, learned], reduction="none")
        return each.mean(dim=0).sum() + penalty / 2 * w.square().sum()

    if bool(learned.any()):
        weight[learned], bias[learned] = minimize(loss, w, b)
    return Probe(weight, bias, penalty)


def choose_marked_penalty(
    features: Tensor, marks: Tensor, *, validation: float = 0.2, seed: int = 0
) -> float:
    """Choose the penalty of the best mean average precision on held-out samples.

    Args:
        features: (N, D).
        marks: (N, C).
        validation: Share of the samples that is held out.
        seed: Seed of the held-out samples.
    """
    order = torch.randperm(len(marks), generator=torch.Generator().manual_seed(seed))
    held = torch.zeros(len(marks), dtype=torch.bool)
    held[order[: round(validation * len(marks))]] = True
    if not bool(marks[held].any()):
        raise EvaluationError(
            f"a linear probe needs held-out samples with classes to choose its penalty, got "
            f"{count_noun(len(marks), 'sample')} in all; give --penalty"
        )

    def fit(penalty: float, start: Probe | None) -> Probe:
        return fit_marked_probe(features[~held], marks[~held], penalty, start)

    def score(probe: Probe) -> float:
        logits = (features[held].double() @ probe.weight.T + probe.bias).numpy()
        truth = marks[held].numpy() > 0
        each = [average_precision(logits[:, c], truth[:, c]) for c in range(truth.shape[1])]
        return float(np.mean([value for value in each if value is not None]))

    return search_penalty(fit, score)


class MultiLabelProbe(MultiLabel):
    """Ranks the images for each class by a linear probe.

    Args:
        names: Class names in label order.
        probe: The probe, fitted on the training data.
        device: Device of the features.
    """

    def __init__(self, names: Sequence[str], probe: Probe, device: torch.device) -> None:
        super().__init__(names, probe.weight.float().to(device))
        self.bias, self.penalty = probe.bias.float().to(device), probe.penalty
        self.unlearned = int((probe.weight == 0).all(dim=1).sum())

    def scores(self, features: Tensor) -> Tensor:
        """Compute the logits of features (B, D) for each class, (B, C)."""
        return features @ self.classifier.T + self.bias

    def result(self, rows: Sequence[ScoredImage]) -> Result:
        """Return the result of `MultiLabel`, with the penalty in its details."""
        found = super().result(rows)
        warnings = found.warnings
        if self.unlearned:
            classes = count_noun(self.unlearned, "class has", "classes have")
            warnings += (
                f"{classes} no training image, or no other: the scores of such a class are equal",
            )
        return replace(
            found,
            task="linear_probe_multilabel",
            metrics={f"lp_{name}": value for name, value in found.metrics.items()},
            ci95={f"lp_{name}": interval for name, interval in found.ci95.items()},
            warnings=warnings,
            details={"penalty": self.penalty},
        )
