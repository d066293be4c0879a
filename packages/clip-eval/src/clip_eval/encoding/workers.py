"""Worker processes that read ahead: their order, and what happens when one dies, stops or hangs.

Workers leave Ctrl-C to the process that started them, which kills them when it is done. A worker's
death is an error when the next item is waited for, and not in the middle of a computation.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from clip_eval.errors import WorkerError

POLL_SECONDS = 1.0
STOPPED_SECONDS = 10.0
STALL_SECONDS = 300.0
NOTHING = -1


class Reading:
    """What each worker is reading, and how many items it has begun, in shared memory."""

    def __init__(self, workers: int) -> None:
        self._table: Tensor = torch.full((max(1, workers), 3), NOTHING, dtype=torch.int64)
        # Columns: process, index, count.
        self._table.share_memory_()  # type: ignore[no-untyped-call]

    def begin_worker(self, worker: int) -> None:
        """Note the process of a worker, which ignores Ctrl-C from here on."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._table[worker, 0] = os.getpid()

    @contextmanager
    def reading(self, index: int) -> Iterator[None]:
        """While inside, this process is reading item `index`."""
        info = get_worker_info()
        own = self._table[info.id if info else 0]
        own[1] = index
        own[2] += 1
        try:
            yield
        finally:
            own[1] = NOTHING

    def processes(self) -> list[int]:
        """Return the processes of the workers."""
        return [process for process in self._table[:, 0].tolist() if process != NOTHING]

    def indices(self) -> list[int]:
        """Return the indices of the items that are being read."""
        return [index for index in self._table[:, 1].tolist() if index != NOTHING]

    def count(self) -> int:
        """Return how many items the workers have begun."""
        return int(self._table[:, 2].sum())


class OrderedLoader:
    """Items of a dataset, in order, from worker processes.

    What the workers send is pickled, so it should hold arrays and no tensors: for tensors torch
    passes descriptors, which run out, and whose passing cannot be interrupted in silence.

    Args:
        reading: What the dataset reports its reading to.
        workers: Number of worker processes; 0 reads in this process.
        place: Says where an item is read from, for messages.
    """

    def __init__(self, reading: Reading, workers: int, place: Any) -> None:
        self.reading, self.workers, self.place = reading, workers, place
        self._is_waiting = False
        self._children: list[multiprocessing.process.BaseProcess] = []

    def load(
        self, dataset: Dataset[Any], batches: Sequence[Sequence[int]], collate: Any
    ) -> Generator[Any, None, None]:
        """Yield the collated items of each batch of indices.

        Raises:
            WorkerError: A worker was killed, is stopped, or makes no progress.
        """
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=[list(batch) for batch in batches],
            num_workers=self.workers,
            collate_fn=collate,
            worker_init_fn=self.reading.begin_worker,
            timeout=POLL_SECONDS if self.workers else 0,
            generator=torch.Generator().manual_seed(0),  # else it draws from the global one
        )
        if not self.workers:
            yield from loader
            return
        at_exit = Finalize(None, self._kill_workers, exitpriority=10)  # before they are joined
        with self._start(loader) as waiting:
            try:
                for _ in batches:
                    yield self._next(waiting)
            finally:
                at_exit()
                del waiting

    def _next(self, waiting: Iterator[Any]) -> Any:
        """Wait for the next item as long as the workers make progress."""
        stopped = progressed = time.monotonic()
        count = self.reading.count()
        while True:
            try:
                self._is_waiting = True
                self._raise_if_dead()
                return next(waiting)
            except (EOFError, ConnectionError, FileNotFoundError) as error:
                for _ in range(20):  # the system may tell a moment later how it ended
                    self._raise_if_dead()
                    time.sleep(0.05)
                raise self._death(f"it no longer answers: {error!r}") from None
            except RuntimeError as error:  # torch's for a timeout and for a dead worker
                if "DataLoader worker (pid" in str(error):
                    raise self._death(str(error).splitlines()[0]) from None
                if "DataLoader timed out" not in str(error):
                    raise
            finally:
                self._is_waiting = False
            now = time.monotonic()
            stopped = stopped if self._stopped() else now
            if count != self.reading.count():
                count, progressed = self.reading.count(), now
            self._raise_if_stuck(now - stopped, now - progressed)

    def _raise_if_stuck(self, stopped: float, still: float) -> None:
        if stopped >= STOPPED_SECONDS:
            names = ", ".join(map(str, self._stopped()))
            raise WorkerError(
                f"a data worker (process {names}) has been stopped for {stopped:.0f} s, as by "
                f"SIGSTOP; {self._where()}; run again, with --workers 0 if it happens again"
            )
        if still >= STALL_SECONDS:
            raise WorkerError(
                f"the data workers have made no progress for {still:.0f} s; {self._where()}; make "
                "sure that the data can be read"
            )

    def _stopped(self) -> list[int]:
        """Return the workers that a signal has stopped, where the system tells."""
        return [process for process in self.reading.processes() if _state(process) == "T"]

    def _raise_if_dead(self) -> None:
        """Raise an error if a worker was killed or failed; torch notices it later."""
        for process in self.reading.processes() if hasattr(os, "waitid") else ():
            try:
                found = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:  # somebody else has waited for it
                continue
            if found is not None and found.si_status:
                how = "was killed by signal" if found.si_code != os.CLD_EXITED else "ended with"
                raise self._death(f"process {process} {how} {found.si_status}")

    def _death(self, how: str) -> WorkerError:
        return WorkerError(
            f"a data worker died ({' '.join(how.split())}); {self._where()}; if the machine is out "
            "of memory, use fewer --workers or a smaller --batch-size"
        )

    def _where(self) -> str:
        places = [self.place(index) for index in self.reading.indices()]
        return f"being read: {', '.join(places)}" if places else "nothing was being read"

    @contextmanager
    def _start(self, loader: DataLoader[Any]) -> Iterator[Iterator[Any]]:
        """Start the workers; their death raises only while an item is waited for."""
        others = set(multiprocessing.active_children())
        waiting: Iterator[Any] | None = None
        try:
            with _blocked_interrupts():  # a worker inherits this until it ignores them
                waiting = iter(loader)
        finally:
            self._children = [c for c in multiprocessing.active_children() if c not in others]
            if waiting is None:  # not all of them could be started
                self._kill_workers()
        number = getattr(signal, "SIGCHLD", None)
        if not number or threading.current_thread() is not threading.main_thread():
            yield waiting
            return
        before = signal.signal(number, self._on_child)  # in place of torch's, which raises anywhere
        try:
            yield waiting
        finally:
            del waiting
            signal.signal(number, before or signal.SIG_DFL)

    def _on_child(self, *_: object) -> None:
        if self._is_waiting:  # where a read of half a message would never end
            self._raise_if_dead()

    def _kill_workers(self) -> None:
        """End the workers: they only read, and one that is stuck would be waited for."""
        for child in self._children:
            child.kill()
        for child in self._children:
            child.join(POLL_SECONDS)


@contextmanager
def _blocked_interrupts() -> Iterator[None]:
    """Hold back Ctrl-C; one that comes meanwhile takes effect at the end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _state(process: int) -> str:
    """Return the letter of a process's state on Linux; empty elsewhere."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
