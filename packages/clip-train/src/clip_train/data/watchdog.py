"""What each worker process is reading and when it last moved, so that a stuck one can be named."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

TEXT_BYTES = 480


class WorkerWatchdog:
    """Since when each worker reads, and what, in shared memory."""

    def __init__(self, workers: int) -> None:
        self._since = _shared_zeros(max(1, workers), dtype=torch.float64)
        self._moved = _shared_zeros(max(1, workers), dtype=torch.float64)
        self._processes = _shared_zeros(max(1, workers), dtype=torch.int64)
        self._texts = _shared_zeros(max(1, workers), TEXT_BYTES, dtype=torch.uint8)

    def begin_worker(self, worker: int) -> None:
        """Called in a new worker: note its process, and leave signals to the training process."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self._processes[worker] = os.getpid()
        self._since[worker] = 0.0
        self._moved[worker] = time.time()

    def forget_workers(self) -> None:
        """Make ready for new workers."""
        for lines in (self._since, self._processes):
            lines.zero_()
        self._moved.fill_(time.time())

    def processes(self) -> list[int]:
        """Process ids of the workers that have begun."""
        return [process for process in self._processes.tolist() if process]

    @contextmanager
    def reading(self, text: str) -> Iterator[None]:
        """While inside, this process is reading `text`."""
        info = get_worker_info()
        line = info.id if info else 0
        content = text.encode(errors="replace")[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0")
        self._texts[line].numpy()[:] = memoryview(content)
        self._since[line] = self._moved[line] = time.time()
        try:
            yield
        finally:
            self._since[line] = 0.0
            self._moved[line] = time.time()

    def stuck(self, seconds: float) -> list[str]:
        """One line for each worker that has been reading the same thing for so long."""
        now = time.time()
        return [
            f"worker {line} has been reading {self._text(line)} for {now - since:.0f} s"
            for line, since in enumerate(self._since.tolist())
            if since and now - since >= seconds
        ]

    def still(self, seconds: float) -> list[str]:
        """One line for each worker, if none of them has begun or ended a read for so long."""
        now, moved = time.time(), self._moved.tolist()
        if now - max(moved) < seconds:
            return []
        return [
            f"worker {line} (process {process}) has not moved for {now - since:.0f} s"
            if process
            else f"worker {line} has not begun"
            for line, (process, since) in enumerate(
                zip(self._processes.tolist(), moved, strict=True)
            )
        ]

    def _text(self, line: int) -> str:
        return bytes(self._texts[line].tolist()).rstrip(b"\0").decode(errors="replace")


def _shared_zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    zeros: Any = torch.zeros(shape, dtype=dtype)
    return zeros.share_memory_()
