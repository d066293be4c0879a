"""The command `clip-models`: convert weights, say what is in them, list what has a name.

Exit status: 0 done, 1 refused or failed (the reason is on standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.named_models import get_config, list_models
from clip_models.config.strict import to_dict
from clip_models.converters.dialect_names import DIALECTS, FILE_DIALECTS
from clip_models.errors import CheckpointError, ConfigError
from clip_models.files import hub
from clip_models.files.conversion import read_stored, write_stored
from clip_models.model.clip import CLIP

_TYPES = ("float32", "float16", "bfloat16")

_EXAMPLES = """examples:
  clip-models convert ViT-B-32.pt vit-b-32 --to clip-models
  clip-models convert vit-b-32 for-transformers --to hugging-face
  clip-models convert epoch_6.pt out --to open-clip --model ViT-L-14-CL32-GAP-BigVision
  clip-models convert hf-hub:google/siglip-base-patch16-224 siglip --to clip-models
  clip-models convert vit-b-32 vit-b-32-half --to clip-models --dtype float16
  clip-models info vit-b-32
  clip-models list "ViT-L-*"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        {"convert": _convert, "info": _info, "list": _list}[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (CheckpointError, ConfigError, ImportError, OSError) as error:
        print(f"clip-models: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clip-models",
        description="Convert CLIP weights between libraries, inspect them, list named models.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    convert = commands.add_parser(
        "convert",
        help="write weights in another library's names and files",
        description="Write weights in another library's names and files. "
        f"{', '.join(FILE_DIALECTS)} are single files; the others are directories with configs. "
        "Numbers keep their bits unless --dtype says otherwise.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument("source", metavar="IN", help="weight file, directory or hf-hub:org/name")
    convert.add_argument("out", metavar="OUT", type=Path, help="directory or file to write")
    convert.add_argument("--to", choices=DIALECTS, required=True, help="whose files to write")
    convert.add_argument("--dtype", choices=_TYPES, help="type of the numbers (default: as stored)")
    convert.add_argument("--overwrite", action="store_true", help="replace files that are there")
    info = commands.add_parser("info", help="say what weights or a named model are")
    info.add_argument(
        "source", metavar="IN", help="weight file, directory, hf-hub:org/name or name"
    )
    for command in (convert, info):
        command.add_argument("--model", metavar="NAME", help="the model that a weight file holds")
    listing = commands.add_parser("list", help="names of models that can be made")
    listing.add_argument(
        "pattern", metavar="PATTERN", nargs="?", default="*", help="such as 'ViT-*'"
    )
    return parser


def _convert(options: argparse.Namespace) -> None:
    stored = read_stored(options.source, model=options.model)
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    for path in write_stored(
        stored, options.out, options.to, overwrite=options.overwrite, dtype=dtype
    ):
        print(path)


def _info(options: argparse.Namespace) -> None:
    if options.model is None and _is_name(options.source):
        _describe(get_config(options.source))
        return
    stored = read_stored(options.source, model=options.model)
    types = Counter(str(value.dtype).removeprefix("torch.") for value in stored.state.values())
    shown = ", ".join(f"{count} {name}" for name, count in sorted(types.items()))
    print(f"weights     {stored.weights}\nnames       {stored.dialect}\ntensors     {shown}")
    _describe(stored.config)


def _is_name(source: str) -> bool:
    """Whether a model's name is meant: a registered one, or a mere word that is on no disk."""
    path = Path(source)
    mere = path.name == source and not path.suffix and not path.exists()
    return source in list_models() or (mere and not source.startswith(hub.SCHEME))


def _describe(config: CLIPConfig) -> None:
    with torch.device("meta"):
        model = CLIP(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    image = sum(parameter.numel() for parameter in model.visual.parameters())
    print(f"parameters  {count:,} ({image:,} of the image tower)")
    print(json.dumps(to_dict(config), indent=2))


def _list(options: argparse.Namespace) -> None:
    names = list_models(options.pattern)
    if not names:
        raise ConfigError(f"no model is named like {options.pattern!r}; `clip-models list` has all")
    width = max(map(len, names))
    for name in names:
        config = get_config(name)
        image, text = config.vision.image_size, config.text
        tokens = f"{text.context_length:>3} tokens of {text.vocab_size:>7,}"
        print(f"{name:<{width}}  {image:>4} px  {tokens}  {config.embed_dim:>5} dimensions")
