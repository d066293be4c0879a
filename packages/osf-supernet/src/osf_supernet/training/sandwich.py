"""One training step of a supernet: largest, smallest and random subnets on shared weights.

The sandwich rule and in-place distillation are those of universally slimmable networks (Yu and
Huang 2019): the largest network learns from the data, the others also from what the largest
computed in the same step, and the gradients of all of them add up before one optimizer step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils import _pytree as pytree

from osf_supernet.subnets.planning import Config
from osf_supernet.supernet import Supernet
from osf_supernet.training.batch_norm import frozen_statistics
from osf_supernet.training.processes import rank_and_world
from osf_supernet.training.tasks import Task


class Sandwich:
    """Gradients of training steps, for any loop with any optimizer.

        sandwich = Sandwich(net, Classification())
        for step, batch in enumerate(batches):
            optimizer.zero_grad()
            losses = sandwich.backward(batch, step)
            optimizer.step()

    What a step samples is a function of the seed and the step alone: the same on all ranks, and
    after a resume. Nothing needs to be saved but the model, the optimizer and the step.

    Attributes:
        net: the supernet; `net.model` holds all weights.
        task: loss and distillation.
        num_random: random subnets per step, besides the largest and the smallest.
        seed: of the sampling.
        max_params: bound of the random subnets, as in `Supernet.sample`.

    Raises:
        ValueError: num_random is below 0, or the weights are in float16.
    """

    def __init__(
        self,
        net: Supernet,
        task: Task,
        *,
        num_random: int = 2,
        seed: int = 0,
        max_params: float | None = None,
    ) -> None:
        if num_random < 0:
            raise ValueError(f"num_random must be at least 0, got {num_random}")
        _require_trainable_precision(net.model)
        self.net, self.task = net, task
        self.num_random, self.seed, self.max_params = num_random, seed, max_params

    def configs(self, step: int) -> list[Config]:
        """The subnets of a step, the largest first."""
        return sandwich_configs(
            self.net,
            step,
            num_random=self.num_random,
            seed=self.seed,
            max_params=self.max_params,
        )

    def backward(
        self, batch: Any, step: int, backward: Callable[[Tensor], object] = Tensor.backward
    ) -> list[Tensor]:
        """Add the gradients of every subnet of a step to the model's parameters.

        With an initialized process group each rank brings its part of the batch, and the
        gradients are averaged over ranks once, at the end.

        Args:
            batch: in the form the task takes.
            step: which step it is.
            backward: what to do with each loss (a gradient scaler's, for example).

        Returns:
            The detached losses, in the order of `configs`.
        """
        teacher, losses = None, []
        for config in self.configs(step):
            # Running statistics are those of the largest; subnets get theirs by recalibration.
            statistics = nullcontext() if teacher is None else frozen_statistics(self.net.model)
            with statistics, self.net.training(config):
                loss, outputs = self.task(self.net.model, batch, teacher)
                backward(loss)
            if teacher is None:
                teacher = pytree.tree_map_only(Tensor, Tensor.detach, outputs)
            losses.append(loss.detach())
        average_gradients(self.net.model)
        return losses


def _require_trainable_precision(model: nn.Module) -> None:
    """Refuse weights in float16, which lose small updates and overflow.

    Raises:
        ValueError: some weight that is trained is.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype is torch.float16:
            raise ValueError(
                f"weights must be float32 or bfloat16 to be trained, got float16 ({name}): call "
                "model.float() before Supernet(model, ...), and run the task under torch.autocast"
            )


def sandwich_configs(
    net: Supernet, step: int, *, num_random: int, seed: int = 0, max_params: float | None = None
) -> list[Config]:
    """The subnets of a step: largest, smallest, random ones; a function of seed and step alone."""
    random = [
        net.sample(seed=f"{seed}/{step}/{index}", max_params=max_params)
        for index in range(num_random)
    ]
    return [net.largest, net.smallest, *random]


def average_gradients(model: nn.Module) -> None:
    """The mean of the gradients over all ranks, in place; nothing without a process group."""
    world = rank_and_world()[1]
    if world == 1:
        return
    by_type: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.grad is not None:
            gradient = parameter.grad
            by_type.setdefault((gradient.dtype, gradient.device), []).append(gradient)
    for gradients in by_type.values():
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= world
        means = flat.split_with_sizes([gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
