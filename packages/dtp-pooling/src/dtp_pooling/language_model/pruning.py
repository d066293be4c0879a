"""A smaller language model out of a trained one (extra `pruning`).

The pruner is found under the name `largest` in the entry-point group `dtp_pooling.pruning`, which
osf-supernet registers: a callable that takes a model, its inputs by name and the size to keep of
every kind of dimension (`mlp`, `heads`), and gives the smaller model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import nn

from dtp_pooling.language_model.config import LanguageModelConfig
from dtp_pooling.language_model.model import DynamicPoolingLM

_LENGTH = 32  # of the text that the model is traced on


def prune(model: DynamicPoolingLM, config: LanguageModelConfig) -> DynamicPoolingLM:
    """The model of `config` with the weights of the trained one's largest heads and hidden units.

    Largest in the sum of squares of all weights that belong to them.

    Args:
        model: Trained.
        config: Its configuration but for `feedforward` and `num_heads`, which may be smaller.

    Raises:
        ValueError: The configurations differ in more than that.
        ModuleNotFoundError: No installed package prunes.
    """
    sizes: dict[str, Any] = {"feedforward": config.feedforward, "num_heads": config.num_heads}
    if dataclasses.replace(model.config, **sizes) != config:
        raise ValueError(
            f"pruning changes feedforward and num_heads only: from {model.config} to {config}; "
            "give the new model the other settings of the trained one"
        )
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocabulary, (2, _LENGTH), generator=generator)
    inputs = {"tokens": tokens, "max_segments": _LENGTH + 1}
    kept = {"mlp": config.feedforward, "heads": config.num_heads}
    small = DynamicPoolingLM(config)
    small.load_state_dict(_find_pruner()(model.eval(), inputs, kept).state_dict())
    return small.eval()


def _find_pruner() -> Callable[[nn.Module, Mapping[str, Any], Mapping[str, int]], nn.Module]:
    found = entry_points(group="dtp_pooling.pruning", name="largest")
    if not found:
        raise ModuleNotFoundError(
            "no installed package prunes models; pip install 'dtp-pooling[pruning]'",
            name="osf_supernet",
        )
    (entry,) = found
    pruner: Callable[..., nn.Module] = entry.load()
    return pruner
