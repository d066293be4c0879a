"""Ctrl-C and SIGTERM as a request that the loop answers between two steps."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

REPEATED_SECONDS = 1.0  # a signal to a process group comes from several senders almost at once


class StopNow(KeyboardInterrupt):
    """A request to stop, where it can be answered at once."""


class StopRequest:
    """Whether a signal has asked to stop."""

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._acts_at_once = False

    def is_set(self) -> bool:
        """Whether one has."""
        return self._asked_at is not None

    @contextmanager
    def acting_at_once(self) -> Iterator[None]:
        """While inside, a request raises `StopNow`; so does one that was made before."""
        if self.is_set():
            raise StopNow
        self._acts_at_once = True
        try:
            yield
        finally:
            self._acts_at_once = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """The handler of signals; Ctrl-C interrupts at once when it is repeated after a second."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        if self._acts_at_once:
            raise StopNow
        if number == signal.SIGINT and now - self._asked_at >= REPEATED_SECONDS:
            raise KeyboardInterrupt


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """A request that SIGINT and SIGTERM make.

    SIGTERM comes twice from `timeout` and torchrun, and SIGKILL follows where it is not obeyed; so
    it is never more than a request. Outside the main thread, where Python allows no handlers, the
    request is never made.
    """
    request = StopRequest()
    with _handling((signal.SIGINT, signal.SIGTERM), request.ask):
        yield request


@contextmanager
def terminating_as_interrupt() -> Iterator[None]:
    """While inside, SIGTERM is what Ctrl-C is: a KeyboardInterrupt."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handling((signal.SIGTERM,), interrupt):
        yield


@contextmanager
def _handling(
    numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
