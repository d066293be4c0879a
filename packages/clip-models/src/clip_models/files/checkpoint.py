"""A model on disk: `model.safetensors` and `clip_config.json` in one directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from clip_models.config.clip_config import CLIPConfig, PreprocessConfig, require
from clip_models.config.strict import from_dict, to_dict
from clip_models.errors import CheckpointError, ConfigError
from clip_models.model.clip import CLIP
from clip_models.model.measured_config import measured_config

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "clip_config.json"


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


def save_config(directory: str | Path, config: CLIPConfig, preprocess: PreprocessConfig) -> None:
    """Write `clip_config.json`; the directory must exist."""
    text = json.dumps(to_dict(_ModelFile(model=config, preprocess=preprocess)), indent=2)
    with replacing(Path(directory) / CONFIG_NAME) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def load_config(directory: str | Path) -> tuple[CLIPConfig, PreprocessConfig]:
    """The configs in a model directory.

    Raises:
        CheckpointError: The file is missing, or is not one of ours.
    """
    path = Path(directory) / CONFIG_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{directory} is not a model directory: it has no {CONFIG_NAME}; "
            "name the directory that save_model or a training run wrote"
        )
    try:
        stored = from_dict(_ModelFile, json.loads(path.read_text(encoding="utf-8")))
    except (ConfigError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    return stored.model, stored.preprocess


def save_model(directory: str | Path, model: CLIP, preprocess: PreprocessConfig) -> None:
    """Write weights and configs; each file is replaced in one step, never left half written.

    Of a model whose layers were cut in place the sizes it has are written, as in `config_of`.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_config(directory, measured_config(model), preprocess)
    save_tensors(directory / WEIGHTS_NAME, model.state_dict())


def load_state(
    model: torch.nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str | Path,
    assign: bool = False,
) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        CheckpointError: Keys are missing or unexpected, or shapes or kinds of numbers differ; the
            first few are named.
    """
    expected = model.state_dict()
    faults = [f"missing {key}" for key in expected if key not in state]
    faults += [f"unexpected {key}" for key in state if key not in expected]
    faults += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    faults += [
        f"{key} holds {state[key].dtype}, expected floating-point numbers"
        for key, value in expected.items()
        if key in state and value.is_floating_point() and not state[key].is_floating_point()
    ]
    if faults:
        more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise CheckpointError(f"{source} does not fit the model: {'; '.join(faults[:4])}{more}")
    model.load_state_dict(state, assign=assign)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors in one step: a temporary file, flushed to disk, then renamed."""
    plain: dict[str, Tensor] = {}
    places: set[tuple[int, int]] = set()
    for key, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = (value.data_ptr(), value.numel())
        plain[key] = value.clone() if place in places else value  # tied weights are written twice
        places.add(place)
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(plain, temporary, metadata={"format": "pt"})
        temporary.chmod(mode)  # safetensors lets nobody but the owner read


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write; it is flushed to disk and takes the place of `path` when done."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
