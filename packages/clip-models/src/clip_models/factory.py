"""The ways to make a model: by name, from a config, from a directory, from the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.named_models import get_config
from clip_models.config.preprocess_config import PreprocessConfig, default_preprocess, preprocess_of
from clip_models.config.strict import from_dict
from clip_models.converters.dialects import to_native
from clip_models.errors import CheckpointError, ConfigError
from clip_models.files import hub
from clip_models.files.model_directory import ModelFiles, read_model_directory
from clip_models.files.pretrained import build_with_weights, fit_positions
from clip_models.files.weight_files import read_weights
from clip_models.model.clip import CLIP
from clip_models.preprocess import EvaluationTransform, TrainTransform


class ModelAndTransforms(NamedTuple):
    """A model, and what turns an image into its input.

    `train` crops at random and gives uint8, which its `normalize` takes on the device; `evaluate`
    gives normalised float32.
    """

    model: CLIP
    train: TrainTransform
    evaluate: EvaluationTransform


def create_model(
    model: str | Path | CLIPConfig,
    pretrained: str | Path | None = None,
    *,
    force_image_size: int | None = None,
    force_context_length: int | None = None,
    device: str | torch.device | None = None,
) -> CLIP:
    """A CLIP model in float32.

    Args:
        model: A registered name or a config (new random weights, training mode), the directory of a
            saved model or `hf-hub:org/name` (their weights, evaluation mode).
        pretrained: For a name or a config: its weights, as a file, a directory or
            `hf-hub:org/name`, in any dialect.
        force_image_size: Side of the images; positions are interpolated.
        force_context_length: Tokens of a text; positions are interpolated.
        device: Where the model goes; None leaves it where torch makes tensors.

    Raises:
        ConfigError: The name is not registered, or the sizes are impossible.
        CheckpointError: Files are missing or damaged, or weights do not fit.
    """
    sizes = (force_image_size, force_context_length)
    return _create(model, pretrained, sizes, device)[0]


def create_model_and_transforms(
    model: str | Path | CLIPConfig,
    pretrained: str | Path | None = None,
    *,
    force_image_size: int | None = None,
    force_context_length: int | None = None,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
    interpolation: str | None = None,
    square_resize_only: bool | None = None,
    device: str | torch.device | None = None,
) -> ModelAndTransforms:
    """A model with its transforms for training and evaluation.

    Args:
        model: As for `create_model`, like the next two and `device`.
        pretrained: See there.
        force_image_size: See there.
        force_context_length: See there.
        image_mean: Mean of the pixels in [0, 1], of each channel.
        image_std: Their standard deviation.
        interpolation: "bicubic", "bilinear" or "nearest".
        square_resize_only: True resizes images to squares, whatever their sides; False crops the
            centre.  None, here and above, keeps what the model was trained with.
        device: As for `create_model`.

    Raises:
        ConfigError: As `create_model`, and for a transform that cannot be.
        CheckpointError: As `create_model`.
    """
    sizes = (force_image_size, force_context_length)
    made, preprocess = _create(model, pretrained, sizes, device)
    given = {
        "mean": image_mean,
        "std": image_std,
        "interpolation": interpolation,
    }
    if square_resize_only is not None:
        given["resize_mode"] = "squash" if square_resize_only else "shortest"
    changes = {key: value for key, value in given.items() if value is not None}
    preprocess = from_dict(PreprocessConfig, {**vars(preprocess), **changes})
    return ModelAndTransforms(made, TrainTransform(preprocess), EvaluationTransform(preprocess))


def _create(
    source: str | Path | CLIPConfig,
    pretrained: str | Path | None,
    sizes: tuple[int | None, int | None],
    device: str | torch.device | None,
) -> tuple[CLIP, PreprocessConfig]:
    config, preprocess, weights = _find(source)
    if pretrained is not None:
        if weights is not None:
            raise ConfigError(f"{source} has weights of its own; leave pretrained={pretrained} out")
        weights, stored = _find_weights(pretrained)
        if stored is not None:
            _require_same_activation(config, stored.config, pretrained)
            preprocess = stored.preprocess
    config = _resized(config, *sizes)
    preprocess = replace(preprocess, size=config.vision.image_size)
    if weights is None:
        model = CLIP(config)
    else:
        state = to_native(read_weights(weights), config)
        if pretrained is not None or sizes != (None, None):
            state = fit_positions(state, config)
        model = build_with_weights(config, state, source=weights)
    return model if device is None else model.to(device), preprocess


def _find(source: str | Path | CLIPConfig) -> tuple[CLIPConfig, PreprocessConfig, Path | None]:
    """Config, preprocessing and, of a saved model, the weights."""
    if isinstance(source, CLIPConfig):
        return source, default_preprocess(source), None
    if not isinstance(source, str | Path):
        raise ConfigError(
            f"model must be a name, a directory, 'hf-hub:org/name' or a CLIPConfig, got {source!r}"
        )
    repository = hub.repository_of(source)
    if repository is not None:
        return read_model_directory(hub.download(repository))
    if Path(source).is_dir():
        return read_model_directory(source)
    name = str(source)
    if Path(source).exists():
        raise ConfigError(f"{name} is a file; name its model, and give the file as pretrained")
    return get_config(name), preprocess_of(name), None


def _find_weights(pretrained: str | Path) -> tuple[Path, ModelFiles | None]:
    """The weight file that `pretrained` means, and the configs that came with it."""
    repository = hub.repository_of(pretrained)
    directory = Path(pretrained) if repository is None else hub.download(repository)
    if directory.is_dir():
        files = read_model_directory(directory)
        return files.weights, files
    if not directory.is_file():
        raise CheckpointError(
            f"pretrained={str(pretrained)!r} is no file, no directory and no 'hf-hub:org/name'"
        )
    return directory, None


def _require_same_activation(
    config: CLIPConfig, stored: CLIPConfig, pretrained: str | Path
) -> None:
    """Refuse to run weights with the other one of the two activations that CLIPs differ in."""
    ours, theirs = config.text.activation, stored.text.activation
    if (ours == "quick_gelu") != (theirs == "quick_gelu"):
        raise ConfigError(
            f"{pretrained} was trained with the activation {theirs}, the model has {ours}; take "
            "the model's name with or without -quickgelu, or load the directory as it is"
        )


def _resized(config: CLIPConfig, image_size: int | None, context_length: int | None) -> CLIPConfig:
    for name, size in (("force_image_size", image_size), ("force_context_length", context_length)):
        if size is not None and type(size) is not int:
            raise ConfigError(f"{name} must be one integer, got {size!r}; images are square")
    if image_size is not None:
        config = replace(config, vision=replace(config.vision, image_size=image_size))
    if context_length is not None:
        config = replace(config, text=replace(config.text, context_length=context_length))
    return config
