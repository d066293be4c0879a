"""Model directories: those of this package written and read, open_clip's and transformers' read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from clip_models.command_line import read_small_file
from clip_models.config.checks import require
from clip_models.config.clip_config import CLIPConfig
from clip_models.config.preprocess_config import PreprocessConfig, guess_preprocess_config
from clip_models.config.strict import from_dict, to_dict
from clip_models.converters.hugging_face_config import from_hugging_face_config
from clip_models.converters.open_clip_config import from_open_clip
from clip_models.converters.preprocess_config import (
    from_hugging_face_preprocess,
    from_open_clip_preprocess,
)
from clip_models.errors import CheckpointError, ConfigError
from clip_models.files.atomic_write import save_json, save_tensors
from clip_models.files.saved_config import find_saved_config
from clip_models.model.clip import CLIP

T = TypeVar("T")

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "clip_config.json"
ADAPTER_CONFIG = "adapter_config.json"
OPEN_CLIP_CONFIG = "open_clip_config.json"
HUGGING_FACE_CONFIG = "config.json"
HUGGING_FACE_PREPROCESS = "preprocessor_config.json"
CONFIG_NAMES = (CONFIG_NAME, OPEN_CLIP_CONFIG, HUGGING_FACE_CONFIG, HUGGING_FACE_PREPROCESS)

_OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
WEIGHT_NAMES = (*_WEIGHTS, *_OPEN_CLIP_WEIGHTS)
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".npz")


@dataclass(frozen=True, kw_only=True)
class _ModelFile:
    """The layout of `clip_config.json`."""

    model: CLIPConfig
    preprocess: PreprocessConfig
    format_version: int = 1

    def __post_init__(self) -> None:
        require(
            self.format_version == 1,
            f"format_version must be 1, got {self.format_version}; a later clip-models wrote it",
        )


class ModelFiles(NamedTuple):
    """The configs of a model directory and the file of its weights."""

    config: CLIPConfig
    preprocess: PreprocessConfig
    weights: Path


def save_model(directory: str | Path, model: CLIP, preprocess: PreprocessConfig) -> None:
    """Write weights and configs; each file is replaced in one step, never left half written.

    The config has the sizes of the weights: of a model that was cut in place, of a vocabulary or
    positions that have grown, of another embedding space.

    Raises:
        CheckpointError: The model has parts that no config can say, such as adapters, a head or
            weight norm, or weights that are no plain tensors; nothing is written.
    """
    directory, config = Path(directory), find_saved_config(model)
    directory.mkdir(parents=True, exist_ok=True)
    save_config(directory, config, preprocess)
    save_tensors(directory / WEIGHTS_NAME, model.state_dict())


def save_config(directory: str | Path, config: CLIPConfig, preprocess: PreprocessConfig) -> None:
    """Write `clip_config.json`; the directory must exist."""
    save_json(Path(directory) / CONFIG_NAME, make_native_config(config, preprocess))


def make_native_config(config: CLIPConfig, preprocess: PreprocessConfig) -> dict[str, Any]:
    """The contents of `clip_config.json`."""
    return to_dict(_ModelFile(model=config, preprocess=preprocess))


def load_config(directory: str | Path) -> tuple[CLIPConfig, PreprocessConfig]:
    """The configs in a model directory.

    Raises:
        CheckpointError: The file is missing, or this package did not write it.
    """
    path = Path(directory) / CONFIG_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{directory} is not a model directory: it has no {CONFIG_NAME}; "
            "name the directory that save_model or a training run wrote"
        )
    try:
        stored = from_dict(_ModelFile, json.loads(read_small_file(path)))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    return stored.model, stored.preprocess


def read_model_directory(directory: str | Path) -> ModelFiles:
    """The configs of a model directory and the file of its weights, which is not read.

    `clip_config.json` is read first, else open_clip's config, else transformers'; the weights may
    have names of any dialect, and the file any name if it is the only one.

    Raises:
        CheckpointError: There is no config, it cannot be read, or there are no weights.
    """
    directory = Path(directory)
    config, preprocess = read_configs(directory)
    for name in list_weight_names(directory):
        if (directory / name).is_file():
            return ModelFiles(config, preprocess, directory / name)
    others = [path for path in directory.iterdir() if path.suffix in _SUFFIXES]
    if len(others) == 1:
        return ModelFiles(config, preprocess, others[0])
    raise CheckpointError(
        f"{directory} has no {_WEIGHTS[0]}; if its training was interrupted, "
        "name one of its checkpoints/step-… directories"
    )


def list_weight_names(directory: Path) -> tuple[str, ...]:
    """Names of weight files, those of the library that wrote the config first."""
    if (directory / OPEN_CLIP_CONFIG).is_file() and not (directory / CONFIG_NAME).is_file():
        return (*_OPEN_CLIP_WEIGHTS, *_WEIGHTS)
    return WEIGHT_NAMES


def read_configs(directory: Path) -> tuple[CLIPConfig, PreprocessConfig]:
    """The model's config and its preprocessing.

    Raises:
        CheckpointError: There is no config, or it cannot be read.
    """
    if (directory / CONFIG_NAME).is_file():
        return load_config(directory)
    if (directory / OPEN_CLIP_CONFIG).is_file():
        return _read(directory / OPEN_CLIP_CONFIG, _convert_open_clip)
    if (directory / HUGGING_FACE_CONFIG).is_file():
        config = _read(directory / HUGGING_FACE_CONFIG, from_hugging_face_config)
        return config, _read_hugging_face_preprocess(directory, config)
    if (directory / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{directory} holds an adapter of peft, not a model; load both with peft and save what "
            "its merge_and_unload returns"
        )
    raise CheckpointError(
        f"{directory} is not a model directory: it has no {CONFIG_NAME}, no {OPEN_CLIP_CONFIG} and "
        f"no {HUGGING_FACE_CONFIG}; name the directory that save_model or a training run wrote"
    )


def _convert_open_clip(values: Mapping[str, Any]) -> tuple[CLIPConfig, PreprocessConfig]:
    config = from_open_clip(values)
    preprocess = values.get("preprocess_cfg") or {}
    return config, from_open_clip_preprocess(preprocess, config.vision.image_size)


def _read_hugging_face_preprocess(directory: Path, config: CLIPConfig) -> PreprocessConfig:
    size, path = config.vision.image_size, directory / HUGGING_FACE_PREPROCESS
    if path.is_file():
        return _read(path, lambda values: from_hugging_face_preprocess(values, size))
    return guess_preprocess_config(config)


def _read(path: Path, convert: Callable[[Mapping[str, Any]], T]) -> T:
    """The converted contents of a JSON file of another library."""
    try:
        values = json.loads(read_small_file(path))
        if not isinstance(values, Mapping):
            raise ConfigError(f"it is a {type(values).__name__}, expected a table")
        return convert(values)
    except (
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        OSError,
        RecursionError,
    ) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
