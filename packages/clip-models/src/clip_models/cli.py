"""The command `clip-models`: its parser. The bodies are imported when they are called.

What a command reads is a positional argument; what it writes is `--out`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from clip_models.command_line import CommandParser, call_named, run_command
from clip_models.converters.dialect_names import DIALECTS, FILE_DIALECTS
from clip_models.errors import CheckpointError, ConfigError

PROG = "clip-models"
_GRAPHS = ("onnx", "torchscript", "pt2")
_TYPES = ("float32", "float16", "bfloat16")
_SOURCE = "weight file, model directory or hf-hub:org/name"

_EXAMPLES = """examples:
  clip-models convert ViT-B-32.pt --to clip-models --out vit-b-32
  clip-models convert vit-b-32 --to hugging-face --out for-transformers
  clip-models convert epoch_6.pt --to open-clip --out out --model ViT-L-14-CL32-GAP-BigVision
  clip-models convert last.ckpt --to open-clip --out out --model ViT-B-32 --prefix model.
  clip-models convert hf-hub:google/siglip-base-patch16-224 --to clip-models --out siglip
  clip-models convert vit-b-32 --to clip-models --out vit-b-32-half --dtype float16
  clip-models export vit-b-32 --to onnx --out vit-b-32-onnx --check
  clip-models info vit-b-32
  clip-models list "ViT-L-*"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    options = build_parser().parse_args(arguments)
    user_errors = (CheckpointError, ConfigError)
    return run_command(PROG, lambda: call_named(options.run, options), user_errors)


def build_parser() -> CommandParser:
    """The parser of the command and its sub-commands."""
    parser = CommandParser(
        prog=PROG,
        description="Convert CLIP weights between libraries, export them, describe them, list "
        "named models.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_version("clip-models")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    convert = commands.add_parser(
        "convert",
        help="weights and configs in another library's format",
        description="Write weights in another library's names and files.\n"
        f"{', '.join(FILE_DIALECTS)} are single files; the others are directories with configs.\n"
        "Numbers keep their bits unless --dtype is given.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.set_defaults(run="clip_models.commands:convert")
    convert.add_argument("source", metavar="IN", help=_SOURCE)
    convert.add_argument("--to", choices=DIALECTS, required=True, help="format to write")
    convert.add_argument(
        "--out", metavar="OUT", type=Path, required=True, help="directory or file to write"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace an existing model")
    convert.add_argument("--dtype", choices=_TYPES, help="type of the numbers (default: as stored)")
    convert.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="directory or repository of the tokenizer to write beside the model (default: that of "
        "IN, or the one that its config names); none writes none",
    )
    export = commands.add_parser(
        "export",
        help="graphs of both towers that run without this package",
        description="Write both towers as graphs with open batch, image and caption sizes, and "
        "description.json: their inputs, preprocessing and tokenizer.",
    )
    export.set_defaults(run="clip_models.graph_commands:export")
    export.add_argument("source", metavar="IN", help=_SOURCE)
    export.add_argument("--to", choices=_GRAPHS, required=True, help="format to write")
    export.add_argument("--out", metavar="OUT", type=Path, required=True, help="directory to write")
    export.add_argument(
        "--check",
        action="store_true",
        help="comparison of the graphs with the model, over several sizes, before anything is kept",
    )
    export.add_argument("--overwrite", action="store_true", help="replace existing graphs")
    info = commands.add_parser(
        "info",
        help="size, number types and config of a model",
        description="Size, number types and config of a model.",
    )
    info.set_defaults(run="clip_models.commands:describe")
    info.add_argument("source", metavar="IN", help=f"{_SOURCE}, or the name of a model")
    for command in (convert, export, info):
        command.add_argument(
            "--model",
            metavar="NAME|FILE.json",
            help="model in a weight file: its name, or the JSON file of its config",
        )
        command.add_argument(
            "--key", help="key of the weights in a training checkpoint, such as state_dict_ema"
        )
        command.add_argument(
            "--prefix", help="beginning of the names of the model's weights, such as model."
        )
    listing = commands.add_parser(
        "list",
        help="names and sizes of the registered models",
        description="Names and sizes of the registered models.",
    )
    listing.set_defaults(run="clip_models.listing:list_named")
    listing.add_argument(
        "pattern", metavar="PATTERN", nargs="?", default="*", help="shell pattern, such as 'ViT-*'"
    )
    for command in (convert, export, info, listing):
        command.add_argument("--json", action="store_true", help="output as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
