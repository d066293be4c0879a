"""The batch of the next step, read before ranks agree on how to go on."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager

from clip_eval.data import DataError
from clip_tokenizer import TokenizerError

from clip_train.data.batches import Batch
from clip_train.engine.stop_signals import StopNow
from clip_train.errors import TrainingError

DATA_ERRORS = (DataError, TokenizerError, OSError, MemoryError)


class UpcomingBatch:
    """The next batch of a run; None at the end of the data, and where there is an error instead.

    An error is kept and not raised, so that it is raised on all ranks after the same step.
    """

    def __init__(self, batches: Generator[Batch]) -> None:
        self.batch: Batch | None = None
        self.error: Exception | None = None
        self._batches = batches

    def read(self, waiting: AbstractContextManager[None]) -> None:
        """Take the next one; `waiting` is entered for as long as that takes."""
        self.batch = self.error = None
        try:
            with waiting:
                self.batch = next(self._batches, None)
        except StopNow:
            pass  # the request is answered after the step
        except DATA_ERRORS as error:
            self.error = error

    def raise_error(self) -> None:
        """Raise the error of this rank, or say that there is one on another."""
        raise self.error or TrainingError(
            "another process could not read its next batch; its message says why"
        )

    def close(self) -> None:
        """End the data workers."""
        self.batch = None
        self._batches.close()


def describe_error(error: Exception) -> str:
    """The message of an error, with the file's name if it has one."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the data'}: {error.strerror}"
    return str(error) or type(error).__name__
