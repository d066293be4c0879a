"""`dtp-lm`: train, evaluate and sample character language models with dynamic token pooling."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dtp_pooling.command_line import CommandParser, call_named, run_command
from dtp_pooling.training.config_flags import config_keys, split_config_flags

EXTRAS = {
    "matplotlib": "plot",
    "osf_supernet": "pruning",
    "sentencepiece": "unigram",
    "torchao": "int8",
}
_SPLITS = ("train", "valid", "test", "all")
_RUN: dict[str, Any] = {"type": Path, "metavar": "RUN", "help": "run directory"}
_DEVICE: dict[str, Any] = {
    "default": "auto",
    "help": "cpu, cuda, cuda:1, mps, or auto (default)",
}
_QUANTIZE: dict[str, Any] = {
    "choices": ["none", "int8"],
    "help": "precision of layers (default: the run's)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command("dtp-lm", lambda: _run(given), (ValueError,))


def _run(arguments: list[str]) -> int | None:
    settings: dict[str, str] = {}
    if arguments[:1] == ["train"]:
        settings, arguments = split_config_flags(arguments)
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        _refuse(options.parser, unknown[0])
    options.settings = settings
    try:
        return call_named(options.function, options)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise ImportError(
            f"{package} is not installed; pip install 'dtp-pooling[{EXTRAS[package]}]'"
        ) from error


def _refuse(parser: CommandParser, word: str) -> None:
    """Report an argument that no command has, with the nearest flag."""
    flags = [flag for action in parser._actions for flag in action.option_strings]
    if parser.prog.endswith(" train"):
        flags += [f"--{key}" for key in config_keys()]
    near = difflib.get_close_matches(word.partition("=")[0], flags, n=1)
    parser.error(f"unknown argument {word}" + (f"; did you mean {near[0]}?" if near else ""))


def _parser() -> CommandParser:
    parser = CommandParser(prog="dtp-lm", description=__doc__, allow_abbrev=False)
    parser.add_version("dtp-pooling")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for add in (_add_train, _add_resume, _add_eval, _add_segments, _add_generate):
        add(commands)
    for add in (_add_presets, _add_curves):
        add(commands)
    return parser


def _add(commands: Any, name: str, function: str, help_line: str, **texts: str) -> CommandParser:
    """A sub-command whose body is imported when it is called."""
    parser: CommandParser = commands.add_parser(
        name,
        help=help_line,
        allow_abbrev=False,
        **({"description": f"{help_line[0].upper()}{help_line[1:]}."} | texts),
    )
    parser.set_defaults(function=f"dtp_pooling.commands.{function}", parser=parser)
    return parser


def _add_train(commands: Any) -> None:
    add = _add(
        commands,
        "train",
        "training:train",
        "training run of a language model on a text",
        description="Train a language model on a text. Any key of the configuration is a flag: "
        "--key value, or --section.key value such as --model.width 256; `dtp-lm presets NAME` "
        "prints their values.",
        epilog=f"configuration keys: {', '.join(config_keys())}",
    ).add_argument
    add("data", type=Path, metavar="TEXT", help="text file: plain, .gz or .zip")
    add("--out", type=Path, required=True, metavar="RUN", help="new run directory")
    overwrite = "replace an existing directory, which is renamed to RUN.old-K"
    add("--overwrite", action="store_true", help=overwrite)
    preset = "named configuration to start from (default: %(default)s)"
    add("--preset", default="text8-gumbel", metavar="NAME", help=preset)
    valid = "validation text file (default: TEXT is split into 90/5/5 %% train, valid, test)"
    add("--valid", type=Path, metavar="TEXT", help=valid)
    add("--device", **_DEVICE)
    add("--quiet", action="store_true", help="no metrics on standard output")


def _add_resume(commands: Any) -> None:
    add = _add(
        commands,
        "resume",
        "training:resume",
        "continuation of a run from its newest checkpoint",
        description="Continue a run from its newest checkpoint, with its own configuration; on CPU "
        "to the same bits as without the stop.",
    ).add_argument
    add("run", **_RUN)
    steps = "new number of steps in all, to train a finished run longer"
    add("--steps", type=_count, metavar="N", help=steps)
    add("--data", type=Path, metavar="TEXT", help="text file, if it was moved")
    add("--valid", type=Path, metavar="TEXT", help="validation text file, if it was moved")
    add("--device", **_DEVICE)
    add("--quiet", action="store_true", help="no metrics on standard output")


def _add_eval(commands: Any) -> None:
    name, function = "eval", "evaluation:evaluate"
    add = _add(commands, name, function, "bits per character of a whole text").add_argument
    add("run", **_RUN)
    add("data", type=Path, metavar="TEXT", help="text file")
    split = "part of TEXT (default: test of the text that the run was split from, else all)"
    add("--split", choices=_SPLITS, help=split)
    add("--window", type=_count, metavar="N", help="characters of context (default: the run's)")
    add("--stride", type=_count, metavar="N", help="characters per window (default: the run's)")
    batch = "windows per forward pass (default: 16)"
    add("--batch-size", type=_count, default=16, metavar="N", help=batch)
    add("--quantize", **_QUANTIZE)
    add("--device", **_DEVICE)
    add("--json", action="store_true", help="result as JSON")


def _add_segments(commands: Any) -> None:
    help_line = "where the segments of a text end"
    add = _add(commands, "segments", "segments:segments", help_line).add_argument
    add("run", **_RUN)
    add("data", type=Path, metavar="TEXT", help="text file")
    split = "part of TEXT (default: test of the text that the run was split from, else all)"
    add("--split", choices=_SPLITS, help=split)
    start = "number of the first character in that part (default: 0)"
    add("--start", type=int, default=0, metavar="N", help=start)
    length = "number of characters (default: 400)"
    add("--length", type=_count, default=400, metavar="N", help=length)
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="page (.html) or picture (.svg) to write instead of the terminal",
    )
    add("--overwrite", action="store_true", help="replace an existing page")
    add("--quantize", **_QUANTIZE)
    add("--device", **_DEVICE)
    add("--json", action="store_true", help="segments as JSON")


def _add_generate(commands: Any) -> None:
    add = _add(commands, "generate", "evaluation:generate", "continuation of a prompt").add_argument
    add("run", **_RUN)
    add("--prompt", required=True, metavar="TEXT", help="text to continue")
    length = "number of new characters (default: 200)"
    add("--length", type=_count, default=200, metavar="N", help=length)
    temperature = "temperature of sampling; 0 is greedy (default: 1)"
    add("--temperature", type=float, default=1.0, metavar="T", help=temperature)
    top_k = "number of likeliest characters to sample from"
    add("--top-k", type=_count, metavar="K", help=top_k)
    add("--seed", type=int, default=0, help="seed of the sampling (default: 0)")
    add("--quantize", **_QUANTIZE)
    add("--device", **_DEVICE)
    add("--json", action="store_true", help="prompt and continuation as JSON")


def _add_presets(commands: Any) -> None:
    help_line = "list of the presets, or one as JSON"
    add = _add(commands, "presets", "presets:presets", help_line).add_argument
    add("name", nargs="?", metavar="NAME", help="preset to print as JSON")
    add("--json", action="store_true", help="list as JSON")


def _add_curves(commands: Any) -> None:
    add = _add(commands, "curves", "curves:curves", "plot of the metrics of runs").add_argument
    add("runs", nargs="+", **_RUN)
    add("--out", type=Path, required=True, metavar="IMAGE", help="image file")
    add("--overwrite", action="store_true", help="replace an existing image")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number
