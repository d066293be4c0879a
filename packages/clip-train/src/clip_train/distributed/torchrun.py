"""Several processes started by torchrun: replicated parameters (DDP) or sharded ones (FSDP2)."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from clip_models.command_line import read_launch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from clip_train.distributed.single import ReplicatedParameters, total_squared_norm
from clip_train.errors import BackendError


class _TorchrunBackend:
    """Processes of one `torch.distributed` group; subclasses say how parameters are held."""

    name: str
    needs_fixed_shapes = False

    def __init__(self, device: torch.device, *, timeout_s: float) -> None:
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR") if name not in os.environ]
        if missing:
            raise BackendError(
                f"{', '.join(missing)} not set; start the run with "
                "`torchrun --nproc-per-node N -m clip_train …`"
            )
        launch = read_launch()
        if device.type == "cuda":
            device = torch.device("cuda", launch.local_rank)
            torch.cuda.set_device(device)
        self.device = device
        # Gloo also carries tensors on the CPU next to NCCL, so that flags wait for no kernel.
        names = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(names, timeout=datetime.timedelta(seconds=timeout_s))
        except (RuntimeError, ValueError) as error:
            raise BackendError(
                f"process {launch.rank} of {launch.world_size} cannot reach the others: "
                f"{str(error).splitlines()[0]}"
            ) from error
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.any_rank([False])  # no rank may leave before all have joined

    def all_gather(self, x: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The tensors of all ranks; shorter ones travel padded."""
        if not x.is_contiguous() or len(x) < max(counts):
            padded = x.new_zeros(max(counts), *x.shape[1:])
            padded[: len(x)] = x
            x = padded
        received = [torch.empty_like(x) for _ in counts]
        dist.all_gather(received, x)
        return [part[:count] for part, count in zip(received, counts, strict=True)]

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over ranks."""
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    def ring_shift(self, x: Tensor, rows: int) -> Tensor:
        """The next rank's tensor."""
        if self.world_size == 1:
            return x
        received = x.new_empty(rows, *x.shape[1:])
        before, after = (self.rank - 1) % self.world_size, (self.rank + 1) % self.world_size
        send = dist.P2POp(dist.isend, x.contiguous(), before)
        receive = dist.P2POp(dist.irecv, received, after)
        for work in dist.batch_isend_irecv([send, receive]):
            work.wait()
        return received

    def any_rank(self, flags: Sequence[bool]) -> list[bool]:
        """Which flags are set on some rank; decided on the CPU."""
        values = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return [bool(value) for value in values.tolist()]

    def all_gather_object(self, value: Any) -> list[Any]:
        """The values of all ranks, sent as JSON over the CPU."""
        text = torch.frombuffer(bytearray(json.dumps(value), "utf-8"), dtype=torch.uint8)
        lengths = self.all_gather(torch.tensor([len(text)]), [1] * self.world_size)
        texts = self.all_gather(text, torch.cat(lengths).tolist())
        return [json.loads(bytes(part.tolist())) for part in texts]

    def end_step(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()


class DDPBackend(ReplicatedParameters, _TorchrunBackend):
    """Every process holds all parameters."""

    name = "ddp"

    def wrap(self, towers: nn.Module) -> nn.Module:
        """The module in DistributedDataParallel.

        `find_unused_parameters` lets towers be locked and the logit bias be unused. It also keeps
        the gradient buckets: otherwise they are rebuilt after the first backward, and a resumed run
        would add gradients in another order than the run that it continues. One parameter is
        unused on purpose: without any, the flag would draw a warning.
        """
        if self.world_size == 1:
            return towers
        unused = nn.Parameter(torch.zeros((), device=self.device))
        towers.register_parameter("never_used", unused)
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(towers, device_ids=devices, find_unused_parameters=True)

    @contextmanager
    def gradient_sync(self, towers: nn.Module, enabled: bool) -> Iterator[None]:
        """Without it gradients add up on each rank."""
        if enabled or not isinstance(towers, DistributedDataParallel):
            yield
        else:
            with towers.no_sync():
                yield

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """DistributedDataParallel has reduced them in the backward pass."""


class FSDP2Backend(_TorchrunBackend):
    """Parameters, gradients and optimizer state are sharded; blocks are gathered as they are used.

    Parameters without dimensions (logit scale and bias) cannot be sharded: every rank has them.
    """

    name = "fsdp2"

    def wrap(self, towers: nn.Module) -> nn.Module:
        """The module, sharded in place: every block of a stack, and the rest of it."""
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        towers.to(memory_format=torch.contiguous_format)  # FSDP supports no other
        scalars = {parameter for parameter in towers.parameters() if parameter.ndim == 0}
        stacks = [module for module in towers.modules() if isinstance(module, nn.ModuleList)]
        for stack in reversed(stacks):  # inner ones first
            for block in stack:
                fully_shard(block, mesh=mesh)
        fully_shard(towers, mesh=mesh, ignored_params=scalars)
        return towers

    @contextmanager
    def gradient_sync(self, towers: nn.Module, enabled: bool) -> Iterator[None]:
        """Without it gradients add up unsharded on each rank."""
        assert isinstance(towers, FSDPModule)
        towers.set_requires_gradient_sync(enabled)
        yield

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Reduce those of scalars, which FSDP ignores."""
        for parameter in parameters:
            if not isinstance(parameter, DTensor) and parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world_size

    def squared_norm(self, tensors: list[Tensor]) -> Tensor:
        """Sum () of squares over all shards."""
        shards = [self.local_tensor(x) for x in tensors if isinstance(x, DTensor)]
        whole = [x for x in tensors if not isinstance(x, DTensor)]
        total = self.all_reduce(total_squared_norm([x for x in shards if x.numel()], self.device))
        return total + total_squared_norm(whole, self.device)

    def full_tensor(self, x: Tensor) -> Tensor:
        """All shards put together."""
        x = x.detach()
        return x.full_tensor() if isinstance(x, DTensor) else x

    def local_tensor(self, x: Tensor) -> Tensor:
        """This rank's shard."""
        return x.to_local() if isinstance(x, DTensor) else x

    def load_full_tensor(self, x: Tensor, value: Tensor) -> None:
        """Every rank copies its shard."""
        with torch.no_grad():
            if isinstance(x, DTensor):
                value = distribute_tensor(value.to(x.device), x.device_mesh, x.placements)
            x.copy_(value)
