"""The `clip-train` command."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import sys
import typing
import warnings
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import tyro
from clip_eval import EvaluationError, Result
from clip_eval.data import DataError
from clip_models import CheckpointError, ConfigError
from clip_models.config import nearest
from clip_tokenizer import TokenizerError
from osf_supernet import count_parameters

from clip_train.cli.data import add_data_commands
from clip_train.cli.supernet import add_supernet_command, base_config, settings_of, space_of
from clip_train.config.model import DEFAULT_MODEL, merge, split_tower_flags
from clip_train.config.presets import UNITS, list_presets, load_config, preset_text
from clip_train.config.run import Config
from clip_train.cost.flops import Accelerators
from clip_train.cost.table import NATURAL_CAPTION, cost_table, plan_run
from clip_train.distributed.errors import BackendError
from clip_train.engine import runs
from clip_train.logs.run_directory import RunDirectory, RunDirectoryError
from clip_train.shapes.dataset import ShapesError
from clip_train.supernet import run as supernet
from clip_train.supernet.settings import SupernetRecord
from clip_train.training_error import Interrupted, TrainingError
from clip_train.translate.command import translate
from clip_train.translate.tables import SYSTEMS

USER_ERRORS = (
    BackendError,
    CheckpointError,
    ConfigError,
    DataError,
    EvaluationError,
    OSError,
    RunDirectoryError,
    ShapesError,
    TokenizerError,
    TrainingError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when done, 2 after an error of use, 130 when interrupted."""
    warnings.showwarning = _show_warning
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    if arguments[:1] == ["run"] and {"-h", "--help"} & set(arguments):
        return _help_run(parser, arguments)
    foreign: list[str] = []  # after a lone --: another system's words, none of ours
    if "--" in arguments:
        at = arguments.index("--")
        arguments, foreign = arguments[:at], arguments[at + 1 :]
    options, rest = parser.parse_known_args(arguments)
    takes = {"run": rest, "supernet": rest, "translate": [w for w in rest if not w.startswith("-")]}
    if rest != takes.get(options.command, []):  # a file behind an option is one of the rest
        parser.error(f"unknown argument {rest[0]!r}")
    others = os.environ.get("RANK", "0") != "0"  # under torchrun the first process speaks for all
    try:
        with contextlib.redirect_stdout(io.StringIO()) if others else contextlib.nullcontext():
            options.function(options, rest + foreign)
    except Interrupted as error:
        print(f"clip-train: {error}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("clip-train: interrupted", file=sys.stderr)
        return 130
    except USER_ERRORS as error:
        print(f"clip-train: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def parse_flags(flags: Sequence[str], base: Config) -> Config:
    """The config with `--section.key value` flags applied on top of `base`.

    Raises:
        ConfigError: A flag names no key, or its value has the wrong type.
    """
    flags, towers = split_tower_flags(flags)
    vision = merge(base.model.vision, towers["vision"])
    text = merge(base.model.text, towers["text"])
    base = dataclasses.replace(
        base, model=dataclasses.replace(base.model, vision=vision, text=text)
    )
    known = _keys(Config)
    flags = _capitalised(flags, {key for key, kind in known.items() if kind is bool})
    given = [flag[2:].split("=")[0].replace("-", "_") for flag in flags if flag.startswith("--")]
    for key in given:
        if key not in known:
            raise ConfigError(f"unknown key {key!r}{nearest(key, known)}")
    for name, units in UNITS:
        if not units.isdisjoint(key.removeprefix(f"{name}.") for key in given):
            section = getattr(base, name)
            usual = {f.name: f.default for f in dataclasses.fields(section) if f.name in units}
            base = dataclasses.replace(base, **{name: dataclasses.replace(section, **usual)})
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stderr):
            return tyro.cli(
                Config,
                prog="clip-train run",
                default=base,
                args=flags,
                config=(tyro.conf.FlagConversionOff,),
            )
    except SystemExit:
        message, _, _ = stderr.getvalue().partition("For full helptext")
        words = message.translate({ord(c): " " for c in "─│╭╮╰╯├┤"}).split()
        words = [word for word in words if set(word) != {"-"}]
        raise ConfigError(" ".join(words)) from None


def _capitalised(flags: Sequence[str], switches: Set[str]) -> list[str]:
    """`true` and `false`, as TOML spells them, in the way that the parser of flags knows."""
    words: list[str] = []
    name = ""
    for word in flags:
        flag, equals, value = word.partition("=")
        name = flag if flag.startswith("--") else name
        if name[2:].replace("-", "_") in switches and (value or word) in ("true", "false"):
            word = flag + equals + value.capitalize() if equals else word.capitalize()
        words.append(word)
    return words


def _keys(cls: type, prefix: str = "") -> dict[str, Any]:
    """Types of all values of a config tree by their dotted names."""
    hints = typing.get_type_hints(cls)
    keys: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        nested = hints[field.name]
        if dataclasses.is_dataclass(nested):
            keys |= _keys(typing.cast(type, nested), f"{prefix}{field.name}.")
        else:
            keys[prefix + field.name] = nested
    return keys


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clip-train", description="Train CLIP-like models.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="train a model",
        description="Train a model.  Any key of the config is a flag: --section.key value.",
        allow_abbrev=False,
    )
    run.add_argument("config", metavar="PRESET-OR-TOML", help="see `clip-train presets`")
    run.add_argument("--out", metavar="DIR", help="the run directory, a new one")
    run.add_argument("--overwrite", action="store_true", help="set aside a directory in the way")
    run.add_argument(
        "--overfit-batch",
        type=int,
        metavar="N",
        help="train on the first N samples over and over: can the loss reach its floor?",
    )
    run.add_argument(
        "--dry-run", action="store_true", help="build everything, load one batch, and stop"
    )
    run.set_defaults(function=_run)
    resume = commands.add_parser("resume", help="go on with an interrupted run", allow_abbrev=False)
    resume.add_argument("directory", metavar="DIR", help="the run directory")
    resume.set_defaults(function=_resume)
    translate = commands.add_parser(
        "translate",
        help="another system's command line or recipe as our TOML",
        description="Print our TOML for another system's run, and what has no counterpart.",
        allow_abbrev=False,
    )
    translate.add_argument("system", metavar="|".join(SYSTEMS))
    translate.add_argument(
        "--processes", type=int, default=1, help="how many the original ran on (default 1)"
    )
    translate.add_argument("file", nargs="?", help="a script or YAML; or flags after a lone --")
    translate.set_defaults(function=_translate)
    presets = commands.add_parser("presets", help="list presets, or print one as TOML")
    presets.add_argument("name", nargs="?", metavar="NAME")
    presets.set_defaults(function=_presets)
    plan = commands.add_parser(
        "plan",
        help="what runs cost: tokens, FLOPs, memory, time and price, before anyone spends it",
        allow_abbrev=False,
    )
    plan.add_argument("configs", nargs="+", metavar="PRESET-OR-TOML", help="the phases of a run")
    usual = Accelerators()
    plan.add_argument("--accelerators", type=int, default=usual.number, metavar="N")
    plan.add_argument(
        "--peak-tflops", type=float, default=usual.peak_tflops, help="of one, dense; A100: 312"
    )
    plan.add_argument(
        "--utilization", type=float, default=usual.utilization, help="share of the peak reached"
    )
    plan.add_argument("--memory-gb", type=float, default=usual.memory_gb, help="of one")
    plan.add_argument(
        "--price-per-hour", type=float, default=usual.price_per_hour, help="of one for an hour"
    )
    plan.add_argument(
        "--caption-tokens", type=int, default=NATURAL_CAPTION, help="of an average caption"
    )
    plan.add_argument(
        "--num-samples", type=int, metavar="N", help="size of the data set, for epochs"
    )
    plan.set_defaults(function=_plan)
    add_supernet_command(commands, _supernet)
    add_data_commands(commands)
    return parser


