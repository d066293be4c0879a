"""Batches from worker processes, in order, and the end of a run whose workers die or stop.

SIGINT and SIGTERM reach whole process groups and jobs. Workers ignore both: the training process
alone decides what to do, and kills its workers when it is done with them. While it computes, a
worker's death is only noted; it is an error when the next batch is waited for.
"""

from __future__ import annotations

import errno
import multiprocessing
import multiprocessing.process
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize
from types import FrameType
from typing import Any

import torch
from clip_eval.data import DataError
from clip_tokenizer import TokenizerError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from clip_train.data.watchdog import WorkerWatchdog

STALLS_TO_STOP = 5
POLL_SECONDS = 1.0
SMALL = 1 << 16  # bytes of a tensor that is sent as such, and not in shared memory
_ERRORS = (DataError, TokenizerError, OSError, MemoryError)


class BatchLoader:
    """Named tuples with tensors from `dataset[step]`, or from an iterable dataset.

    Attributes:
        watchdog: What the dataset reports its reading to.
        workers: Number of worker processes; 0 reads in this process.
        prefetch: Batches that each of them reads ahead.
        stall_seconds: Time without a batch before a warning; five times as long without any
            progress is an error.
        pin_memory: Whether tensors are put into pinned memory.
    """

    def __init__(
        self,
        watchdog: WorkerWatchdog,
        *,
        workers: int,
        prefetch: int,
        stall_seconds: float,
        pin_memory: bool,
    ) -> None:
        self.watchdog = watchdog
        self.workers, self.prefetch = workers, prefetch
        self.stall_seconds, self.pin_memory = stall_seconds, pin_memory
        self._is_waiting = False
        self._children: list[multiprocessing.process.BaseProcess] = []

    def load(self, dataset: Dataset[Any], steps: Iterable[int] | None) -> Iterator[Any]:
        """The items of these steps in order; all items of an iterable dataset for None.

        Raises:
            DataError: The data cannot be used, or a worker is stuck, stopped or dead; the message
                says where it was reading.
            OSError, MemoryError: The machine's limits do not allow to read on.
        """
        loader: DataLoader[Any] = DataLoader(
            _pack(dataset) if self.workers else dataset,
            sampler=None if steps is None else steps,
            batch_size=None,
            num_workers=self.workers,
            collate_fn=_identity,
            worker_init_fn=self.watchdog.begin_worker,
            pin_memory=self.pin_memory,
            prefetch_factor=self.prefetch if self.workers else None,
            timeout=min(POLL_SECONDS, self.stall_seconds) if self.workers else 0,
        )
        if not self.workers:
            yield from loader
            return
        self.watchdog.forget_workers()
        at_exit = Finalize(None, self._kill_workers, exitpriority=10)  # before they are joined
        with self._start(loader) as waiting:
            ended: set[int] = set()
            try:
                while len(ended) < self.workers and (item := self._next(waiting)) is not None:
                    if isinstance(item, _End):
                        ended.add(item.worker)
                    else:
                        yield item
            finally:
                at_exit()
                del waiting

    def _next(self, waiting: Iterator[Any]) -> Any:
        """The next item, however long it takes unless nothing moves; None at the end."""
        began = warned = time.monotonic()
        while True:
            try:
                self._is_waiting = True
                self._raise_if_dead()
                item = next(waiting, None)
                self._is_waiting = False
                found = item.unpack() if isinstance(item, Parcel) else item
            except _WorkerDied as error:
                raise self._death(str(error)) from None
            except (EOFError, ConnectionError, FileNotFoundError) as error:
                raise self._sudden_end(error) from None
            except RuntimeError as error:  # torch's for a timeout and for a dead worker
                text = str(error)
                if "DataLoader worker (pid" in text:
                    raise self._death(text) from error
                if "DataLoader timed out" in text:
                    warned = self._check_progress(began, warned)
                    continue
                if "open files" in text or "ancdata" in text:
                    raise OSError(f"{_TOO_MANY_FILES} ({text.splitlines()[0]})") from None
                raise
            finally:
                self._is_waiting = False
            if isinstance(found, BaseException):
                raise found
            return found

    def _check_progress(self, began: float, warned: float) -> float:
        """Warn or give up after a time without a batch; the time of the last warning."""
        now, limit = time.monotonic(), STALLS_TO_STOP * self.stall_seconds
        stuck = self.watchdog.stuck(limit)
        if not stuck and now - began >= limit:
            stuck = self.watchdog.still(limit)
        if stuck:
            raise DataError(
                f"the data has stalled: {'; '.join(stuck)}; make sure that it can be read, or "
                "raise data.stall_seconds"
            )
        if now - warned < self.stall_seconds:
            return warned
        where = "; ".join(self.watchdog.stuck(0)) or "the workers are between two samples"
        warnings.warn(f"no batch for {self.stall_seconds:g} s: {where}", stacklevel=4)
        return now

    def _raise_if_dead(self) -> None:
        """Raise if a worker was killed or failed; torch notices it later."""
        for process in self.watchdog.processes() if hasattr(os, "waitid") else ():
            try:
                found = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:  # somebody else has waited for it
                continue
            if found is not None and found.si_status:
                how = "was killed by signal" if found.si_code != os.CLD_EXITED else "ended with"
                raise _WorkerDied(f"process {process} {how} {found.si_status}")

    def _sudden_end(self, error: Exception) -> Exception:
        """Why a worker no longer answers: it ended, which the system may tell a moment later.

        A worker that lives on could not hand over a tensor: it has no file descriptor left.
        """
        for _ in range(20):
            try:
                self._raise_if_dead()
            except _WorkerDied as death:
                return self._death(str(death))
            time.sleep(0.05)
        return OSError(f"{_TOO_MANY_FILES} (a worker could not send one: {error!r})")

    def _death(self, how: str) -> DataError:
        where = "; ".join(self.watchdog.stuck(0)) or "nothing was being read"
        return DataError(
            f"a data worker died ({' '.join(how.split())}); {where}; if the machine is out of "
            "memory, lower data.workers or data.prefetch"
        )

    def _on_child(self, number: int, frame: FrameType | None) -> None:
        if self._is_waiting:  # where a read of half a message would never end
            self._raise_if_dead()

    @contextmanager
    def _start(self, loader: DataLoader[Any]) -> Iterator[Iterator[Any]]:
        """The loader's items, with a handler of SIGCHLD that raises only while they are awaited."""
        number = getattr(signal, "SIGCHLD", None)
        if not number or threading.current_thread() is not threading.main_thread():
            yield self._start_workers(loader)
            return
        before = signal.getsignal(number)
        waiting = self._start_workers(loader)
        signal.signal(number, self._on_child)  # in place of torch's, which raises anywhere
        try:
            yield waiting
        finally:
            signal.signal(number, before or signal.SIG_DFL)

    def _start_workers(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """The loader's iterator; where not all of its workers can be started, none is left.

        Its processes are noted here, as one that is slow to begin is not known to the watchdog.
        """
        others = multiprocessing.active_children()
        waiting: Iterator[Any] | None = None
        try:
            waiting = iter(loader)
            return waiting
        finally:
            self._children = [c for c in multiprocessing.active_children() if c not in others]
            if waiting is None:
                self._kill_workers()

    def _kill_workers(self) -> None:
        """End workers that are left: they only read, and one that is stuck would be waited for."""
        for child in self._children:
            child.kill()
        for child in self._children:
            child.join(POLL_SECONDS)


class _WorkerDied(BaseException):
    """What the handler of SIGCHLD raises, past torch, which would hide it."""


class Parcel:
    """A named tuple on its way from a worker: pickled there, so that errors are seen there."""

    def __init__(self, item: Any) -> None:
        kind, fields = type(item), [_inline(field) for field in item]
        self.content = bytes(ForkingPickler.dumps((kind, fields)))

    def unpack(self) -> Any:
        """The item, or the OSError that hinders it."""
        try:
            kind, fields = pickle.loads(self.content)  # made by our own worker
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return OSError(f"{_TOO_MANY_FILES} ({error.strerror})")
            raise
        return kind(*(_tensor(field) for field in fields))

    def pin_memory(self) -> Any:
        """The same in pinned memory; torch calls it in a thread."""
        try:
            item = self.unpack()
        except (EOFError, ConnectionError, FileNotFoundError, RuntimeError) as error:
            return DataError(f"a data worker no longer answers: {error!r}")
        if isinstance(item, BaseException):
            return item
        pinned = (x.pin_memory() if isinstance(x, Tensor) else x for x in item)
        return type(item)(*pinned)


class _Packed(Dataset[Any]):
    """A dataset whose items travel as parcels; errors of data and machine are items too."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, step: int) -> Any:
        try:
            return Parcel(self.dataset[step])
        except _ERRORS as error:
            return _as_item(error)


class _PackedIterable(IterableDataset[Any]):
    """The same for an iterable dataset.

    A worker whose part has ended says so, again and again: torch would let it go at once, and with
    it the shared memory of its parcels that wait for their turn.
    """

    def __init__(self, dataset: IterableDataset[Any]) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        try:
            for item in self.dataset:
                yield Parcel(item)
        except _ERRORS as error:
            yield _as_item(error)
        worker = get_worker_info()
        while worker is not None:
            yield _End(worker.id)


class _End:
    """A worker has no more items."""

    def __init__(self, worker: int) -> None:
        self.worker = worker


def _pack(dataset: Dataset[Any]) -> Dataset[Any]:
    return _PackedIterable(dataset) if isinstance(dataset, IterableDataset) else _Packed(dataset)


class _Inline:
    """A small tensor that is sent as bytes, for which no file descriptor is needed."""

    def __init__(self, tensor: Tensor) -> None:
        self.array = tensor.numpy()


_TOO_MANY_FILES = (
    "batches cannot be passed on from data workers: too many open files; raise `ulimit -n`, or "
    "lower data.workers or data.prefetch"
)


def _as_item(error: Exception) -> Exception:
    """What a worker sends in place of a batch."""
    if isinstance(error, MemoryError):
        return DataError(
            "a data worker has not enough memory; lower data.workers, data.prefetch or "
            "train.batch_size"
        )
    return error


def _inline(field: Any) -> Any:
    if isinstance(field, Tensor) and field.nbytes <= SMALL and field.is_contiguous():
        return _Inline(field)
    return field


def _tensor(field: Any) -> Any:
    return torch.from_numpy(field.array) if isinstance(field, _Inline) else field


def _identity(item: Any) -> Any:
    return item
