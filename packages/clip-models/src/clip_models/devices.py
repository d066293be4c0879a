"""The device that a user names."""

from __future__ import annotations

import torch

from clip_models.errors import ConfigError


def choose_device(
    name: str, *, local_rank: int | None = None, setting: str = "--device"
) -> torch.device:
    """Return the device of that name; `auto` is CUDA if available, otherwise the CPU.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, `mps`, … or `auto`.
        local_rank: Index of the GPU that `auto` takes; None for the current one.
        setting: What the user calls the setting, for the error.

    Raises:
        ConfigError: The device cannot be used on this machine.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda") if local_rank is None else torch.device("cuda", local_rank)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"{setting} {name!r} cannot be used: {_reason(error)}; try cpu") from None
    return device


def _reason(error: Exception) -> str:
    """The first line of torch's message; of the list of all kinds of devices only the usual."""
    text = str(error).splitlines()[0]
    return "expected cpu, cuda, cuda:N, mps or auto" if text.startswith("Expected one of") else text
