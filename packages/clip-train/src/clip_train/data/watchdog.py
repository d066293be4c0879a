"""What each worker process is reading, so that a stuck one can be named."""

from __future__ import annotations

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
        self._texts = _shared_zeros(max(1, workers), TEXT_BYTES, dtype=torch.uint8)

    @contextmanager
    def reading(self, text: str) -> Iterator[None]:
        """While inside, this process is reading `text`."""
        info = get_worker_info()
        line = info.id if info else 0
        content = text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0")
        self._texts[line].numpy()[:] = memoryview(content)
        self._since[line] = time.time()
        try:
            yield
        finally:
            self._since[line] = 0.0

    def stuck(self, seconds: float) -> list[str]:
        """One line for each worker that has been reading the same thing for so long."""
        now = time.time()
        return [
            f"worker {line} has been reading {self._text(line)} for {now - since:.0f} s"
            for line, since in enumerate(self._since.tolist())
            if since and now - since >= seconds
        ]

    def _text(self, line: int) -> str:
        return bytes(self._texts[line].tolist()).rstrip(b"\0").decode(errors="replace")


def _shared_zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    zeros: Any = torch.zeros(shape, dtype=dtype)
    return zeros.share_memory_()
