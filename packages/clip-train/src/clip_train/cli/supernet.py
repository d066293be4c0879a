"""`clip-train supernet`: a CLIP becomes a supernet, and smaller models come out of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_models import ConfigError
from clip_models.files import WEIGHTS_NAME

from clip_train.config.presets import load_config
from clip_train.config.run import Config
from clip_train.logs.run_directory import CONFIG_NAME, RunDirectory, RunDirectoryError
from clip_train.supernet.settings import SupernetSettings


def add_supernet_command(
    commands: Any, function: Callable[[argparse.Namespace, list[str]], None]
) -> None:
    """Add `supernet`, which calls `function` with its options and the rest of the words."""
    usual = SupernetSettings()
    parser = commands.add_parser(
        "supernet",
        help="train a CLIP as a supernet; write smaller models that need no further training",
        description="Train a supernet.  Any key of the config is a flag: --section.key value.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "start",
        metavar="RUN-DIR|PRESET|TOML",
        help="a finished run, whose model, data and config it goes on with; or as of `run`",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="the run directory, a new one")
    parser.add_argument("--overwrite", action="store_true", help="set aside a directory in the way")
    parser.add_argument(
        "--space", metavar="FILE", help="JSON of sizes, ours or OFM's; widths, heads, depth without"
    )
    parser.add_argument(
        "--keep",
        type=float,
        nargs="+",
        default=list(usual.keep),
        metavar="SHARE",
        help="parameters of each model to take out, as a fraction (default 0.7)",
    )
    parser.add_argument(
        "--num-random", type=int, default=usual.num_random, help="random subnets a step"
    )
    parser.add_argument(
        "--distill", type=float, default=usual.distill, help="share of the largest in their loss"
    )
    parser.add_argument(
        "--embedding", type=float, default=usual.embedding, help="weight of embedding distances"
    )
    parser.add_argument(
        "--population", type=int, default=usual.population, help="subnets tried for each share"
    )
    parser.add_argument(
        "--generations", type=int, default=usual.generations, help="of NSGA-II; needs pymoo"
    )
    parser.set_defaults(function=function)


def settings_of(options: argparse.Namespace) -> SupernetSettings:
    """The settings that the options give."""
    return SupernetSettings(
        num_random=options.num_random,
        distill=options.distill,
        embedding=options.embedding,
        keep=tuple(options.keep),
        population=options.population,
        generations=options.generations,
    )


def space_of(options: argparse.Namespace) -> dict[str, Any] | None:
    """What the file of `--space` holds.

    Raises:
        ConfigError: It cannot be read.
    """
    if options.space is None:
        return None
    try:
        found: dict[str, Any] = json.loads(Path(options.space).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{options.space} cannot be read: {error}") from None
    return found


def base_config(start: str) -> Config:
    """The config to begin with: of a finished run, going on from its model, or as of `run`.

    Raises:
        RunDirectoryError: The run is not finished.
    """
    path = Path(start)
    if not (path / CONFIG_NAME).is_file():
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
