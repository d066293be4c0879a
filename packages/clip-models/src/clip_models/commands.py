"""The bodies of `clip-models convert` and `clip-models info`."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clip_models.config.named_models import get_config, list_models
from clip_models.errors import CheckpointError
from clip_models.files import hub
from clip_models.files.conversion import StoredModel, check_output, read_stored, write_stored
from clip_models.model.clip import CLIP, count_parameters


def convert(options: argparse.Namespace) -> None:
    """Write a model in another format; print the files."""
    check_output(options.out, options.to, overwrite=True)
    if not options.overwrite and _holds_files(options.out):
        raise CheckpointError(f"{options.out} exists; add --overwrite to replace the model there")
    stored = _read(options)
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    written = write_stored(
        stored,
        options.out,
        options.to,
        overwrite=options.overwrite,
        dtype=dtype,
        tokenizer=options.tokenizer,
    )
    files = [str(path) for path in written.files]
    note = {"note": written.note} if written.note else {}
    print(json.dumps({"files": files, **note}) if options.json else "\n".join(files))
    if note:
        print(f"clip-models: note: {written.note}", file=sys.stderr)


def _read(options: argparse.Namespace) -> StoredModel:
    """The model that the options name."""
    return read_stored(options.source, model=options.model, key=options.key, prefix=options.prefix)


def _holds_files(out: Path) -> bool:
    """Whether the output is a file or a directory that is not empty."""
    return out.exists() and not (out.is_dir() and not any(out.iterdir()))


def describe(options: argparse.Namespace) -> None:
    """Print what weights or a named model are."""
    shown: dict[str, Any] = {}
    if options.model is None and _is_name(options.source):
        config = get_config(options.source)
    else:
        stored = _read(options)
        config = stored.config
        types = Counter(str(value.dtype).removeprefix("torch.") for value in stored.state.values())
        shown = {
            "weights": str(stored.weights),
            "names": stored.dialect,
            "tensors": dict(sorted(types.items())),
        }
    with torch.device("meta"):
        model = CLIP(config)
    shown["parameters"] = count_parameters(model)
    shown["image_parameters"] = count_parameters(model.visual)
    values = config.to_dict()
    if options.json:
        print(json.dumps({**shown, "config": values}))
    else:
        print(*_described(shown), json.dumps(values, indent=2), sep="\n")


def _described(shown: Mapping[str, Any]) -> list[str]:
    """One line for each value."""
    lines = [f"{name:<12}{shown[name]}" for name in ("weights", "names") if name in shown]
    if "tensors" in shown:
        counts = ", ".join(f"{count} {name}" for name, count in shown["tensors"].items())
        lines.append(f"tensors     {counts}")
    image = shown["image_parameters"]
    return [*lines, f"parameters  {shown['parameters']:,} ({image:,} of the image tower)"]


def _is_name(source: str) -> bool:
    """Whether the source is the name of a model: a registered one, or a word that is no path."""
    path = Path(source)
    is_word = path.name == source and not path.suffix and not path.exists()
    return source in list_models() or (is_word and not source.startswith(hub.SCHEME))
