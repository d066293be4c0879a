"""The precision of a run that leaves it to the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from clip_train.config.run import Config
from clip_train.distributed.protocol import Backend


def resolve_precision(config: Config, backend: Backend) -> Config:
    """The config with bf16 in place of `auto` where the devices of all ranks compute it, or fp32.

    A run is resumed with what its config says, on whatever machine.
    """
    if config.train.precision != "auto":
        return config
    lacks = backend.any_rank([not computes_bf16(backend.device)])[0]
    return replace(config, train=replace(config.train, precision="fp32" if lacks else "bf16"))


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; processors without compute it very slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    find: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    known = find() if device.type == "cpu" else {}  # older releases of torch know nothing
    return any(has for name, has in known.items() if "bf16" in name)