def _help_run(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    """Both halves of the help of `run`: its own arguments and the keys of the config."""
    with contextlib.suppress(SystemExit):
        parser.parse_args(["run", "--help"])
    names = [word for word in arguments[1:] if not word.startswith("-")]
    base = load_config(names[0]) if names and names[0] in list_presets() else Config()
    with contextlib.suppress(SystemExit):
        tyro.cli(
            Config,
            prog="clip-train run PRESET-OR-TOML",
            default=base,
            args=["--help"],
            config=(tyro.conf.FlagConversionOff,),
        )
    return 0


def _run(options: argparse.Namespace, flags: list[str]) -> None:
    config = parse_flags(flags, load_config(options.config))
    if options.overfit_batch is not None:
        train = dataclasses.replace(config.train, overfit_batch=options.overfit_batch)
        config = dataclasses.replace(config, train=train)
    if options.dry_run:
        parts, batch = runs.dry_run(config)
        count = count_parameters(parts.model)
        print(f"data      {parts.source.name}: {len(parts.source):,} samples")
        device = next(parts.model.parameters()).device
        name = config.model.name or config.model.pretrained or DEFAULT_MODEL
        print(f"model     {name}: {count:,} parameters, on {device}")
        print(f"length    {parts.total_steps:,} steps, {parts.plan.steps_per_epoch:,} an epoch")
        print(f"batch     images {tuple(batch.images.shape)}, captions {tuple(batch.tokens.shape)}")
        return
    if not options.out:
        raise ConfigError("--out DIR is missing; it names the run directory")
    _report(runs.start(config, options.out, overwrite=options.overwrite), options.out)
    if config.train.overfit_batch is not None:
        _report_overfitting(options.out)


def _resume(options: argparse.Namespace, flags: list[str]) -> None:
    known = SupernetRecord.read(options.directory) is not None
    _report((supernet if known else runs).resume(options.directory), options.directory)


def _supernet(options: argparse.Namespace, flags: list[str]) -> None:
    settings, space = settings_of(options), space_of(options)
    config = parse_flags(flags, base_config(options.start))
    result = supernet.start(config, options.out, settings, space, overwrite=options.overwrite)
    _report(result, options.out)
    for folder in sorted((Path(options.out) / supernet.SUBNETS).iterdir()):
        print(f"subnet: {supernet.describe_subnet(folder)}")


def _translate(options: argparse.Namespace, flags: list[str]) -> None:
    words = [options.file] if options.file else flags
    print(translate(options.system, words, processes=options.processes).text(), end="")


def _report(result: Result | None, out: str) -> None:
    for warning in result.warnings if result else ():
        _show_warning(f"evaluation: {warning}")
    accuracy = result.metrics["acc1"] if result else None
    if result and accuracy is not None and result.chance is not None:
        print(
            f"zero-shot top-1 {100 * accuracy:.2f} % of n = {result.n} "
            f"({result.n_skipped} skipped), chance {100 * result.chance:.2f} %"
        )
    print(f"run directory: {out}")


def _report_overfitting(out: str) -> None:
    """Say whether one batch was learned by heart."""
    losses = [row["loss"] for row in RunDirectory(Path(out)).metrics("train")]
    if losses:
        verdict = "it was" if losses[-1] < losses[0] / 10 else "it was not"
        print(
            f"loss {losses[0]:.4f} at first, {losses[-1]:.4f} at the end; a batch that is learned "
            f"by heart ends below a tenth: {verdict}"
        )


def _plan(options: argparse.Namespace, flags: list[str]) -> None:
    accelerators = Accelerators(
        number=options.accelerators,
        peak_tflops=options.peak_tflops,
        utilization=options.utilization,
        memory_gb=options.memory_gb,
        price_per_hour=options.price_per_hour,
    )
    planned = [
        plan_run(
            name,
            accelerators,
            caption_tokens=options.caption_tokens,
            num_samples=options.num_samples,
        )
        for name in options.configs
    ]
    print(cost_table(planned, accelerators))


def _presets(options: argparse.Namespace, flags: list[str]) -> None:
    if options.name:
        print(preset_text(options.name), end="")
        return
    width = max(map(len, list_presets()))
    for name in list_presets():
        print(f"{name:<{width}}  {load_config(name).description}")


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"clip-train: warning: {_one_line(Warning(str(message)))}", file=sys.stderr)
