"""`dtp-lm train` and `dtp-lm resume`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dtp_pooling.devices import choose_device
from dtp_pooling.run_lock import RunLock
from dtp_pooling.training.config_flags import apply_settings
from dtp_pooling.training.presets import get_preset
from dtp_pooling.training.run_directory import check_directory, open_new_run, read_run
from dtp_pooling.training.text import read_text, split_text
from dtp_pooling.training.trainer import Trainer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def train(options: argparse.Namespace) -> None:
    """Train a new run."""
    config = apply_settings(get_preset(options.preset), options.settings)
    check_directory(options.out, overwrite=options.overwrite)
    device = choose_device(options.device)
    texts = _read_texts(options.data, options.valid, config.alphabet)
    files = (options.data, options.valid)
    with open_new_run(options.out, config, *texts, files=files, overwrite=options.overwrite):
        _train(options.out, texts, device, quiet=options.quiet)


def resume(options: argparse.Namespace) -> None:
    """Continue a run."""
    run = read_run(options.run)
    device = choose_device(options.device)
    data, valid = options.data or run.data, options.valid or run.valid
    if data is None:
        raise ValueError(
            f"{options.run} does not record where its text is; pass --data TEXT, and --valid TEXT "
            "if its validation text is another file"
        )
    texts = _read_texts(Path(data), None if valid is None else Path(valid), run.config.alphabet)
    with RunLock(options.run):
        _train(options.run, texts, device, quiet=options.quiet)


def _read_texts(data: Path, valid: Path | None, alphabet: str) -> tuple[str, str, str]:
    """Training, validation and test text."""
    if valid is None:
        return split_text(read_text(data), alphabet)
    return read_text(data), read_text(valid), ""


def _train(run: Path, texts: tuple[str, str, str], device: torch.device, *, quiet: bool) -> None:
    """Train to the last step, or to the end of the one in which a signal comes."""
    trainer = Trainer(run, texts[0], texts[1], device, quiet=quiet)
    with _stop_on_signals() as stop:
        trainer.run(stop=stop)
    progress = f"step {trainer.steps_done} of {trainer.config.steps}"
    if trainer.steps_done < trainer.config.steps:
        raise KeyboardInterrupt(
            f"interrupted, and saved at {progress}; continue with `dtp-lm resume {run}`"
        )
    if not quiet:
        print(f"{run} is at {progress}", file=sys.stderr)


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a second one acts at once."""
    stop = threading.Event()
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}

    def request_stop(number: int, frame: object) -> None:
        stop.set()
        signal.signal(number, before[number])

    try:
        for number in _SIGNALS:
            signal.signal(number, request_stop)
        yield stop
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)
