"""Tensors from weight files of any kind, recognized by content; nothing in a file is run.

Read are safetensors (also sharded, with an index), `.pt`/`.bin` pickles of plain tensors through
`torch.load(weights_only=True)`, TorchScript archives as data, and Flax weights in `.npz`.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clip_models.command_line import read_small_file
from clip_models.errors import CheckpointError
from clip_models.files.checkpoint_contents import (
    find_state,
    require_no_adapters,
    require_numbers,
    strip_prefix,
)
from clip_models.files.inert_types import allow_inert_types
from clip_models.files.torchscript_archive import find_archive_root, read_archive

INDEX_SUFFIX = ".index.json"
BOMB_BYTES, BOMB_RATIO = 2**26, 100  # what a compressed array may grow to
_NO_WEIGHTS = {
    b"version https://git-lfs": "a git-lfs pointer, not the file itself; run `git lfs pull` in its "
    "repository, or download the file",
    b"<!doctype html": "a web page, not a weight file; download the file itself",
    b"<html": "a web page, not a weight file; download the file itself",
}
"""How files begin that stand where weights should, and what to do."""


def read_weights(
    path: str | Path, *, key: str | None = None, prefix: str | None = None
) -> dict[str, Tensor]:
    """The tensors of a weight file by name, with the types they are stored in.

    A training checkpoint gives the state dict inside it, and what surrounds a CLIP there is left
    out. Prefixes of `DistributedDataParallel`, `torch.compile` and similar wrappers (`module.`,
    `_orig_mod.`) are removed from the names.

    Args:
        path: The file.
        key: Key of the state dict in a training checkpoint, such as `state_dict_ema`; keys of
            nested tables are joined by dots. None takes the only one.
        prefix: How the names of the model's tensors begin, such as `model.`; None takes the only
            CLIP among them.

    Raises:
        CheckpointError: The file is missing, damaged, unknown, or holds more than tensors; or it
            holds several models, which the message lists.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} {_describe_absent(path)}")
    refuse_placeholder(path)
    if path.name.endswith(INDEX_SUFFIX):
        tensors = _read_shards(path)
    elif path.suffix == ".safetensors":
        tensors = load_tensors(path)
    else:
        tensors = _read_by_content(path, key)
        key = None
    if key is not None:
        raise CheckpointError(f"{path} holds tensors and no tables, so there is no key {key!r}")
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    require_numbers(tensors, path)
    require_no_adapters(tensors, path)
    return strip_prefix(tensors, source=path, prefix=prefix)


def refuse_placeholder(path: Path) -> None:
    """Check that a file is not what stands in the place of one that was not downloaded.

    Raises:
        CheckpointError: It is a git-lfs pointer, a web page or empty; the message says what to do.
    """
    with open(path, "rb") as file:
        start = file.read(64).lstrip().lower()
    for beginning, meaning in _NO_WEIGHTS.items():
        if start.startswith(beginning):
            raise CheckpointError(f"{path} is {meaning}")
    if not start:
        kind = "not a weight file"
        if path.suffix == ".safetensors":
            kind = "damaged or not a safetensors file"
        elif path.name.endswith(INDEX_SUFFIX):
            kind = "not an index of shards"
        raise CheckpointError(f"{path} is {kind}: it is empty; download or save it again")


def _describe_absent(path: Path) -> str:
    if path.is_dir():
        return "is not a file; name a weight file in it, or a model directory"
    return "is not a file, and there is none of that name; name a weight file or a model directory"


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read safetensors.

    Raises:
        CheckpointError: The file is truncated or is not safetensors.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from None


def _read_by_content(path: Path, key: str | None) -> dict[str, Tensor]:
    with open(path, "rb") as file:
        start = file.read(9)
    if start[:4] == b"PK\x03\x04":
        return _read_zip(path, key)
    if start[:1] == b"\x80":
        return _read_pickle(path, key)
    if key is not None:
        raise CheckpointError(f"{path} holds no tables, so there is no key {key!r}")
    if start[4:] == b"\0\0\0\0{":  # safetensors: eight bytes of length, then JSON
        return load_tensors(path)
    raise CheckpointError(
        f"{path} is not a known kind of weight file; expected safetensors, .pt or .bin of "
        "tensors, a TorchScript archive or .npz"
    )


def _read_zip(path: Path, key: str | None) -> dict[str, Tensor]:
    with _reporting_damage(path), zipfile.ZipFile(path) as archive:
        root = find_archive_root(archive)
        if root is not None:
            return read_archive(archive, root)
        names = archive.namelist()
    if names and all(name.endswith(".npy") for name in names):
        return _read_numpy(path)
    return _read_pickle(path, key)


def _read_pickle(path: Path, key: str | None) -> dict[str, Tensor]:
    with _reporting_damage(path), warnings.catch_warnings(), allow_inert_types():
        warnings.simplefilter("ignore", UserWarning)  # an unusual protocol is read or refused
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    return find_state(loaded, source=path, key=key)


@contextmanager
def _reporting_damage(path: Path) -> Iterator[None]:
    """Turn any error of a reader, for a damaged or hostile file, into a CheckpointError."""
    try:
        yield
    except pickle.UnpicklingError as error:
        wants = re.search(r"unsupported global:? (?:GLOBAL )?([\w.]+)", str(error), re.IGNORECASE)
        what = f"it needs {wants[1]}" if wants else "it holds more than tensors"
        raise CheckpointError(
            f"{path} is refused: {what}, and nothing in a pickle is ever run; "
            "save the model's state_dict() instead"
        ) from None
    except Exception as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0][:200] or type(error).__name__
        raise CheckpointError(f"{path} is damaged: {reason}") from None


def _read_numpy(path: Path) -> dict[str, Tensor]:
    with _reporting_damage(path), np.load(path, allow_pickle=False) as arrays:
        for entry in arrays.zip.infolist():
            if entry.file_size > max(BOMB_BYTES, BOMB_RATIO * entry.compress_size):
                raise ValueError(
                    f"{entry.filename} would grow from {entry.compress_size:,} to "
                    f"{entry.file_size:,} bytes"
                )
        return {name: _from_numpy(arrays[name]) for name in arrays.files}


def _from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor with the array's values; JAX writes bfloat16 as two opaque bytes."""
    if array.dtype == np.dtype("V2"):
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        shard_of = json.loads(read_small_file(index))["weight_map"]
        files = sorted(set(shard_of.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not an index of shards: {error!r}") from None
    tensors: dict[str, Tensor] = {}
    for name in files:
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*", name):
            raise CheckpointError(f"{index} names {name!r}, which is not a file beside it")
        shard = read_weights(index.parent / name)
        tensors.update({key: shard[key] for key in shard if shard_of.get(key) == name})
    missing = [key for key in shard_of if key not in tensors]
    if missing:
        raise CheckpointError(f"{index}: the shards lack {', '.join(missing[:4])}")
    return tensors
