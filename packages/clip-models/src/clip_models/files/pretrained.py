"""Models with weights, from a directory or from a state dict and its config."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.preprocess_config import PreprocessConfig
from clip_models.config.towers import Activation, ModifiedResNetConfig, ViTConfig
from clip_models.converters import openai
from clip_models.converters.dialects import detect_dialect, to_native
from clip_models.errors import CheckpointError, ConfigError
from clip_models.files.model_directory import read_model_directory
from clip_models.files.weight_files import read_weights
from clip_models.model.clip import ACTIVATIONS, CLIP
from clip_models.positions import Grid, make_sin_cos_table, resize_grid, resize_sequence


def load_model(
    directory: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
) -> tuple[CLIP, PreprocessConfig]:
    """The model of a directory, in evaluation mode, and its preprocessing.

    Args:
        directory: A model directory of this package, of open_clip or of transformers.
        device: Device of the model.
        dtype: Type of the parameters; None keeps the stored one, and of several the widest, in
            which every number stays as it is.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights do not fit the config.
    """
    config, preprocess, weights = read_model_directory(directory)
    state = to_native(read_weights(weights), config)
    return build_with_weights(config, state, source=weights, dtype=dtype).to(device), preprocess


def build_model(
    state: Mapping[str, Tensor],
    config: CLIPConfig | None = None,
    *,
    activation: Activation | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> CLIP:
    """The model of a state dict, in evaluation mode; they share no memory.

    Args:
        state: Weights in any dialect.
        config: The config of their model. None infers it from the shapes by the rules of OpenAI's
            `build_model`, with heads of 64. For weights stored with a config, use `load_model`.
        activation: The activation where there is no config, for no shape tells it. None is that of
            the model whose `state_dict()` this is, or `quick_gelu` for OpenAI's archives.
        dtype: Type of the parameters; None keeps the given one, and of several the widest, in
            which every number stays as it is. OpenAI's `build_model` always gives float16.

    Raises:
        CheckpointError: The weights are not those of a CLIP, do not fit the config, or do not say
            their activation.
    """
    if config is not None and activation is not None:
        raise ConfigError(f"the config says the activation; remove activation={activation!r}")
    if config is None:
        if detect_dialect(state) not in ("openai", "clip-models"):
            raise CheckpointError(
                f"a config is inferred from weights with OpenAI's names and ours only, and these "
                f"have {detect_dialect(state)}'s; pass config="
            )
        config = openai.infer_config(state, activation=activation or _find_activation(state))
    native, config = fit_logits(to_native(state, config), config, source="the state dict")
    return build_with_weights(
        config, native, source="the state dict", dtype=dtype, kept=state.values()
    )


def _find_activation(state: Mapping[str, Tensor]) -> Activation:
    """The activation that a state dict was stored with.

    Raises:
        CheckpointError: It does not say.
    """
    noted = getattr(state, "_metadata", {}).get("", {}).get(ACTIVATIONS, ())
    if len(set(noted)) == 1:
        return cast(Activation, noted[0])
    if detect_dialect(state) == "openai":
        return "quick_gelu"
    raise CheckpointError(
        "these weights do not say their activation, and another one changes every feature; pass "
        "activation='quick_gelu' (OpenAI's), activation='gelu', or config="
    )


def fit_logits(
    state: Mapping[str, Tensor], config: CLIPConfig, *, source: str | Path
) -> tuple[dict[str, Tensor], CLIPConfig]:
    """Weights and config that agree about the scale and the bias of the logits.

    The model has a bias if the weights have one. Weights without a scale get the config's first
    one, with a warning: similarities and rankings do not depend on it, probabilities do.

    Args:
        state: Weights under our names.
        config: Config of the model that is to load them.
        source: Where the weights come from, for the warning.
    """
    fitted, bias = dict(state), state.get("logit_bias")
    if (bias is None) != (config.init_logit_bias is None):
        first = None if bias is None or bias.numel() != 1 or bias.is_meta else bias.item()
        config = replace(config, init_logit_bias=first)
    if state and "logit_scale" not in state:
        fitted["logit_scale"] = torch.tensor(config.init_logit_scale)
        warnings.warn(
            f"{source} holds no logit_scale; the config's init_logit_scale is taken, "
            f"{config.init_logit_scale:g}, on which probabilities depend and rankings do not",
            stacklevel=2,
        )
    return fitted, config


def build_with_weights(
    config: CLIPConfig,
    state: Mapping[str, Tensor],
    *,
    source: str | Path,
    dtype: torch.dtype | None = torch.float32,
    kept: Iterable[Tensor] = (),
) -> CLIP:
    """A model in evaluation mode that holds the given weights, which have our names.

    The tensors become its parameters; only those that share memory with each other or with the
    tensors `kept`, which the caller goes on using, are copied.

    Raises:
        CheckpointError: The weights do not fit the config.
    """
    state = _unshare_memory(state, dtype, kept)
    with torch.device("meta"):
        model = CLIP(config)
    load_state(model, state, source=source, assign=True)
    if any(tensor.is_meta for tensor in model.buffers()):
        model = CLIP(config)  # a token pooling may have buffers that are not stored
        load_state(model, state, source=source, assign=True)
    return model.eval()


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


def _unshare_memory(
    state: Mapping[str, Tensor], dtype: torch.dtype | None, kept: Iterable[Tensor]
) -> dict[str, Tensor]:
    """The tensors contiguous, of one floating-point type and sharing no memory."""
    owned: dict[str, Tensor] = {}
    dtype = _find_widest(state.values()) if dtype is None else dtype
    seen = {value.untyped_storage().data_ptr() for value in kept}
    for key, value in state.items():
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        value = value.contiguous()
        memory = value.untyped_storage()
        if memory.data_ptr() in seen or memory.nbytes() != value.nbytes:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        owned[key] = value
    return owned


def _find_widest(tensors: Iterable[Tensor]) -> torch.dtype | None:
    """The floating-point type that holds the numbers of all weights; None without any."""
    types = {value.dtype for value in tensors if value.is_floating_point() and value.ndim}
    return functools.reduce(torch.promote_types, types) if types else None


def fit_positions(
    state: Mapping[str, Tensor], config: CLIPConfig, *, grid: Grid | None = None
) -> dict[str, Tensor]:
    """The state with position tables of the config's sizes.

    Tables of images are interpolated in two dimensions (bicubic, antialiased; CoreNet's along the
    sequence) or computed again (sines and cosines), tables of text are interpolated linearly. A
    table that is not of a square grid stays as it is.

    Args:
        state: Weights under our names.
        config: Config of the model that is to load them.
        grid: Rows and columns of the image tower's table where they are known; a table of another
            length is taken for a square.
    """
    fitted, vision = dict(state), config.vision
    table = fitted.get("positional_embedding")
    if table is not None and table.ndim == 2 and len(table):
        fitted["positional_embedding"] = resize_sequence(table, config.text.context_length)
    if isinstance(vision, ViTConfig):
        key, wanted = "visual.positional_embedding", vision.grid
        first = int(vision.class_token and vision.class_position)
    elif isinstance(vision, ModifiedResNetConfig):
        key, wanted, first = "visual.attnpool.positional_embedding", vision.grid, 1
    else:
        return fitted
    table = fitted.get(key)
    if table is None or table.ndim != 2:
        return fitted
    count = len(table) - first
    if grid is None or grid[0] * grid[1] != count:
        grid = (round(max(0, count) ** 0.5),) * 2
    if count > 0 and grid != wanted and grid[0] * grid[1] == count:
        fitted[key] = torch.cat([table[:first], _resize(table[first:], grid, wanted, vision)])
    return fitted


def _resize(
    table: Tensor, old: Grid, new: Grid, config: ViTConfig | ModifiedResNetConfig
) -> Tensor:
    """(rows * columns, D) of the old grid to the new one, by the interpolation of the tower."""
    if isinstance(config, ViTConfig) and config.position == "sin_cos":
        return make_sin_cos_table(config.width, new).to(table)
    if isinstance(config, ViTConfig) and config.position_interpolation == "flattened":
        return resize_sequence(table, new[0] * new[1])
    bilinear = isinstance(config, ViTConfig) and config.position_interpolation == "bilinear"
    return resize_grid(table, old, new, "bilinear" if bilinear else "bicubic")
