"""The process group of `torchrun`, where it started this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed
from clip_models.command_line import Launch, LaunchError, read_launch


@contextmanager
def join_processes() -> Iterator[Launch]:
    """Join the process group of `torchrun`; a single process without it.

    Raises:
        LaunchError: It cannot be joined.
    """
    launch = read_launch()
    if launch.world_size == 1:
        yield launch
        return
    try:
        torch.distributed.init_process_group("gloo")
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise LaunchError(
            f"process {launch.rank} of {launch.world_size} cannot join the others ({reason}); "
            "unset WORLD_SIZE to evaluate in one process"
        ) from error
    try:
        yield launch
        torch.distributed.barrier()  # nobody closes connections that another rank still uses
    finally:
        torch.distributed.destroy_process_group()
