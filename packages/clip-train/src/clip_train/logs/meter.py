"""Means and speed between two lines of metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from clip_train.distributed.protocol import Backend


class Meter:
    """Sums of some steps; the device is not waited for until they are read."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._keys: list[list[str]] = []
        self._losses: list[dict[str, Tensor]] = []
        self._records: list[dict[str, Tensor]] = []
        self._norms: list[Tensor] = []
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
        """One step: this rank's shares () of its losses and of other numbers, the gradient's norm
        (), this rank's keys, and the samples of all ranks.
        """
        self._records.append(records)
        self._losses.append(losses)
        self._norms.append(norm)
        self._keys.append(keys)
        self._samples += samples

    def first_not_finite(self, *, norms: bool) -> list[str] | None:
        """Keys of the first batch whose loss (or gradient) is not finite; None if all are."""
        if not self._losses:
            return None
        totals = self._totals()
        finite = totals.isfinite()
        if norms:
            finite &= torch.stack(self._norms).isfinite().to(finite.device)
        bad = (~finite).nonzero().flatten().tolist()
        if not bad:
            return None
        return [key for keys in self.backend.all_gather_object(self._keys[bad[0]]) for key in keys]

    def means(self) -> dict[str, float]:
        """Mean loss, mean of each of its terms if there are several, and mean gradient norm."""
        means = {"loss": self._totals().mean().item()}
        names = self._losses[0]
        if len(names) > 1:
            for name in names:
                shares = torch.stack([losses[name] for losses in self._losses])
                means[f"loss/{name}"] = self.backend.all_reduce(shares).mean().item()
        for name in self._records[0]:
            values = torch.stack([records[name] for records in self._records])
            means[name] = self.backend.all_reduce(values).mean().item()
        means["grad_norm"] = torch.stack(self._norms).mean().item()
        return means

    def speed(self) -> dict[str, float]:
        """Samples a second of all ranks, and the share of time that this one waited for data."""
        elapsed = time.perf_counter() - self._began
        return {"samples_per_s": self._samples / elapsed, "data_wait": self._waited / elapsed}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent within counts as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent within does not count at all."""
        start = time.perf_counter()
        yield
        self._began += time.perf_counter() - start

    def _totals(self) -> Tensor:
        """Loss of every step (steps,), summed over ranks."""
        shares = [torch.stack(list(losses.values())).sum() for losses in self._losses]
        return self.backend.all_reduce(torch.stack(shares))
