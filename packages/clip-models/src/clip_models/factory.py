"""Models by name, config, directory or hub repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.image_size import ImageSize
from clip_models.config.named_models import get_config, list_models
from clip_models.config.preprocess_config import (
    PreprocessConfig,
    get_preprocess_config,
    guess_preprocess_config,
)
from clip_models.config.strict import from_dict
from clip_models.config.towers import CompactResNetConfig, WhitenedCNNConfig
from clip_models.converters.dialects import to_native
from clip_models.errors import ConfigError
from clip_models.files import hub
from clip_models.files.config_files import SUFFIX as CONFIG_SUFFIX
from clip_models.files.config_files import read_config_file
from clip_models.files.model_directory import ModelFiles, read_model_directory
from clip_models.files.pretrained import build_with_weights, fit_logits, fit_positions
from clip_models.files.pretrained_tags import describe_unknown, find_repository
from clip_models.files.weight_files import read_weights
from clip_models.model.clip import CLIP
from clip_models.positions import Grid
from clip_models.preprocess import EvaluationTransform, TrainTransform


class ModelAndTransforms(NamedTuple):
    """A model with its transforms.

    `train` crops at random and gives uint8, which its `normalize` takes on the device; `evaluate`
    gives normalized float32.
    """

    model: CLIP
    train: TrainTransform
    evaluate: EvaluationTransform


def create_model(
    model: str | Path | CLIPConfig,
    pretrained: str | Path | None = None,
    *,
    force_image_size: ImageSize | None = None,
    force_context_length: int | None = None,
    device: str | torch.device | None = None,
    key: str | None = None,
    prefix: str | None = None,
) -> CLIP:
    """A CLIP model in float32.

    Args:
        model: A registered name, a config or its JSON file (new random weights, training mode), the
            directory of a saved model or `hf-hub:org/name` (their weights, evaluation mode).
        pretrained: Weights for a name or a config: a file, a directory or `hf-hub:org/name`, in any
            dialect; for a name also a tag of open_clip, which `list_pretrained` lists. The model
            has a logit bias if they have one.
        force_image_size: Side of the images in pixels, or height and width; positions are
            interpolated.
        force_context_length: Number of tokens of a text; positions are interpolated.
        device: Device of the model; None is torch's default device.
        key: Key of the weights in a training checkpoint; None takes the only ones.
        prefix: How the names of the model's weights begin in it; None takes the only CLIP.

    Raises:
        ConfigError: The name is not registered, or the sizes are impossible.
        CheckpointError: Files are missing or damaged, or weights do not fit.
    """
    sizes = (force_image_size, force_context_length)
    return _create(model, _Weights(pretrained, key, prefix), sizes, device)[0]


def create_model_and_transforms(
    model: str | Path | CLIPConfig,
    pretrained: str | Path | None = None,
    *,
    force_image_size: ImageSize | None = None,
    force_context_length: int | None = None,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
    interpolation: str | None = None,
    square_resize_only: bool | None = None,
    device: str | torch.device | None = None,
    key: str | None = None,
    prefix: str | None = None,
) -> ModelAndTransforms:
    """A model with its transforms for training and evaluation.

    Args:
        model: A name, a config, a directory or `hf-hub:org/name`, as for `create_model`.
        pretrained: Weights for a name or a config.
        force_image_size: Side of the images in pixels, or height and width.
        force_context_length: Number of tokens of a text.
        image_mean: Mean of each channel, of pixels in [0, 1]; None, here and below, keeps what the
            model was trained with.
        image_std: Standard deviation of each channel.
        interpolation: "bicubic", "bilinear" or "nearest".
        square_resize_only: True resizes images to squares, whatever their sides; False crops the
            center.
        device: Device of the model; None is torch's default device.
        key: As for `create_model`.
        prefix: As for `create_model`.

    Raises:
        ConfigError: As `create_model`, or the transform is impossible.
        CheckpointError: As `create_model`.
    """
    sizes = (force_image_size, force_context_length)
    made, preprocess = _create(model, _Weights(pretrained, key, prefix), sizes, device)
    given = {
        "mean": image_mean,
        "std": image_std,
        "interpolation": interpolation,
    }
    if square_resize_only is not None:
        given["resize_mode"] = "squash" if square_resize_only else "shortest"
        preprocess = replace(
            preprocess, resize_mode="shortest", patch_size=None, max_tokens=None
        )  # of images of their own shape
    changes = {key: value for key, value in given.items() if value is not None}
    preprocess = from_dict(PreprocessConfig, {**vars(preprocess), **changes})
    return ModelAndTransforms(made, TrainTransform(preprocess), EvaluationTransform(preprocess))


class _Weights(NamedTuple):
    """Where weights are, and which of those there."""

    pretrained: str | Path | None
    key: str | None
    prefix: str | None


def _create(
    source: str | Path | CLIPConfig,
    wanted: _Weights,
    sizes: tuple[ImageSize | None, int | None],
    device: str | torch.device | None,
) -> tuple[CLIP, PreprocessConfig]:
    config, preprocess, weights = _resolve_model(source)
    grid = _find_grid(config)
    pretrained = wanted.pretrained
    if pretrained is not None:
        if weights is not None:
            raise ConfigError(f"{source} comes with weights; remove pretrained={pretrained}")
        weights, stored = _resolve_weights(pretrained, source)
        if stored is not None:
            _require_same_activation(config, stored.config, pretrained)
            preprocess, grid = stored.preprocess, _find_grid(stored.config)
    config = _resize_config(config, *sizes)
    preprocess = replace(preprocess, size=config.vision.image_size)
    if weights is None:
        model = CLIP(config)
    else:
        found = read_weights(weights, key=wanted.key, prefix=wanted.prefix)
        state = to_native(found, config)
        if pretrained is not None:
            state, config = fit_logits(state, config, source=weights)
        if pretrained is not None or sizes != (None, None):
            state = fit_positions(state, config, grid=grid)
        model = build_with_weights(config, state, source=weights)
    return model if device is None else model.to(device), preprocess


def _resolve_model(
    source: str | Path | CLIPConfig,
) -> tuple[CLIPConfig, PreprocessConfig, Path | None]:
    """Config, preprocessing and, of a saved model, the file of the weights."""
    if isinstance(source, CLIPConfig):
        return source, guess_preprocess_config(source), None
    if not isinstance(source, str | Path):
        raise ConfigError(
            f"model must be a name, a directory, 'hf-hub:org/name' or a CLIPConfig, got {source!r}"
        )
    repository = hub.parse_repository(source)
    if repository is not None:
        return read_model_directory(hub.download(repository))
    path, name = Path(source), str(source)
    if path.is_dir():
        return read_model_directory(path)
    if path.suffix == CONFIG_SUFFIX:
        return (*read_config_file(path), None)
    if path.exists():
        raise ConfigError(f"{name} is a file; name its model, and give the file as pretrained")
    if name in list_models():
        return get_config(name), get_preprocess_config(name), None
    raise ConfigError(describe_unknown(name))


def _resolve_weights(
    pretrained: str | Path, model: str | Path | CLIPConfig
) -> tuple[Path, ModelFiles | None]:
    """The weight file of `pretrained`, and the configs beside it."""
    if not isinstance(pretrained, str | Path):
        raise ConfigError(
            f"pretrained must be a file, a directory, 'hf-hub:org/name' or a tag such as 'openai', "
            f"got {pretrained!r}"
        )
    repository = hub.parse_repository(pretrained)
    path = Path(pretrained)
    if repository is None and not path.exists():
        repository = find_repository(model, str(pretrained))
    directory = path if repository is None else hub.download(repository)
    if directory.is_dir():
        files = read_model_directory(directory)
        return files.weights, files
    return directory, None


def _find_grid(config: CLIPConfig) -> Grid | None:
    """Rows and columns of the tower's table of positions."""
    without = (CompactResNetConfig, WhitenedCNNConfig)
    return None if isinstance(config.vision, without) else config.vision.grid


def _require_same_activation(
    config: CLIPConfig, stored: CLIPConfig, pretrained: str | Path
) -> None:
    """Check that weights run with the GELU they were trained with, exact or quick."""
    ours, theirs = config.text.activation, stored.text.activation
    if (ours == "quick_gelu") != (theirs == "quick_gelu"):
        raise ConfigError(
            f"{pretrained} was trained with the activation {theirs}, the model has {ours}; take "
            "the model's name with or without -quickgelu, or load the directory without a name"
        )


def _resize_config(
    config: CLIPConfig, image_size: ImageSize | None, context_length: int | None
) -> CLIPConfig:
    if image_size is not None:
        size = tuple(image_size) if isinstance(image_size, list) else image_size
        config = replace(config, vision=replace(config.vision, image_size=size))
    if context_length is not None:
        if type(context_length) is not int:
            raise ConfigError(f"force_context_length must be one integer, got {context_length!r}")
        config = replace(config, text=replace(config.text, context_length=context_length))
    return config
