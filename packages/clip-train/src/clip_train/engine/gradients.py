"""The gradient of a whole batch, computed in one or several micro-batches.

n images and u texts of this rank, N images of all ranks, E embedding width.

With one micro-batch this is forward, loss, backward. With several, embeddings are computed without
a graph, the loss and its gradient are taken on the embeddings of the whole batch, and then every
micro-batch is computed again, with the same randomness, to carry that gradient into the towers (Gao
et al. 2021, GradCache, here for both towers). The result is the gradient of the whole batch: the
logit scale's is taken once, and every micro-batch is contrasted with all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_train.distributed.protocol import Backend
from clip_train.model.towers import TowerFeatures
from clip_train.objectives.batch import Embeddings, Objective, StepInputs
from clip_train.objectives.candidates import Candidates

_RandomState = tuple[Tensor, Tensor | None]
"""Of the CPU's generator, and of the device's if it has one."""


class _MicroBatch(NamedTuple):
    """Some rows of this rank's batch, and their share of the rows of all ranks."""

    inputs: StepInputs
    num_images: int  # that count; an empty micro-batch holds one more row, which does not
    num_texts: int
    image_share: float
    text_share: float


class WholeBatchGradient:
    """`compute(inputs, objective)` leaves the gradient of the whole batch's loss in the parameters.

    Ranks compute shares of the loss that add up to it, and backends average gradients over ranks,
    so that every share is multiplied by the world size.
    """

    def __init__(
        self,
        towers: nn.Module,
        backend: Backend,
        *,
        grad_accum_steps: int = 1,
        autocast: torch.dtype | None = None,
    ) -> None:
        """Wrap towers.

        Args:
            towers: A `Towers`, as the backend wrapped it.
            backend: Device and processes.
            grad_accum_steps: Micro-batches that a rank's batch is computed in.
            autocast: Type that the towers compute in; None leaves that of their weights.
        """
        self.towers = towers
        self.backend = backend
        self.grad_accum_steps = grad_accum_steps
        self.autocast = autocast
        self.records: dict[str, Tensor] = {}
        """This rank's share () of the numbers of the last batch to log."""

    def set_step(self, step: int) -> None:
        """The number of the next step, for gradients that depend on it; this one does not."""

    def compute(
        self, inputs: StepInputs, objective: Objective, *, loss_scale: float = 1.0
    ) -> dict[str, Tensor]:
        """Gradients times `loss_scale` into `.grad`; this rank's share () of every loss."""
        self.records = {}
        batches = list(_split(inputs, self.grad_accum_steps))
        factor = loss_scale * self.backend.world_size
        if len(batches) == 1:
            losses = self._compute_at_once(batches[0], objective, factor)
        else:
            losses = self._compute_in_micro_batches(batches, inputs.candidates, objective, factor)
        self.backend.reduce_gradients(self.towers.parameters())
        return losses

    def _compute_at_once(
        self, batch: _MicroBatch, objective: Objective, factor: float
    ) -> dict[str, Tensor]:
        with self.backend.gradient_sync(self.towers, True):
            embeddings, auxiliary = self._embed(batch)
            losses = objective(embeddings, batch.inputs.candidates) | auxiliary
            # An output that the loss does not use would leave DistributedDataParallel waiting.
            unused = sum(0 * x for x in embeddings[2:] if x is not None)
            torch.autograd.backward(factor * _total(losses) + unused)
        return _detach(losses)

    def _compute_in_micro_batches(
        self,
        batches: list[_MicroBatch],
        candidates: Candidates,
        objective: Objective,
        factor: float,
    ) -> dict[str, Tensor]:
        states, whole = self._embed_without_graph(batches)
        leaves = [x.detach().requires_grad_() for x in whole if x is not None]
        losses = objective(Embeddings(*leaves, *[None] * (4 - len(leaves))), candidates)
        gradients = torch.autograd.grad(
            factor * _total(losses), leaves, allow_unused=True, materialize_grads=True
        )
        image_gradients, text_gradients = (x.tensor_split(len(batches)) for x in gradients[:2])
        losses = _detach(losses)
        # The first micro-batch is never empty, so it comes last: then gradients are reduced.
        for number in reversed(range(len(batches))):
            batch, is_last = batches[number], number == 0
            with (
                self.backend.gradient_sync(self.towers, is_last),
                _restore_random_state(states[number], self.backend.device),
            ):
                embeddings, auxiliary = self._embed(batch)
                surrogate = _inner(embeddings.images, image_gradients[number])
                surrogate = surrogate + _inner(embeddings.texts, text_gradients[number])
                if is_last:
                    scalars = [x for x in embeddings[2:] if x is not None]
                    for value, gradient in zip(scalars, gradients[2:], strict=True):
                        surrogate = surrogate + value * gradient
                torch.autograd.backward(surrogate + factor * _total(auxiliary))
            for name, loss in _detach(auxiliary).items():
                losses[name] = losses[name] + loss if name in losses else loss
        return losses

    @torch.no_grad()
    def _embed_without_graph(
        self, batches: list[_MicroBatch]
    ) -> tuple[list[_RandomState], Embeddings]:
        """The random state before each micro-batch, and the embeddings of all of them."""
        states, images, texts = [], [], []
        for batch in batches:
            states.append(_random_state(self.backend.device))
            embeddings, _ = self._embed(batch)
            images.append(embeddings.images[: batch.num_images])
            texts.append(embeddings.texts[: batch.num_texts])
        scale, bias = embeddings.logit_scale, embeddings.logit_bias
        return states, Embeddings(torch.cat(images), torch.cat(texts), scale, bias)

    def _embed(self, batch: _MicroBatch) -> tuple[Embeddings, dict[str, Tensor]]:
        """Normalized features of a micro-batch, and its share of the auxiliary losses."""
        inputs = batch.inputs
        device, kind = self.backend.device.type, self.autocast
        with torch.autocast(device, kind, enabled=kind is not None):
            out = self.towers(inputs.images, inputs.tokens, inputs.image_keys, inputs.text_keys)
        auxiliary = {name: loss * batch.image_share for name, loss in out.image_losses.items()}
        auxiliary |= {name: loss * batch.text_share for name, loss in out.text_losses.items()}
        if torch.is_grad_enabled():  # once for each micro-batch
            for records, share in (
                (out.image_records, batch.image_share),
                (out.text_records, batch.text_share),
            ):
                for name, value in records.items():
                    self.records[name] = self.records.get(name, 0) + value * share
        return normalized_embeddings(out), auxiliary


