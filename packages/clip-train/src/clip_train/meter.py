"""Means and speed between two lines of metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Meter:
    """Sums of some steps; the device is not waited for until they are read."""

    def __init__(self) -> None:
        self._keys: list[list[str]] = []
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._waited = 0.0
        self._began = time.perf_counter()

    def add(self, loss: Tensor, norm: Tensor, keys: list[str]) -> None:
        """One step: its loss () and gradient norm (), and the keys of its batch."""
        self._losses.append(loss)
        self._norms.append(norm)
        self._keys.append(keys)

    def first_not_finite(self) -> list[str] | None:
        """Keys of the first batch whose loss or gradient norm is not finite; None if all are."""
        if not self._losses:
            return None
        sums = torch.stack(self._losses) + torch.stack(self._norms)
        bad = (~sums.isfinite()).nonzero().flatten().tolist()
        return self._keys[bad[0]] if bad else None

    def means(self) -> tuple[float, float]:
        """Mean loss and mean gradient norm."""
        return torch.stack(self._losses).mean().item(), torch.stack(self._norms).mean().item()

    def speed(self, batch_size: int) -> dict[str, float]:
        """Samples a second, and the share of the time spent waiting for data."""
        elapsed = time.perf_counter() - self._began
        return {
            "samples_per_s": len(self._losses) * batch_size / elapsed,
            "data_wait": self._waited / elapsed,
        }

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
