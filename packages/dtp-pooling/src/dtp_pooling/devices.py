"""The device that a user names."""

from __future__ import annotations

import torch


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA if available, otherwise the CPU.

    Raises:
        ValueError: The device cannot be used on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        if reason.startswith("Expected one of"):  # and then torch's list of all kinds of devices
            reason = "expected cpu, cuda, cuda:N, mps or auto"
        raise ValueError(f"--device {name!r} cannot be used: {reason}; try cpu") from None
