"""`dtp-lm train` and `dtp-lm resume`."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from dtp_pooling.command_line import EXIT_INTERRUPTED
from dtp_pooling.run_lock import RunLock
from dtp_pooling.training.config import TrainingConfig
from dtp_pooling.training.config_flags import apply_settings
from dtp_pooling.training.presets import get_preset
from dtp_pooling.training.processes import (
    call_on_first_rank,
    join_processes,
    rank_and_world_size,
    rows_of_rank,
)
from dtp_pooling.training.run_directory import (
    RunRecord,
    check_directory,
    extend_run,
    find_checkpoint,
    open_new_run,
    read_run,
)
from dtp_pooling.training.text import read_text, split_text
from dtp_pooling.training.trainer import Trainer, learning_rate
from dtp_pooling.training.training_state import saved_step

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def train(options: argparse.Namespace) -> None:
    """Train a new run."""
    config = _configure(options)
    out = options.out.absolute()  # the current directory may be the one that is set aside
    with join_processes(options.device) as device, ExitStack() as held:
        rows_of_rank(config.batch_size)  # raises early when there are too few
        call_on_first_rank(lambda: check_directory(out, overwrite=options.overwrite))
        texts = _read_texts(options.data, options.valid, config.alphabet)
        new = open_new_run(
            *(out, config, *texts),
            files=(options.data, options.valid),
            overwrite=options.overwrite,
        )
        call_on_first_rank(lambda: held.enter_context(new))
        _train(out, options.out, texts, device, quiet=options.quiet)


def _configure(options: argparse.Namespace) -> TrainingConfig:
    """The preset with the given keys, and with the model of the run that weights come from."""
    config, source = get_preset(options.preset), options.settings.get("init_from", "null")
    if source not in ("null", "none"):
        earlier = read_run(Path(source)).config
        config = dataclasses.replace(config, model=earlier.model, alphabet=earlier.alphabet)
    return apply_settings(config, options.settings)


def resume(options: argparse.Namespace) -> None:
    """Continue a run."""
    with join_processes(options.device) as device, ExitStack() as held:
        run = call_on_first_rank(lambda: _reopen(options, held))
        rows_of_rank(run.config.batch_size)
        _train(options.run, options.run, _find_texts(options, run), device, quiet=options.quiet)


def _reopen(options: argparse.Namespace, held: ExitStack) -> RunRecord:
    """The run, with the number of steps asked for; its lock is held from now on."""
    run = read_run(options.run)
    held.enter_context(RunLock(options.run))
    newest = find_checkpoint(options.run)
    done = 0 if newest is None else saved_step(newest)
    before, steps = run.config.steps, options.steps or run.config.steps
    if options.steps is not None and steps <= done:
        raise ValueError(
            f"--steps must be above {done}, where {options.run} is already, got {steps}"
        )
    if steps != before:
        run = extend_run(options.run, steps)
        print(
            f"{options.run}: {steps:,} steps instead of {before:,}; the learning rate is "
            f"{learning_rate(run.config, done):.2g} after step {done:,} and falls to zero at step "
            f"{steps:,}",
            file=sys.stderr,
        )
    return run


def _find_texts(options: argparse.Namespace, run: RunRecord) -> tuple[str, str, str]:
    """The texts of a run, where they were or where the options say."""
    data, valid = options.data or run.data, options.valid or run.valid
    if data is None:
        raise ValueError(
            f"{options.run} does not record where its text is; pass --data TEXT, and --valid TEXT "
            "if its validation text is another file"
        )
    return _read_texts(Path(data), None if valid is None else Path(valid), run.config.alphabet)


def _read_texts(data: Path, valid: Path | None, alphabet: str) -> tuple[str, str, str]:
    """Training, validation and test text."""
    if valid is None:
        return split_text(read_text(data), alphabet)
    return read_text(data), read_text(valid), ""


def _train(
    run: Path, shown: Path, texts: tuple[str, str, str], device: torch.device, *, quiet: bool
) -> None:
    """Train to the last step, or to the end of the one in which a signal comes."""
    is_first = rank_and_world_size()[0] == 0
    trainer = Trainer(run, texts[0], texts[1], device, quiet=quiet)
    config = trainer.config
    longer = "" if trainer.steps_done < config.steps else "; --steps N trains it longer"
    with _stop_on_signals() as stop:
        trainer.run(stop=stop)
    progress = f"step {trainer.steps_done} of {config.steps}"
    if trainer.steps_done < config.steps:
        if not is_first:
            raise SystemExit(EXIT_INTERRUPTED)
        raise KeyboardInterrupt(
            f"interrupted, and saved at {progress}; continue with `dtp-lm resume {shown}`"
        )
    if is_first and not quiet:
        print(f"{shown} is at {progress}{longer}", file=sys.stderr)


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
