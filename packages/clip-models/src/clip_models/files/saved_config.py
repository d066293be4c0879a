"""The config that a model is saved with, or the parts of the model that no config can say."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clip_models.config.clip_config import CLIPConfig
from clip_models.errors import CheckpointError
from clip_models.model.clip import CLIP
from clip_models.model.measured_config import measure_config

_SETTINGS = ("eps", "num_heads", "head_width", "approximate", "stride", "padding", "groups")
"""Attributes of modules that change what is computed and are in no weight."""
_REMEDIES = (
    (("_orig_mod.",), "save the modules that were compiled instead of the compiled ones"),
    (("lora_", "base_layer"), "merge the adapters into the weights, as peft's merge_and_unload"),
    (
        ("parametrizations.", "weight_g", "weight_v", "_orig"),
        "make the weights plain, as torch.nn.utils.parametrize.remove_parametrizations",
    ),
)
_OTHER_REMEDY = "save other parts in a file of their own (torch.save) and remove them"


def find_saved_config(model: CLIP) -> CLIPConfig:
    """The config with which the saved weights make the same model again.

    Sizes are those of the weights: layers, heads, hidden units, widths, vocabulary, positions,
    embedding space.

    Raises:
        CheckpointError: The model has parts that no config can say, which are named, or weights
            that are no plain tensors.
    """
    config = measure_config(model)
    with torch.device("meta"):
        expected = CLIP(config)
    state, wanted = model.state_dict(), expected.state_dict()
    faults = [
        *(f"{name} is in no config" for name in state if name not in wanted),
        *(f"{name} is missing" for name in wanted if name not in state),
        *_compare_values(state, wanted),
        *_compare_settings(model, expected),
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(
            f"the model cannot be saved: {'; '.join(faults[:3])}{more}; {_find_remedy(faults)}"
        )
    return config


def _compare_values(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> Iterator[str]:
    """Shapes that differ, and tensors that a file cannot hold as they are."""
    for name, value in state.items():
        if name not in wanted:
            continue
        if value.shape != wanted[name].shape:
            shapes = tuple(value.shape), tuple(wanted[name].shape)
            yield f"{name} is {shapes[0]}, expected {shapes[1]} beside the others"
        if value.is_meta:
            yield f"{name} has no numbers, it is on the meta device"
        elif type(value) not in (Tensor, nn.Parameter) or value.is_quantized or value.is_sparse:
            kind = "quantized" if value.is_quantized else type(value).__name__
            yield f"{name} is no plain tensor ({kind})"


def _compare_settings(model: nn.Module, expected: nn.Module) -> Iterator[str]:
    """Modules of another kind or with other settings than the config's."""
    modules = dict(model.named_modules())
    for name, theirs in expected.named_modules():
        ours = modules.get(name)
        if ours is None:
            continue  # its weights are missing, if it has any
        norms = isinstance(ours, _BatchNorm) and isinstance(theirs, _BatchNorm)
        if not isinstance(ours, type(theirs)) and not norms:
            yield f"{name} is a {type(ours).__name__}, expected {type(theirs).__name__}"
            continue
        for setting in _SETTINGS:
            pair = getattr(ours, setting, None), getattr(theirs, setting, None)
            if pair[0] != pair[1]:
                yield f"{name} has {setting} {pair[0]}, expected {pair[1]}"


def _find_remedy(faults: list[str]) -> str:
    """What to do about the first kind of fault that is known."""
    for words, remedy in _REMEDIES:
        if any(word in fault.split()[0] for fault in faults for word in words):
            return remedy
    return _OTHER_REMEDY
