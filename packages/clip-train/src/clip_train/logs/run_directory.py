"""A run directory: config, metrics, TensorBoard events and curves."""

from __future__ import annotations

import hashlib
import importlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w
from clip_models.command_line import read_small_file
from clip_models.config import from_dict, to_dict
from clip_models.files import WEIGHTS_NAME
from dtp_pooling.checkpoint_files import naming
from dtp_pooling.run_lock import RunLock, is_unused, start_run
from torch.utils.tensorboard import SummaryWriter

from clip_train.config.presets import parse_toml, rename_keys
from clip_train.config.run import Config
from clip_train.errors import RunDirectoryError
from clip_train.logs.curves import draw_curves
from clip_train.logs.files import replace_text, replacing

CONFIG_NAME = "config.toml"
METRICS_NAME = "metrics.jsonl"


class RunDirectory:
    """Files of one run below `path`."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        """Args:
        path: The directory.
        writes: Whether this process writes to it; false on all ranks but the first.
        """
        self.path = path
        self.writes = writes
        self._events: SummaryWriter | None = None
        self._has_events = True
        self._remote: Any = None  # a run of Weights & Biases

    @staticmethod
    def check(path: str | Path, *, overwrite: bool) -> bool:
        """Whether `path` exists and is not an empty directory.

        Raises:
            RunDirectoryError: It is, and `overwrite` is false.
        """
        path = Path(path)
        occupied = not is_unused(path)
        if occupied and not overwrite:
            has_run = (path / CONFIG_NAME).is_file()
            remedy = f"continue it with `clip-train resume {path}`, " if has_run else ""
            raise RunDirectoryError(
                f"{path} already exists and is not empty; {remedy}choose another --out, "
                "or pass --overwrite to rename and replace it"
            )
        return occupied

    def start(self, fill: Callable[[Path], object], *, overwrite: bool) -> RunLock:
        """Make the directory with what `fill(other)` writes in one step; the lock on it.

        With `overwrite` an existing one is renamed to `NAME.old-N`, not deleted.

        Raises:
            RunDirectoryError: The directory exists and `overwrite` is false.
            RunInUseError: Another process writes to it.
        """
        return start_run(
            self.path,
            fill,
            last=CONFIG_NAME,
            is_occupied=lambda: self.check(self.path, overwrite=overwrite),
        )

    def write_config(self, config: Config) -> None:
        """Write the resolved config."""
        text = tomli_w.dumps(to_dict(config))
        replace_text(self.path / CONFIG_NAME, text)

    def reopen(self, config: Config, step: int) -> None:
        """Give the run another config from `step` on; the weights it ended with stay beside it."""
        replace_text(self.path / CONFIG_NAME, tomli_w.dumps(to_dict(config)))
        weights = self.path / WEIGHTS_NAME
        if weights.is_file():
            weights.replace(weights.with_name(f"model.step-{step:07d}.safetensors"))

    @staticmethod
    def read_config(path: str | Path) -> Config:
        """The config of an existing run.

        Raises:
            RunDirectoryError: It is not a run directory, or its config cannot be read.
        """
        path = Path(path)
        file = path / CONFIG_NAME
        if not file.is_file():
            raise RunDirectoryError(
                f"{path} is not a run directory: it has no {CONFIG_NAME}; "
                "name the --out of an earlier `clip-train run`"
            )
        try:
            return from_dict(Config, rename_keys(parse_toml(read_small_file(file))))
        except ValueError as error:
            raise RunDirectoryError(f"{file} cannot be read: {error}") from None

    @property
    def checkpoints(self) -> Path:
        """The directory of the checkpoints."""
        return self.path / "checkpoints"

    def rewind(self, step: int) -> None:
        """Drop the metrics of steps after `step`, which will be computed again."""
        kept = [row for row in self.metrics() if row["step"] <= step]
        replace_text(self.path / METRICS_NAME, "".join(json.dumps(row) + "\n" for row in kept))
        self._open_events(purge_step=step + 1)

    def log(self, kind: str, step: int, values: dict[str, Any], *, group: str = "") -> None:
        """Append one line to metrics.jsonl, and its numbers to TensorBoard, there below `group`."""
        if not self.writes:
            return
        metrics = self.path / METRICS_NAME
        with (
            naming(metrics, whole="its earlier lines are whole"),
            open(metrics, "a", encoding="utf-8") as file,
        ):
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        place = f"{kind}/{group}/" if group else f"{kind}/"
        numbers = {f"{place}{k}": v for k, v in values.items() if isinstance(v, (int, float))}
        if numbers:
            self._add_events(numbers, step)
        if self._remote is not None and numbers:
            self._remote.log(numbers, step=step)

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl, all or of one kind."""
        file = self.path / METRICS_NAME
        lines = read_small_file(file).splitlines() if file.is_file() else []
        rows = [row for line in lines if (row := _parse(line)) is not None]
        return [row for row in rows if kind in (None, row["kind"])]

    def draw_curves(self) -> None:
        """Write `curves.png` from the metrics so far."""
        if self.writes:
            with replacing(self.path / "curves.png") as partial:
                draw_curves(self.metrics("train"), self.metrics("eval"), partial)

    def start_wandb(self, config: Config) -> None:
        """Log to Weights & Biases as well, if the config names a project.

        A resumed run continues the same remote run, which is identified by the directory's path.

        Raises:
            RunDirectoryError: wandb is not installed.
        """
        if not self.writes or not config.log.wandb_project:
            return
        try:
            wandb: Any = importlib.import_module("wandb")
        except ImportError:
            raise RunDirectoryError(
                "log.wandb_project is set, and wandb is not installed; "
                "`pip install clip-train[wandb]`"
            ) from None
        path = self.path.absolute()
        digest = hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()
        self._remote = wandb.init(
            project=config.log.wandb_project,
            name=path.name,
            id=f"{path.name}-{digest}",
            resume="allow",
            config=to_dict(config),
            dir=str(self.path),
        )

    def close(self) -> None:
        """Flush TensorBoard's events and finish the remote run."""
        if self._remote is not None:
            self._remote.finish()
            self._remote = None
        if self._events is not None:
            with self._doing_without_events():
                self._events.close()
            self._events = None

    def _open_events(self, purge_step: int | None = None) -> None:
        with self._doing_without_events():
            self._events = SummaryWriter(str(self.path / "tensorboard"), purge_step=purge_step)

    def _add_events(self, numbers: dict[str, Any], step: int) -> None:
        if self._events is None and self._has_events:
            self._open_events()
        with self._doing_without_events():
            for name, value in numbers.items():
                if self._events is not None:
                    self._events.add_scalar(name, value, step)

    @contextmanager
    def _doing_without_events(self) -> Iterator[None]:
        """Say once that events cannot be written; the metrics hold the same numbers."""
        try:
            yield
        except OSError as error:
            self._events, self._has_events = None, False
            warnings.warn(
                f"{self.path / 'tensorboard'} cannot be written: {error.strerror or error}; "
                f"{METRICS_NAME} has the same numbers",
                stacklevel=4,
            )


def _parse(line: str) -> dict[str, Any] | None:
    """A row of metrics; None for a line that a kill left incomplete."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