def normalized_embeddings(out: TowerFeatures) -> Embeddings:
    """What objectives take, from what towers return."""
    images, texts = _normalize(out.images), _normalize(out.texts)
    return Embeddings(images, texts, out.logit_scale, out.logit_bias)


def _split(inputs: StepInputs, count: int) -> Iterator[_MicroBatch]:
    """Micro-batches, the largest first; an empty one repeats a row that counts for nothing.

    Every rank calls its towers equally often, however few texts it has: sharded parameters are
    gathered by all ranks together.
    """
    tensors: list[Any] = [*inputs[:-1]]
    candidates = inputs.candidates
    for parts in zip(*(tensor.tensor_split(count) for tensor in tensors), strict=True):
        images, tokens, image_keys, text_keys = (
            part if len(part) else whole[:1] for part, whole in zip(parts, tensors, strict=True)
        )
        num_images, num_texts = len(parts[0]), len(parts[1])
        yield _MicroBatch(
            StepInputs(images, tokens, image_keys, text_keys, candidates),
            num_images,
            num_texts,
            num_images / candidates.num_images,
            num_texts / sum(candidates.text_counts),
        )


def _inner(features: Tensor, gradient: Tensor) -> Tensor:
    """Sum () of products; rows beyond the gradient's count for nothing."""
    return (features[: len(gradient)] * gradient).sum()


def _normalize(features: Tensor) -> Tensor:
    """Rows of length 1, in fp32 at least."""
    half = features.dtype in (torch.bfloat16, torch.float16)
    return F.normalize(features.float() if half else features, dim=-1)


def _total(losses: Mapping[str, Tensor]) -> Any:
    """Their sum (), a tensor; the number 0 for none."""
    return sum(losses.values())


def _detach(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: loss.detach() for name, loss in losses.items()}


def _random_state(device: torch.device) -> _RandomState:
    """State of torch's global generators, for modules that draw from them."""
    of_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), of_device


@contextmanager
def _restore_random_state(state: _RandomState, device: torch.device) -> Iterator[None]:
    """Inside, the generators continue from an earlier state; afterwards from where they are now."""
    with torch.random.fork_rng([] if state[1] is None else [device]):
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], device)
        yield
