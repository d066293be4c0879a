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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clip_models.errors import CheckpointError
from clip_models.files.torchscript_archive import find_archive_root, read_archive

INDEX_SUFFIX = ".index.json"
_NESTED = ("state_dict", "model_state_dict", "model")
_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, with the types they are stored in.

    A training checkpoint gives the state dict inside it. Prefixes of `DistributedDataParallel`,
    `torch.compile` and similar wrappers (`module.`, `_orig_mod.`) are removed from the names.

    Raises:
        CheckpointError: The file is missing, damaged, unknown, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; name a weight file or a model directory")
    if path.name.endswith(INDEX_SUFFIX):
        tensors = _read_shards(path)
    elif path.suffix == ".safetensors":
        tensors = load_tensors(path)
    else:
        tensors = _read_by_content(path)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    return strip_wrappers(tensors, source=path)


def strip_wrappers(tensors: Mapping[str, Tensor], *, source: str | Path) -> dict[str, Tensor]:
    """The tensors under their names in the module that was wrapped."""
    plain: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        while name.startswith("module."):
            name = name.removeprefix("module.")
        if name in plain:
            raise CheckpointError(f"{source} has {name} twice, once as {key}")
        plain[name] = value
    return plain


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read safetensors.

    Raises:
        CheckpointError: The file is truncated or is not safetensors.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from None


def _read_by_content(path: Path) -> dict[str, Tensor]:
    with open(path, "rb") as file:
        start = file.read(9)
    if start[4:] == b"\0\0\0\0{":  # safetensors: eight bytes of length, then JSON
        return load_tensors(path)
    if start[:4] == b"PK\x03\x04":
        return _read_zip(path)
    if start[:1] == b"\x80":
        return _read_pickle(path)
    raise CheckpointError(
        f"{path} is not a known kind of weight file; expected safetensors, .pt or .bin of "
        "tensors, a TorchScript archive or .npz"
    )


def _read_zip(path: Path) -> dict[str, Tensor]:
    with _reporting_damage(path), zipfile.ZipFile(path) as archive:
        root = find_archive_root(archive)
        if root is not None:
            return read_archive(archive, root)
        names = archive.namelist()
    if names and all(name.endswith(".npy") for name in names):
        return _read_numpy(path)
    return _read_pickle(path)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    with _reporting_damage(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an unusual protocol is read or refused
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    return _state_dict(loaded, path)


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


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a loaded checkpoint, or of the state dict inside it."""
    while isinstance(loaded, Mapping):
        inner = next((key for key in _NESTED if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = loaded[inner]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, expected a state dict")
    others = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"{path} is not a state dict: {', '.join(others[:4])}"
            f"{' and more' if len(others) > 4 else ''} are not tensors"
        )
    return {str(key): value for key, value in loaded.items()}


def _read_numpy(path: Path) -> dict[str, Tensor]:
    with _reporting_damage(path), np.load(path, allow_pickle=False) as arrays:
        return {name: _from_numpy(arrays[name]) for name in arrays.files}


def _from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor with the array's values; JAX writes bfloat16 as two opaque bytes."""
    if array.dtype == np.dtype("V2"):
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        shard_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(shard_of.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
