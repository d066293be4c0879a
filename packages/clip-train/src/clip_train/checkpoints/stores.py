"""Where checkpoints are: a directory, or a place that fsspec knows.

A checkpoint is a directory `step-NNNNNNN`.  Either store shows it whole or not at all.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from clip_eval.data import DataError, check_url
from clip_models import ConfigError

STATE_NAME = "state.json"
_NAME = re.compile(r"step-(\d{7,})")


class CheckpointStore(Protocol):
    """Complete checkpoints, by step."""

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, rising; what is named otherwise is not ours."""

    def writing(self, step: int) -> contextlib.AbstractContextManager[Path]:
        """An empty directory to fill; it becomes the checkpoint when no error leaves the block."""

    def reading(self, step: int) -> contextlib.AbstractContextManager[Path]:
        """A directory with the checkpoint's files."""

    def delete(self, step: int) -> None:
        """Remove a checkpoint."""

    def describe(self, step: int) -> str:
        """Where it is, for messages."""


def open_store(location: str, default: Path) -> CheckpointStore:
    """The store at a path or URL; at `default` if it is empty.  Nothing is written.

    Raises:
        ConfigError: It is a URL of an unknown kind, or what reads such URLs is not installed.
    """
    if "://" in location:
        try:
            check_url(location)
            return RemoteStore(location)
        except (DataError, ImportError, ValueError) as error:
            raise ConfigError(
                f"checkpoint.directory must be a path or a URL that fsspec knows here, got "
                f"{location}: {error}"
            ) from None
    return LocalStore(Path(location) if location else default)


def checkpoint_name(step: int) -> str:
    """The name of a checkpoint's directory."""
    return f"step-{step:07d}"


class LocalStore:
    """Written under another name, flushed to disk, and renamed when it is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def steps(self) -> list[int]:
        """Directories of our names that hold a state."""
        found = [path.parent.name for path in self.path.glob(f"step-*/{STATE_NAME}")]
        return sorted(int(match[1]) for name in found if (match := _NAME.fullmatch(name)))

    @contextmanager
    def writing(self, step: int) -> Iterator[Path]:
        """A hidden directory next to the checkpoints."""
        target = self.path / checkpoint_name(step)
        partial = self.path / f".{target.name}.partial"
        self.path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            for file in [*partial.iterdir(), partial]:
                flush(file)
            if target.exists():  # of an earlier attempt at the same step
                shutil.rmtree(target)
            os.replace(partial, target)
            flush(self.path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @contextmanager
    def reading(self, step: int) -> Iterator[Path]:
        """The directory itself."""
        yield self.path / checkpoint_name(step)

    def delete(self, step: int) -> None:
        """Hide it first, so that half of it is never seen."""
        target = self.path / checkpoint_name(step)
        hidden = self.path / f".{target.name}.deleted"
        shutil.rmtree(hidden, ignore_errors=True)
        os.replace(target, hidden)
        shutil.rmtree(hidden)

    def describe(self, step: int) -> str:
        """Its path."""
        return str(self.path / checkpoint_name(step))


class RemoteStore:
    """Files go up one by one, `state.json` last: without it there is no checkpoint."""

    def __init__(self, url: str) -> None:
        fsspec: Any = importlib.import_module("fsspec.core")  # it has no types
        self.url = url.rstrip("/")
        self.files, self.path = fsspec.url_to_fs(self.url)

    def steps(self) -> list[int]:
        """Directories of our names that hold a state."""
        self.files.invalidate_cache()
        if not self.files.isdir(self.path):
            return []
        names = [entry.rstrip("/").rsplit("/", 1)[-1] for entry in self.files.ls(self.path, False)]
        steps = [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]
        return sorted(step for step in steps if self.files.exists(f"{self._at(step)}/{STATE_NAME}"))

    @contextmanager
    def writing(self, step: int) -> Iterator[Path]:
        """A temporary directory, sent when it is complete."""
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
            self._remove(step)
            self.files.makedirs(self._at(step), exist_ok=True)
            files = sorted(Path(temporary).iterdir(), key=lambda file: file.name == STATE_NAME)
            for file in files:
                self.files.put_file(str(file), f"{self._at(step)}/{file.name}")

    @contextmanager
    def reading(self, step: int) -> Iterator[Path]:
        """A temporary copy."""
        with tempfile.TemporaryDirectory() as temporary:
            for file in self.files.ls(self._at(step), False):
                name = file.rsplit("/", 1)[-1]
                self.files.get_file(file, str(Path(temporary) / name))
            yield Path(temporary)

    def delete(self, step: int) -> None:
        """The state first: then it is no checkpoint any more."""
        self._remove(step)

    def describe(self, step: int) -> str:
        """Its URL."""
        return f"{self.url}/{checkpoint_name(step)}"

    def _remove(self, step: int) -> None:
        self.files.invalidate_cache()
        if self.files.exists(f"{self._at(step)}/{STATE_NAME}"):
            self.files.rm_file(f"{self._at(step)}/{STATE_NAME}")
        if self.files.exists(self._at(step)):
            self.files.rm(self._at(step), recursive=True)

    def _at(self, step: int) -> str:
        return f"{self.path}/{checkpoint_name(step)}"


def flush(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
