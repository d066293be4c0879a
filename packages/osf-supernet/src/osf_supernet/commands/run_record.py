"""`run.json`: the options that a training or search was started with, for `osf resume`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from osf_supernet.commands.libraries import is_factory
from osf_supernet.output_files import write_text
from osf_supernet.search.scoring import SCORES
from osf_supernet.subnets.space import read_json_object
from osf_supernet.training.checkpoint import has_checkpoint

RUN_NAME = "run.json"
CHECKPOINTS_NAME, EARLIER_CHECKPOINTS_NAME = "checkpoints", "checkpoint"
FORMAT_VERSION = 1
_NOT_RECORDED = {
    *("command", "defaults", "function", "json", "out", "overwrite", "push_to_hub", "quiet", "run"),
    "token",
}
_PATHS = ("weights", "supernet", "space", "images", "texts")
_DATA = ("images", "texts", "data")


def write_record(folder: Path, options: argparse.Namespace) -> None:
    """Write `run.json`; paths are absolute, so that a run goes on from any directory."""
    values = {name: v for name, v in vars(options).items() if name not in _NOT_RECORDED}
    for name in _PATHS:
        if values[name] is not None:
            values[name] = str(Path(values[name]).absolute())
    record = {"format_version": FORMAT_VERSION, "command": options.command, "options": values}
    write_text(folder / RUN_NAME, json.dumps(record, indent=2) + "\n")


def read_record(folder: Path, given: argparse.Namespace) -> argparse.Namespace:
    """The options that a run was started with; what is `given` wins.

    A factory is code: the file says which one it was, but only a user names one to run.

    Raises:
        FileNotFoundError: There is no run.
        ValueError: The record is damaged, or a factory was not named again.
    """
    command, recorded = _read(folder, given.defaults)
    changes = {name: value for name, value in vars(given).items() if value is not None}
    if any(name in changes for name in _DATA):  # one of them; the others are not of the run
        recorded |= dict.fromkeys(_DATA)
    for name in ("model", "data"):
        known = recorded.get(name)
        if known is not None and name not in changes and is_factory(known):
            raise ValueError(
                f"{folder} was started with the factory {known}; code that a file names is not "
                f"run: pass --{name} {known}"
            )
    merged = vars(given) | recorded | changes
    if not merged["model"]:
        raise ValueError(f"{folder} does not say of which model it is: pass --model MODEL")
    if not any(merged[name] for name in _DATA):
        raise ValueError(
            f"{folder} does not record its options: pass --images FOLDER or --data FACTORY, and "
            "every other option that it was started with"
        )
    return argparse.Namespace(**merged | {"command": command, "out": str(folder)})


def _read(folder: Path, defaults: dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The command and its options; runs of earlier releases, without a record, have defaults."""
    file = folder / RUN_NAME
    if not file.is_file():
        if has_checkpoint(folder / EARLIER_CHECKPOINTS_NAME):
            return "train", dict(defaults["train"])
        if (folder / SCORES).is_file():
            return "search", dict(defaults["search"])
        raise FileNotFoundError(
            f"{folder} holds no run: expected {file}; `osf train` and `osf search` make one"
        )
    record = read_json_object(file)
    options = record.get("options")
    if record.get("format_version") != FORMAT_VERSION or not isinstance(options, dict):
        raise ValueError(f"{file} must have format_version {FORMAT_VERSION} and options")
    if record.get("command") not in ("train", "search"):
        raise ValueError(f"{file} must be of train or search, got {record.get('command')!r}")
    return record["command"], defaults[record["command"]] | options  # of earlier releases: fewer


def checkpoints_folder(folder: Path) -> Path:
    """Where the checkpoints of a training are; earlier releases had one in `checkpoint`."""
    earlier = folder / EARLIER_CHECKPOINTS_NAME
    return earlier if has_checkpoint(earlier) else folder / CHECKPOINTS_NAME
