"""Means and speed between two rows of metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from clip_train.distributed.protocol import Backend


class Meter:
    """Sums over steps; reading them waits for the device, adding to them does not."""

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
        """Add one step.

        Args:
            losses: This rank's shares () of the losses, by name.
            norm: Norm () of the gradient.
            keys: Keys of this rank's samples.
            samples: Number of samples of all ranks.
            records: This rank's shares () of other numbers to log, by name.
        """
        self._records.append(records)
        self._losses.append(losses)
        self._norms.append(norm)
        self._keys.append(keys)
        self._samples += samples

    def first_not_finite(self, *, norms: bool) -> list[str] | None:
        """Sample keys of the first step whose loss (or gradient) is not finite; None if all are."""
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
        shares = [torch.stack(list(losses.values())).sum() for losses in self._losses]
        return self.backend.all_reduce(torch.stack(shares))
