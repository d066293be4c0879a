"""Other ways to a smaller CLIP: torch-pruning, and training a narrow one from scratch."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from cifar_task import Data, parts
from clip_models import CLIP
from clip_models.config import ViTConfig
from torch import nn


def pruned(model: CLIP, data: Data, most: int) -> nn.Module:
    """torch-pruning's magnitude pruning of a model to at most so many parameters.

    It prunes hidden units of MLPs and channels of convolutions, by the smallest ratio that
    suffices (in steps of one percent); attention here is one bare parameter for queries, keys
    and values, which it would cut along the wrong axis.
    """
    import torch_pruning

    warnings.filterwarnings("ignore", message=".*Unwrapped parameters.*")
    images, tokens = data(0)
    for percent in range(10, 95):
        other = CLIP(model.config)
        other.load_state_dict(model.state_dict())
        kept = [
            module
            for name, module in other.named_modules()
            if not list(module.children())
            and not name.endswith("mlp.c_fc")
            and not isinstance(module, nn.Conv2d | nn.BatchNorm2d)
        ]
        if isinstance(model.config.vision, ViTConfig):
            kept.append(other.get_submodule("visual.conv1"))
        pruner = torch_pruning.pruner.MagnitudePruner(
            other,
            (images[:2], tokens[:2]),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=percent / 100,
            ignored_layers=kept,
            round_to=4,
            output_transform=lambda out: out.image_features.sum() + out.text_features.sum(),
        )
        pruner.step()
        other(images[:2], tokens[:2])  # raises where what is left does not fit together
        if sum(parts(other)) <= most:
            return other
    raise RuntimeError("torch-pruning did not reach the target")


def narrow(model: CLIP, most: int, seed: int) -> CLIP:
    """A CLIP of at most so many parameters with new weights, both towers uniformly narrower."""
    config = model.config
    for scale in (1 - 0.01 * i for i in range(80)):
        vision: Any = config.vision
        if isinstance(vision, ViTConfig):
            vision = replace(vision, width=round(vision.width * scale / 4) * 4)
        else:
            vision = replace(vision, widths=tuple(round(w * scale) for w in vision.widths))
        text = replace(config.text, width=round(config.text.width * scale / 4) * 4)
        torch.manual_seed(seed)
        other = CLIP(replace(config, vision=vision, text=text))
        if sum(parts(other)) <= most:
            return other
    raise RuntimeError("no narrower model fits")
