"""A model's parameters by tower and depth, for locking and layer-wise decay."""

from __future__ import annotations

import re
import types

from torch import nn

SCALARS = ("logit_scale", "logit_bias")
# Parameters after a tower's last block, in any of the families.
_HEAD = re.compile(
    r"^(ln_post|ln_final|proj|proj_bias|attnpool|attn_pool|head|text_projection|norm|fc_norm|pool)\b"
)
_BLOCK = re.compile(r"(?:^|\.)(?:resblocks|blocks|layers?|stages|layer)\.?(\d+)\.")


def tower_groups(model: nn.Module) -> dict[str, list[list[str]]]:
    """Names of the parameters of `image` and `text`, from the input to the output.

    The first group is everything before the blocks, then comes one group a block, and the last is
    everything after them. The logit scale and bias belong to no tower.
    """
    groups: dict[str, dict[int, list[str]]] = {"image": {}, "text": {}}
    for name, _ in model.named_parameters():
        if name in SCALARS:
            continue
        tower = "image" if name.startswith("visual.") else "text"
        depth = _depth(name.removeprefix("visual.").removeprefix("text."))
        groups[tower].setdefault(depth, []).append(name)
    return {tower: [found[depth] for depth in sorted(found)] for tower, found in groups.items()}


def _depth(name: str) -> int:
    """Order of a parameter within its tower: -1 before the blocks, a large number after them."""
    if block := _BLOCK.search(name):
        return int(block[1])
    return 10**6 if _HEAD.match(name) else -1


def lock_tower(model: nn.Module, tower: str, *, unlocked_groups: int) -> None:
    """Freeze a tower except for its last groups; frozen BatchNorm layers keep their statistics.

    Args:
        model: A CLIP model.
        tower: `image` or `text`.
        unlocked_groups: Groups of `tower_groups` at its end that stay trainable.
    """
    groups = tower_groups(model)[tower]
    frozen = {name for group in groups[: max(0, len(groups) - unlocked_groups)] for name in group}
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{name}.weight" in frozen:
            module.eval()
            module.train = types.MethodType(_keep_mode, module)  # type: ignore[method-assign]


def _keep_mode(module: nn.Module, mode: bool = True) -> nn.Module:
    """In place of `train`: the module stays in evaluation mode."""
    return module
