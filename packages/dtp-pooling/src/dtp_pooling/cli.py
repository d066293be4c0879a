"""`dtp-lm`: train, evaluate and sample the language model from the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dtp_pooling.language_model.bits_per_character import bits_per_character
from dtp_pooling.language_model.generation import generate
from dtp_pooling.pooling.noise import sample_generators
from dtp_pooling.strict_config import from_dict
from dtp_pooling.training.config import PRESETS, TrainingConfig
from dtp_pooling.training.curves import plot_curves
from dtp_pooling.training.text import digest, read_text, split_text
from dtp_pooling.training.trainer import Run, Trainer, for_use, read_model, read_run, start_run

EXTRAS = {
    "matplotlib": "plot",
    "osf_supernet": "pruning",
    "sentencepiece": "unigram",
    "torchao": "int8",
}

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise SystemExit(
            f"dtp-lm: {package} is not installed; pip install 'dtp-pooling[{EXTRAS[package]}]'"
        ) from error
    except (OSError, ValueError) as error:
        raise SystemExit(f"dtp-lm: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dtp-lm", description=__doc__)
    commands = parser.add_subparsers(required=True)
    train = _command(commands, "train", _train, "train on a text, or resume a run")
    train.add_argument("data", type=Path, help="text8, enwik8 or any text; plain, .gz or .zip")
    train.add_argument("--out", type=Path, required=True, help="folder of the run")
    train.add_argument("--preset", help="see `dtp-lm presets`; default: text8-gumbel")
    train.add_argument("--valid", type=Path, help="validation text; else 90/5/5 %% of the data")
    train.add_argument(
        "--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help="model.width=64"
    )
    train.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    _add_device(train)
    evaluate = _command(commands, "eval", _evaluate, "bits per character of a whole text")
    evaluate.add_argument("run", type=Path)
    evaluate.add_argument("data", type=Path)
    evaluate.add_argument(
        "--split",
        choices=["train", "valid", "test", "all"],
        help="default: test of the text that the run was split from, all of another",
    )
    evaluate.add_argument("--window", type=_count, help="default: that of the run")
    evaluate.add_argument("--stride", type=_count, help="default: that of the run")
    evaluate.add_argument("--batch", type=_count, default=16)
    evaluate.add_argument("--quantize", choices=["none", "int8"], help="default: that of the run")
    _add_device(evaluate)
    sample = _command(commands, "generate", _generate, "continue a prompt")
    sample.add_argument("run", type=Path)
    sample.add_argument("--prompt", required=True)
    sample.add_argument("--length", type=_count, default=200)
    sample.add_argument("--temperature", type=float, default=1.0)
    sample.add_argument("--top-k", type=int)
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--quantize", choices=["none", "int8"], help="default: that of the run")
    presets = _command(commands, "presets", _presets, "list the named runs, or print one")
    presets.add_argument("name", nargs="?")
    curves = _command(commands, "curves", _curves, "draw the metrics of runs (extra `plot`)")
    curves.add_argument("runs", type=Path, nargs="+")
    curves.add_argument("--out", type=Path, required=True)
    return parser


def _command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text)
    parser.set_defaults(command=function)
    return parser


def _add_device(parser: argparse.ArgumentParser) -> None:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=_device, default=default)


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used: {reason}") from error


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def _train(options: argparse.Namespace) -> None:
    if options.resume and (options.set or options.preset):
        raise SystemExit("a resumed run keeps its configuration: leave --set and --preset out")
    if options.resume:
        config = read_run(options.out).config
    else:
        config = override(preset(options.preset or "text8-gumbel"), options.set)
    text = read_text(options.data)
    if options.valid is None:
        train_text, valid_text, test_text = split_text(text, config.alphabet)
    else:
        train_text, valid_text, test_text = text, read_text(options.valid), ""
    if not options.resume:
        start_run(options.out, config, train_text, valid_text, test_text)
    trainer = Trainer(options.out, train_text, valid_text, options.device)
    with _stop_on_signals() as stop:
        trainer.run(stop=stop)
    at = f"{options.out} is at step {trainer.step_number} of {config.steps}"
    if trainer.step_number < config.steps:
        raise SystemExit(f"dtp-lm: stopped and saved: {at}; --resume goes on from there")
    print(at, file=sys.stderr)


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a second one acts at once."""
    stop = threading.Event()
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}

    def ask(number: int, frame: object) -> None:
        stop.set()
        signal.signal(number, before[number])

    try:
        for number in _SIGNALS:
            signal.signal(number, ask)
        yield stop
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)


def _evaluate(options: argparse.Namespace) -> None:
    run = read_run(options.run)
    config, alphabet = run.config, run.alphabet
    text = read_text(options.data)
    split = options.split or _split_of(run, text)
    if split != "all":
        text = split_text(text, config.alphabet)[("train", "valid", "test").index(split)]
    model = read_model(options.run, alphabet).to(options.device)
    model = for_use(model, options.quantize or config.quantize)
    result = bits_per_character(
        model,
        alphabet.encode(text),
        window=options.window or config.evaluation_window,
        stride=options.stride or config.evaluation_stride,
        batch=options.batch,
    )
    print(json.dumps(result._asdict()))


def _split_of(run: Run, text: str) -> str:
    """What to evaluate on of a text: what a run that was split from it has not seen, or all."""
    if digest(split_text(text, run.config.alphabet)[0]) == run.text_sha256:
        return "test"
    if digest(text) == run.text_sha256:
        print("dtp-lm: this is the text that the run was trained on", file=sys.stderr)
    return "all"


def _generate(options: argparse.Namespace) -> None:
    config, alphabet, *_ = read_run(options.run)
    model = for_use(read_model(options.run, alphabet), options.quantize or config.quantize)
    new = generate(
        model,
        alphabet.encode(options.prompt)[None],
        options.length,
        temperature=options.temperature,
        top_k=options.top_k,
        generators=sample_generators(options.seed, [0]),
    )
    print(options.prompt + alphabet.decode(new[0]))


def _presets(options: argparse.Namespace) -> None:
    if options.name is None:
        for name, config in PRESETS.items():
            model = config.model
            layers = f"{model.pre_layers}+{model.shortened_layers}+{model.post_layers}"
            print(f"{name:18} {layers} layers, width {model.width}, {config.steps} steps")
    else:
        print(json.dumps(dataclasses.asdict(preset(options.name)), indent=2))


def _curves(options: argparse.Namespace) -> None:
    plot_curves(options.runs, options.out)


def preset(name: str) -> TrainingConfig:
    """The named run."""
    if name not in PRESETS:
        raise SystemExit(f"no preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]


def override(config: TrainingConfig, settings: list[str]) -> TrainingConfig:
    """The configuration with `key=value` settings; dots go into nested ones, values are JSON."""
    values = dataclasses.asdict(config)
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise SystemExit(f"expected KEY=VALUE, got {setting!r}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text  # a bare word
        *outer, last = key.split(".")
        target = values
        for name in outer:
            if not isinstance(target.get(name), dict):
                raise SystemExit(f"{name!r} in {key!r} is no section of the configuration")
            target = target[name]
        target[last] = value
    return from_dict(TrainingConfig, values)
