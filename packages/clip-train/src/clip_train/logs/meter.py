"""Means and speed between two rows of metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from clip_train.distributed.protocol import Backend


class _Step(NamedTuple):
    """One step; arguments of `Meter.add`."""

    losses: dict[str, Tensor]
    norm: Tensor
    keys: list[str]
    records: dict[str, Tensor]


class Meter:
    """Sums over steps; reading them waits for the device, adding to them does not."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._steps: list[_Step] = []
        self._samples = 0
        self._waited = 0.0
        self._began = time.perf_counter()

    def add(
        self,
        losses: dict[str, Tensor],
        norm: Tensor,
        keys: list[str],
        *,
        samples: int,
        records: dict[str, Tensor],
    ) -> None:
        """Add one step.

        Args:
            losses: This rank's shares () of the losses, by name.
            norm: Norm () of the gradient.
            keys: Keys of this rank's samples.
            samples: Number of samples of all ranks.
            records: This rank's shares () of other numbers to log, by name.
        """
        self._steps.append(_Step(losses, norm, keys, records))
        self._samples += samples

    def first_not_finite(self, *, norms: bool) -> list[str] | None:
        """Sample keys of the first step whose loss (or gradient) is not finite; None if all are."""
        if not self._steps:
            return None
        finite = self._totals().isfinite()
        if norms:
            finite &= self._norms().isfinite().to(finite.device)
        bad = (~finite).nonzero().flatten().tolist()
        if not bad:
            return None
        gathered = self.backend.all_gather_object(self._steps[bad[0]].keys)
        return [key for keys in gathered for key in keys]

    def means(self) -> dict[str, float]:
        """Mean loss, mean of each of its terms if there are several, and mean gradient norm."""
        means = {"loss": self._totals().mean().item()}
        first = self._steps[0]
        if len(first.losses) > 1:
            for name in first.losses:
                means[f"loss/{name}"] = self._mean([step.losses[name] for step in self._steps])
        for name in first.records:
            means[name] = self._mean([step.records[name] for step in self._steps])
        means["grad_norm"] = self._norms().mean().item()
        return means

    def speed(self) -> dict[str, float]:
        """Samples per second of all ranks, and the share of time this rank waited for data."""
        elapsed = time.perf_counter() - self._began
        return {"samples_per_s": self._samples / elapsed, "data_wait": self._waited / elapsed}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time within as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time within."""
        start = time.perf_counter()
        yield
        self._began += time.perf_counter() - start

    def _totals(self) -> Tensor:
        """Loss of every step (steps,), summed over ranks."""
        shares = [torch.stack(list(step.losses.values())).sum() for step in self._steps]
        return self.backend.all_reduce(torch.stack(shares))

    def _norms(self) -> Tensor:
        """Norm of the gradient of every step (steps,)."""
        return torch.stack([step.norm for step in self._steps])

    def _mean(self, shares: list[Tensor]) -> float:
        """Mean over steps of a number of which each rank has a share."""
        return self.backend.all_reduce(torch.stack(shares)).mean().item()
