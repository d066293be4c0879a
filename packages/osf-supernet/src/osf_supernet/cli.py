"""osf: weight-sharing supernets of any torch module on the command line.

MODEL is one of
  module:factory         a callable that returns a module, or a module and example inputs
  torchvision:NAME       a model of torchvision
  timm:NAME              a model of timm
  open_clip:NAME         a model of open_clip
  clip-models:NAME       a model of clip-models, or a directory that it wrote
  transformers:NAME      a model of transformers, or a directory that it wrote

Examples:
  osf explain torchvision:resnet18
  osf extract timm:vit_tiny_patch16_224 --weights vit.pt --images pets --max-params 50% --out small
  osf train torchvision:resnet18 --images pets --device cuda --precision bf16 --out net
  osf resume net
  osf search torchvision:resnet18 --supernet net --images pets --out front
  osf extract torchvision:resnet18 --supernet net --from front/front.json --images pets --out small
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from osf_supernet.command_line import CommandParser, call_named, run_command

_FORMATS = ("text", "dot", "svg", "html")
_FRACTION = "number, share such as 50%%, or as a float up to 1 a fraction of the full model's"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    return run_command("osf", lambda: _run(arguments), (ValueError,))


def _run(arguments: Sequence[str] | None) -> int | None:
    options = _build_parser().parse_args(arguments)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file there never stands in for an installed module
    return call_named("osf_supernet.commands.errors:run_body", options.function, options)


def _build_parser() -> CommandParser:
    parser = CommandParser(
        prog="osf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_version("osf-supernet")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_subnet_commands(commands)
    _add_run_commands(commands)
    return parser


class _DefaultsFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Prints the defaults that are values."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_value = action.default is not None and action.default is not False
        return super()._get_help_string(action) if is_value else action.help


def _add(
    commands: Any, name: str, function: str, help_line: str, *groups: Callable[[Any], None]
) -> CommandParser:
    """A sub-command with groups of options, whose body is imported when it is called."""
    parser: CommandParser = commands.add_parser(
        name,
        help=help_line,
        description=f"{help_line[0].upper()}{help_line[1:]}.",
        formatter_class=_DefaultsFormatter,
    )
    parser.set_defaults(function=f"osf_supernet.commands.{function}")
    for add_group in groups:
        add_group(parser)
    return parser


def _add_subnet_commands(commands: Any) -> None:
    line = "elastic and frozen groups of a model"
    parser = _add(commands, "explain", "subnets:explain", line, _add_model)
    parser.add_argument("--format", choices=_FORMATS, default="text", help="format of the output")
    parser.add_argument("--json", action="store_true", help="groups as JSON")
    line = "config of a random subnet"
    parser = _add(commands, "sample", "subnets:sample", line, _add_model, _add_bounds)
    parser.add_argument("--json", action="store_true", help="config as JSON, for --config")
    line = "folder with a verified subnet"
    parser = _add(commands, "extract", "subnets:extract", line, _add_model, _add_bounds)
    parser.add_argument(
        "--config",
        help="JSON file of a config; by default what changes the outputs least within the bounds, "
        "or half of the parameters",
    )
    parser.add_argument(
        "--from", dest="front", metavar="FRONT", help="front.json of a search, instead of bounds"
    )
    parser.add_argument(
        "--index",
        default="best",
        help="subnet of the front: best, or a number from 0, the cheapest",
    )
    _add_data(parser, required=False)
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    _add_out(parser)
    _add_hub(parser)
    line = "comparison of the largest, the smallest and random subnets with the masked full model"
    parser = _add(commands, "verify", "subnets:verify", line, _add_model)
    parser.add_argument("--samples", type=_count, default=3, help="number of random subnets")
    parser.add_argument("--json", action="store_true", help="certificates as JSON")


def _add_run_commands(commands: Any) -> None:
    line = "training of a supernet into a new directory"
    groups = (_add_model, _add_data, _add_importance, _add_training_options, _add_out, _add_hub)
    train = _add(commands, "train", "runs:train", line, *groups)
    line = "search of the best subnets under bounds"
    groups = (_add_model, _add_data, _add_importance, _add_bounds, _add_search_options, _add_out)
    search = _add(commands, "search", "runs:search", line, *groups)
    search.add_argument("--quiet", action="store_true", help="no progress on standard error")
    _add_resume(commands, {"train": train, "search": search})


def _add_resume(commands: Any, started_by: dict[str, CommandParser]) -> None:
    """The options of `train` and `search`; those that are not given are as recorded in the run."""
    line = "continuation of an interrupted training or search"
    parser = _add(commands, "resume", "runs:resume", line)
    parser.add_argument("run", metavar="RUN", help="directory that train or search wrote")
    parser.add_argument("--model", help="model, where the run's is a factory: see osf --help")
    given = parser.add_argument_group("changes", "options of the run, by default as recorded")
    _add_model_options(given)
    _add_data(given, required=False)
    _add_importance(given)
    _add_bounds(given)
    _add_training_options(given)
    _add_search_options(given)
    _add_hub(parser)
    flags = {action.dest for action in parser._actions} - {"help", "quiet", "json"}
    parser.set_defaults(**dict.fromkeys(flags))
    parser.set_defaults(
        defaults={
            name: {action.dest: other.get_default(action.dest) for action in other._actions}
            for name, other in started_by.items()
        }
    )


def _add_model(parser: CommandParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="module:factory or LIBRARY:NAME")
    _add_model_options(parser)


def _add_model_options(parser: Any) -> None:
    parser.add_argument(
        "--weights", help="file with the model's state dict: safetensors, or .pt and .pth of torch"
    )
    parser.add_argument("--supernet", help="folder of a trained supernet")
    parser.add_argument("--space", help="JSON file of a space, or supernet folder of OFM")
    parser.add_argument(
        "--loadable",
        action="store_true",
        help="only sizes that the config of the model's library can say, equal in all layers",
    )
    parser.add_argument("--image-size", type=_positive, help="side of the example image in pixels")
    parser.add_argument(
        "--num-classes",
        type=_positive,
        help="classes of a classifier of torchvision, timm or transformers, by default its own",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps, or auto")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")


def _add_bounds(parser: Any) -> None:
    parser.add_argument("--max-params", type=_bound, help=f"most parameters: {_FRACTION}")
    parser.add_argument("--max-flops", type=_bound, help=f"most operations: {_FRACTION}")


def _add_data(parser: Any, *, required: bool = True) -> None:
    data = parser.add_mutually_exclusive_group(required=required)
    data.add_argument("--images", help="folder with train/CLASS/* and val/CLASS/*")
    data.add_argument("--texts", help="folder with train.txt and val.txt, for a language model")
    data.add_argument("--data", help="module:factory of an Experiment")
    parser.add_argument("--batch-size", type=_positive, default=64, help="samples per step")
    parser.add_argument(
        "--template",
        default="a photo of a {}.",
        help="prompt of a class of --images, for models of images and texts",
    )
    parser.add_argument(
        "--context-length", type=_positive, default=128, help="tokens of a piece of --texts"
    )
    parser.add_argument(
        "--workers", type=_count, default=0, help="threads that decode images; 0 none besides"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="precision of forward passes; weights stay in fp32",
    )


def _add_training_options(parser: Any) -> None:
    parser.add_argument("--steps", type=_positive, default=1000, help="optimizer steps in all")
    parser.add_argument("--lr", type=float, default=5e-5, help="highest learning rate of AdamW")
    parser.add_argument(
        "--schedule",
        choices=("constant", "cosine", "linear"),
        default="constant",
        help="course of the learning rate after the warm-up, to 0 at the last step if not constant",
    )
    parser.add_argument(
        "--warmup", type=_count, default=0, help="steps in which the rate rises from 0"
    )
    parser.add_argument("--weight-decay", type=_from_zero, default=0.01, help="of AdamW")
    parser.add_argument("--num-random", type=_count, default=2, help="random subnets per step")
    parser.add_argument(
        "--log-interval", type=_positive, default=10, help="steps between printed losses"
    )
    parser.add_argument(
        "--save-interval", type=_positive, default=500, help="steps between checkpoints"
    )
    parser.add_argument("--quiet", action="store_true", help="no losses on standard output")


def _add_importance(parser: Any) -> None:
    parser.add_argument(
        "--importance",
        choices=("magnitude", "random"),
        default="magnitude",
        help="importance by which every group of an untrained supernet is sorted first",
    )


def _add_search_options(parser: Any) -> None:
    parser.add_argument(
        "--max-latency-ms", type=_above_zero, help="most milliseconds, measured on this machine"
    )
    parser.add_argument(
        "--population", type=_positive, default=24, help="subnets per generation of NSGA-II"
    )
    parser.add_argument("--generations", type=_count, default=10, help="generations of NSGA-II")
    parser.add_argument("--json", action="store_true", help="front as JSON")


def _add_out(parser: CommandParser) -> None:
    parser.add_argument("--out", required=True, help="new directory")
    parser.add_argument(
        "--overwrite", action="store_true", help="existing directory renamed to NAME.old-K"
    )


def _add_hub(parser: CommandParser) -> None:
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="repository to upload it to")
    parser.add_argument("--token", help="token of the Hub; the stored one by default")


def _count(text: str, least: int = 0) -> int:
    """A whole number from 0."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text}")
    return number


def _positive(text: str) -> int:
    """A whole number from 1."""
    return _count(text, 1)


def _from_zero(text: str) -> float:
    """A finite number of at least 0."""
    return 0.0 if text in ("0", "0.0") else _above_zero(text)


def _above_zero(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def _bound(text: str) -> float:
    """A fraction up to 1, a percentage, or a whole number."""
    if text.endswith("%"):
        share = _above_zero(text[:-1]) / 100
        if share > 1:
            raise argparse.ArgumentTypeError(f"expected at most 100%, got {text}")
        return share
    number = _above_zero(text)
    return number if number <= 1 else int(number)
