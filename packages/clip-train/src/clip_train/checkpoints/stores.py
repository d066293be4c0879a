"""Where checkpoints are: a directory, or a URL that fsspec knows.

A checkpoint is a directory `step-NNNNNNN` of `dtp_pooling.checkpoint_files`. Either store shows it
whole or not at all.
"""

from __future__ import annotations

import importlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip_eval.data import DataError, check_url
from clip_models import ConfigError
from dtp_pooling import checkpoint_files
from dtp_pooling.checkpoint_files import STATE_NAME
from torch import Tensor

_NAME = re.compile(r"step-(\d{7,})")


def open_store(location: str, default: Path) -> CheckpointStore:
    """The store at a path or URL; at `default` if it is empty. Nothing is written.

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


class LocalStore:
    """Complete checkpoints in a directory, by step; other names are ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, rising."""
        return sorted(self._directories())

    def write(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        add_files: Callable[[Path], None],
    ) -> None:
        """As `checkpoint_files.write_checkpoint`, in place of a checkpoint of the same step."""
        checkpoint_files.write_checkpoint(self.path, step, tensors, state, add_files)

    @contextmanager
    def reading(self, step: int) -> Iterator[Path]:
        """The directory itself."""
        yield self._directories()[step]

    def keep_last(self, count: int, keep_every: int | None) -> None:
        """Delete all but the newest `count` and those of steps that `keep_every` divides."""
        checkpoint_files.keep_last(self.path, count, keep_every)

    def describe(self, step: int) -> str:
        """Its path."""
        return str(self.path / _checkpoint_name(step))

    def _directories(self) -> dict[int, Path]:
        found = checkpoint_files.list_checkpoints(self.path)
        return {checkpoint_files.checkpoint_step(path): path for path in found}


class RemoteStore:
    """Checkpoints below a URL, as in a `LocalStore`.

    Files are sent one by one, `state.json` last: without it there is no checkpoint.
    """

    def __init__(self, url: str) -> None:
        fsspec: Any = importlib.import_module("fsspec.core")  # it has no types
        self.url = url.rstrip("/")
        self.files, self.path = fsspec.url_to_fs(self.url)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints."""
        self.files.invalidate_cache()
        if not self.files.isdir(self.path):
            return []
        names = [entry.rstrip("/").rsplit("/", 1)[-1] for entry in self.files.ls(self.path, False)]
        steps = [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]
        return sorted(step for step in steps if self.files.exists(f"{self._at(step)}/{STATE_NAME}"))

    def write(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        add_files: Callable[[Path], None],
    ) -> None:
        """Write a checkpoint to a temporary directory, and send it when it is complete."""
        with tempfile.TemporaryDirectory() as temporary:
            directory = checkpoint_files.write_checkpoint(
                Path(temporary), step, tensors, state, add_files
            )
            self._delete(step)
            self.files.makedirs(self._at(step), exist_ok=True)
            for file in sorted(directory.iterdir(), key=lambda file: file.name == STATE_NAME):
                self.files.put_file(str(file), f"{self._at(step)}/{file.name}")

    @contextmanager
    def reading(self, step: int) -> Iterator[Path]:
        """A temporary copy."""
        with tempfile.TemporaryDirectory() as temporary:
            for file in self.files.ls(self._at(step), False):
                name = file.rsplit("/", 1)[-1]
                self.files.get_file(file, str(Path(temporary) / name))
            yield Path(temporary)

    def keep_last(self, count: int, keep_every: int | None) -> None:
        """Delete older checkpoints."""
        for step in self.steps()[:-count]:
            if keep_every is None or step % keep_every:
                self._delete(step)

    def describe(self, step: int) -> str:
        """Its URL."""
        return f"{self.url}/{_checkpoint_name(step)}"

    def _delete(self, step: int) -> None:
        """Remove the state first: without it the rest is no checkpoint."""
        self.files.invalidate_cache()
        if self.files.exists(f"{self._at(step)}/{STATE_NAME}"):
            self.files.rm_file(f"{self._at(step)}/{STATE_NAME}")
        if self.files.exists(self._at(step)):
            self.files.rm(self._at(step), recursive=True)

    def _at(self, step: int) -> str:
        return f"{self.path}/{_checkpoint_name(step)}"


CheckpointStore = LocalStore | RemoteStore


def _checkpoint_name(step: int) -> str:
    return f"step-{step:07d}"
