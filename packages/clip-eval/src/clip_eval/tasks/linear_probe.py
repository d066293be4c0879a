"""A linear classifier on frozen features: multinomial logistic regression.

Solved to convergence by L-BFGS in float64, as in scikit-learn, so that the result depends on no
learning rate.

Legend: N samples, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clip_eval.errors import EvaluationError
from clip_eval.results.result import Prediction, Result
from clip_eval.tasks.classification import KS, Classification

COARSE = tuple(10.0**power for power in range(-6, 4))
FINE_STEPS = (10**-0.5, 10**-0.25, 10**0.25, 10**0.5)
TOLERANCE = 1e-7
MAX_STEPS = 1000


class Probe(NamedTuple):
    """Weights (C, D), bias (C,) and the L2 penalty of the fit."""

    weight: Tensor
    bias: Tensor
    penalty: float


def fit_probe(
    features: Tensor, labels: Tensor, n_classes: int, penalty: float, start: Probe | None = None
) -> Probe:
    """Minimize mean cross-entropy + penalty / 2 · |W|².

    scikit-learn's `C` is `1 / (N · penalty)`; the bias is not penalized.

    Args:
        features: (N, D).
        labels: (N,).
        n_classes: C.
        penalty: L2 penalty.
        start: Initial weights and bias.
    """
    x, y = features.double(), labels
    weight = x.new_zeros(n_classes, x.shape[1]) if start is None else start.weight.double().clone()
    bias = x.new_zeros(n_classes) if start is None else start.bias.double().clone()

    def loss(weight: Tensor, bias: Tensor) -> Tensor:
        return cross_entropy(x @ weight.T + bias, y) + penalty / 2 * weight.square().sum()

    return Probe(*minimize(loss, weight, bias), penalty)


def minimize(
    loss: Callable[[Tensor, Tensor], Tensor], weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Minimize a loss of weights and biases, from the given ones, by L-BFGS to convergence."""
    weight.requires_grad_()
    bias.requires_grad_()
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_STEPS,
        tolerance_grad=TOLERANCE,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def step() -> Tensor:
        solver.zero_grad()
        value = loss(weight, bias)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        solver.step(step)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def choose_penalty(
    features: Tensor, labels: Tensor, n_classes: int, *, validation: float = 0.2, seed: int = 0
) -> float:
    """Choose the penalty with the best accuracy on held-out samples: powers of ten, then finer.

    Args:
        features: (N, D).
        labels: (N,).
        n_classes: C.
        validation: Share held out of each class; a class of one sample stays in the training part.
        seed: Seed of the held-out samples.
    """
    held = _held_out(labels, validation, seed)
    if not held.any():
        raise EvaluationError(
            f"a linear probe needs two samples of some class to choose its penalty, got "
            f"{len(labels)} samples of {len(set(labels.tolist()))} classes; give --penalty, or "
            "more --shots"
        )

    def fit(penalty: float, start: Probe | None) -> Probe:
        return fit_probe(features[~held], labels[~held], n_classes, penalty, start)

    def score(probe: Probe) -> float:
        logits = features[held].double() @ probe.weight.T + probe.bias
        return float((logits.argmax(dim=1) == labels[held]).double().mean())

    return search_penalty(fit, score)


def search_penalty(
    fit: Callable[[float, Probe | None], Probe], score: Callable[[Probe], float]
) -> float:
    """Return the penalty of the best score: powers of ten, then finer; of equal ones the largest.

    Args:
        fit: Fits a probe with a penalty, from the probe of the penalty before it.
        score: Scores a probe on held-out samples.
    """
    found: dict[float, float] = {}
    last: Probe | None = None

    def try_all(penalties: Sequence[float]) -> float:
        nonlocal last
        for penalty in sorted(penalties, reverse=True):  # each fit starts from the last
            if penalty not in found:
                last = fit(penalty, last)
                found[penalty] = score(last)
        return max(found, key=lambda penalty: (found[penalty], penalty))

    best = try_all(COARSE)
    last = None
    return try_all([best * step for step in FINE_STEPS])


def _held_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """Mark held-out samples (N,): a share of each class, at least one where there are two."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=draw)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        own = order[labels[order] == label]
        count = max(1, round(share * len(own))) if len(own) > 1 else 0
        held[own[:count]] = True
    return held


class LinearProbe(Classification):
    """Classification by a linear probe.

    Args:
        names: Class names in label order.
        probe: The probe, fitted on the training data.
        device: Device of the features.
        ks: The values of k of top-k accuracy.
    """

    def __init__(
        self, names: Sequence[str], probe: Probe, device: torch.device, ks: Sequence[int] = KS
    ) -> None:
        super().__init__(
            names,
            probe.weight.float().to(device),
            scale=1.0,
            bias=probe.bias.float().to(device),
            ks=ks,
            task="linear_probe",
            prefix="lp_",
        )
        self.penalty = probe.penalty

    def result(self, rows: Sequence[Prediction]) -> Result:
        """Return the result of `Classification`, with the penalty in its details."""
        return replace(super().result(rows), details={"penalty": self.penalty})
