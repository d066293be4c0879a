"""Bodies of `clip-train run`, `resume`, `supernet` and `plan`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from clip_models import ConfigError
from clip_models.command_line import one_line, read_small_file
from clip_models.files import WEIGHTS_NAME

from clip_train.cli.dry_run import summarize_run
from clip_train.cli.parser import PROG
from clip_train.config.keys import apply_flags
from clip_train.config.presets import list_presets, load_config
from clip_train.config.run import Config
from clip_train.config.supernet import SupernetSettings
from clip_train.cost.assumptions import Accelerators
from clip_train.cost.table import cost_record, cost_table, plan_run
from clip_train.engine import runs
from clip_train.engine.validation import BEST
from clip_train.errors import RunDirectoryError
from clip_train.logs.metric_names import name_shares
from clip_train.logs.run_directory import CONFIG_NAME, RunDirectory
from clip_train.supernet import run as supernet_run
from clip_train.supernet.definition import SupernetRecord
from clip_train.supernet.subnets import describe_subnets


def run(options: argparse.Namespace) -> None:
    """Train a model."""
    config = apply_flags(load_config(options.config), options.flags)
    if options.overfit_batch is not None:
        config = replace(config, train=replace(config.train, overfit_batch=options.overfit_batch))
    if options.dry_run:
        if options.out:
            RunDirectory.check(options.out, overwrite=options.overwrite)
        components, batch = runs.dry_run(config)
        for label, text in summarize_run(components, batch, options.out):
            print(f"{label:<11}{text}")
        return
    if not options.out:
        raise ConfigError("--out DIR is missing; it names the run directory")
    runs.train(config, options.out, overwrite=options.overwrite, progress=not options.quiet)
    _report(options.out)
    if config.train.overfit_batch is not None:
        print(_overfit_verdict(options.out))


def resume(options: argparse.Namespace) -> None:
    """Continue an interrupted run, of a model or of a supernet, or train a run longer."""
    path, progress = options.directory, not options.quiet
    is_supernet = SupernetRecord.read(path) is not None
    if is_supernet and options.flags:
        raise ConfigError(
            f"{path} trains a supernet, which keeps its config; start another from its weights"
        )
    if is_supernet:
        supernet_run.resume(path, progress=progress)
    else:
        own = RunDirectory.read_config(path)
        config = apply_flags(own, options.flags) if options.flags else None
        runs.resume(path, config, progress=progress)
    _report(path)


def supernet(options: argparse.Namespace) -> None:
    """Train a supernet and write smaller models."""
    settings = SupernetSettings(**_values_of(SupernetSettings, options, keep=tuple(options.keep)))
    space = None if options.space is None else _read_space(Path(options.space))
    config = apply_flags(base_config(options.start), options.flags)
    supernet_run.train(
        *(config, options.out, settings, space),
        overwrite=options.overwrite,
        progress=not options.quiet,
    )
    _report(options.out)
    for line in describe_subnets(Path(options.out)):
        print(f"subnet: {line}")


def plan(options: argparse.Namespace) -> None:
    """Print what runs cost."""
    accelerators = Accelerators(**_values_of(Accelerators, options, number=options.accelerators))
    lengths = {"caption_tokens": options.caption_tokens, "num_samples": options.num_samples}
    planned = [plan_run(name, accelerators, **lengths) for name in options.configs]
    if options.json:
        print(json.dumps([cost_record(run) for run in planned], indent=2))
    else:
        print(cost_table(planned, accelerators))


def _values_of(kind: type, options: argparse.Namespace, **others: Any) -> dict[str, Any]:
    """The fields of a dataclass from the options of the same names, except for `others`."""
    names = [field.name for field in fields(kind) if field.name not in others]
    return {name: getattr(options, name) for name in names} | others


def _report(out: str) -> None:
    """Print what the last evaluation measured, and where everything is."""
    directory = RunDirectory(Path(out))
    rows = directory.metrics("eval")
    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    for row in last:
        of_set = f" on {row['data']}" if len(last) > 1 else ""
        for warning in row.get("warnings", ()):
            print(f"{PROG}: warning: evaluation{of_set}: {one_line(warning)}", file=sys.stderr)
        text = _describe_scores(row)
        if text:
            print(f"{row['data']}: {text}" if of_set else text)
    for row in directory.metrics("early_end"):
        name, metric = row["best"]["metric"]
        print(
            f"ended at step {row['step']} of {row['total_steps']}: {metric} on {name} was not "
            f"better in {row['patience']} evaluations"
        )
    best = Path(out) / BEST / "best.json"
    if best.is_file():
        found = json.loads(read_small_file(best))
        print(
            f"best {found['metric'][1]} {found['value']:.4f} at step {found['step']}: {best.parent}"
        )
    print(f"run directory: {out}")
    if RunDirectory.read_config(out).data.holdout:
        print(
            "any model on the same held-out samples: clip-eval run --model "
            f"{shlex.quote(out)} MODEL --data {shlex.quote(f'holdout:{out}')} --out DIR"
        )


def _describe_scores(row: dict[str, Any]) -> str:
    """The main numbers of an evaluation; empty if no sample could be used."""
    found = [
        f"{label} {100 * row[name]:.2f} %"
        for name, label in name_shares(row).items()
        if row.get(name) is not None
    ]
    if row.get("loss") is not None:
        found.append(f"loss {row['loss']:.4f}")
    if not found:
        return ""
    chance = f", chance {100 * row['chance']:.2f} %" if row.get("chance") is not None else ""
    views = f", views {row['views']}" if "views" in row else ""
    return f"{', '.join(found)} of n = {row['n']} ({row['n_skipped']} skipped){chance}{views}"


def _overfit_verdict(out: str) -> str:
    """Whether the loss on one batch lost nine tenths of what it was above its floor."""
    directory = RunDirectory(Path(out))
    losses = [row["loss"] for row in directory.metrics("train")]
    if not losses:
        return "overfit check: no loss was logged; give more --train.steps than --log.every-steps"
    noted = next(iter(directory.metrics("overfit")), {})
    floor, collapsed = noted.get("floor") or 0.0, noted.get("collapsed")
    goal = floor + (losses[0] - floor) / 10
    verdict = "passed" if losses[-1] < goal else "failed"
    text = f"overfit check {verdict}: loss {losses[0]:.4f} → {losses[-1]:.4f}, expected below "
    text += f"{goal:.4f} (10 %{' above the least' if floor else ''})"
    if floor:
        repeats = " and ".join(f"{noted[f'repeated_{x}']} {x}" for x in ("images", "captions"))
        text += f"; the least possible is {floor:.4f}, with {repeats} of the batch repeated"
    if verdict == "failed" and collapsed and abs(losses[-1] - collapsed) < 0.02 * collapsed:
        text += (
            f"; {collapsed:.4f} is the loss of features that are all alike: try a lower --optim.lr "
            "or more --train.steps"
        )
    return text


def _read_space(file: Path) -> dict[str, Any]:
    """What the file of `--space` holds.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads(read_small_file(file))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    return found


def base_config(start: str) -> Config:
    """The config of a finished run, continued from its model; or of a preset or TOML file.

    Raises:
        RunDirectoryError: The run is not finished.
    """
    path = Path(start)
    if not (path / CONFIG_NAME).is_file():
        if path.name == start and not (path.suffix or path.exists() or start in list_presets()):
            raise ConfigError(
                f"{start}: no run directory, TOML file or preset has this name; `clip-train "
                "presets` lists the presets"
            )
        return load_config(start)
    if not (path / WEIGHTS_NAME).is_file():
        raise RunDirectoryError(
            f"the run in {path} is not finished; continue it with `clip-train resume {path}`"
        )
    config = RunDirectory.read_config(path)
    model = replace(config.model, name="", pretrained=str(path.absolute()), vision={}, text={})
    tokenizer = replace(config.tokenizer, kind="directory", path=str(path.absolute()))
    checkpoint = replace(config.checkpoint, directory="")  # it holds that run's
    return replace(config, model=model, tokenizer=tokenizer, checkpoint=checkpoint)
