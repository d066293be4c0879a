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
    _add_train(commands)
    _add_resume(commands)
    _add_eval(commands)
    _add_generate(commands)
    presets = _add(commands, "presets", "presets:presets", "list of the presets, or one as JSON")
    presets.add_argument("name", nargs="?", metavar="NAME", help="preset to print as JSON")
    presets.add_argument("--json", action="store_true", help="list as JSON")
    curves = _add(commands, "curves", "curves:curves", "plot of the metrics of runs")
    curves.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directory")
    curves.add_argument("--out", type=Path, required=True, metavar="IMAGE", help="image file")
    curves.add_argument("--overwrite", action="store_true", help="replace an existing image")
    return parser


def _add(commands: Any, name: str, function: str, help_line: str, **texts: str) -> CommandParser:
    """A sub-command whose body is imported when it is called."""
    parser: CommandParser = commands.add_parser(
        name, help=help_line, allow_abbrev=False, **({"description": help_line} | texts)
    )
    parser.set_defaults(function=f"dtp_pooling.commands.{function}", parser=parser)
    return parser


def _add_train(commands: Any) -> None:
    train = _add(
        commands,
        "train",
        "training:train",
        "training run of a language model on a text",
        description="Train a language model on a text. Any key of the configuration is a flag: "
        "--key value, or --section.key value such as --model.width 256; `dtp-lm presets NAME` "
        "prints their values.",
        epilog=f"configuration keys: {', '.join(config_keys())}",
    )
    train.add_argument("data", type=Path, metavar="TEXT", help="text file: plain, .gz or .zip")
    train.add_argument("--out", type=Path, required=True, metavar="RUN", help="new run directory")
    train.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing directory, which is renamed to RUN.old-K",
    )
    train.add_argument(
        "--preset",
        default="text8-gumbel",
        metavar="NAME",
        help="named configuration to start from (default: %(default)s)",
    )
    train.add_argument(
        "--valid",
        type=Path,
        metavar="TEXT",
        help="validation text file (default: TEXT is split into 90/5/5 %% train, valid, test)",
    )
    _add_device(train)
    train.add_argument("--quiet", action="store_true", help="no metrics on standard output")


def _add_resume(commands: Any) -> None:
    resume = _add(
        commands,
        "resume",
        "training:resume",
        "continuation of a run from its newest checkpoint",
        description="Continue a run from its newest checkpoint, with its own configuration; on CPU "
        "to the same bits as without the stop.",
    )
    resume.add_argument("run", type=Path, metavar="RUN", help="run directory")
    resume.add_argument("--data", type=Path, metavar="TEXT", help="text file, if it was moved")
    resume.add_argument(
        "--valid", type=Path, metavar="TEXT", help="validation text file, if it was moved"
    )
    _add_device(resume)
    resume.add_argument("--quiet", action="store_true", help="no metrics on standard output")


def _add_eval(commands: Any) -> None:
    evaluate = _add(commands, "eval", "evaluation:evaluate", "bits per character of a whole text")
    evaluate.add_argument("run", type=Path, metavar="RUN", help="run directory")
    evaluate.add_argument("data", type=Path, metavar="TEXT", help="text file")
    evaluate.add_argument(
        "--split",
        choices=_SPLITS,
        help="part of TEXT (default: test of the text that the run was split from, else all)",
    )
    evaluate.add_argument(
        "--window", type=_count, metavar="N", help="characters of context (default: the run's)"
    )
    evaluate.add_argument(
        "--stride", type=_count, metavar="N", help="characters per window (default: the run's)"
    )
    evaluate.add_argument(
        "--batch-size",
        type=_count,
        default=16,
        metavar="N",
        help="windows per forward pass (default: 16)",
    )
    _add_quantize(evaluate)
    _add_device(evaluate)
    evaluate.add_argument("--json", action="store_true", help="result as JSON")


def _add_generate(commands: Any) -> None:
    generate = _add(commands, "generate", "evaluation:generate", "continuation of a prompt")
    generate.add_argument("run", type=Path, metavar="RUN", help="run directory")
    generate.add_argument("--prompt", required=True, metavar="TEXT", help="text to continue")
    generate.add_argument(
        "--length",
        type=_count,
        default=200,
        metavar="N",
        help="number of new characters (default: 200)",
    )
    generate.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="temperature of sampling; 0 is greedy (default: 1)",
    )
    generate.add_argument(
        "--top-k", type=_count, metavar="K", help="number of likeliest characters to sample from"
    )
    generate.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: 0)")
    _add_quantize(generate)
    _add_device(generate)
    generate.add_argument("--json", action="store_true", help="prompt and continuation as JSON")


def _add_device(parser: CommandParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (default)"
    )


def _add_quantize(parser: CommandParser) -> None:
    parser.add_argument(
        "--quantize", choices=["none", "int8"], help="precision of layers (default: the run's)"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number
