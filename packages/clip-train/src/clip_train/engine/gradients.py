"""The gradient of a whole batch, computed in as many parts as memory asks for.

n images and u texts of this rank, N images of all ranks, E embedding width.

With one part this is forward, loss, backward.  With several, embeddings are computed part by part
without a graph, the loss and its gradient are taken on the embeddings of the whole batch, and then
every part is computed again, with the same randomness, to carry that gradient into the towers (Gao
et al. 2021, GradCache, here for both towers).  The result is the whole batch's gradient: that of
the logit scale is taken once, and no part forgets what the others contain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_train.distributed.protocol import Backend
from clip_train.objectives.batch import Embeddings, Objective, StepInputs
from clip_train.objectives.candidates import Candidates


class _Part(NamedTuple):
    """Some rows of a batch, and the share of all ranks' rows that they are."""

    inputs: StepInputs
    image_rows: slice
    text_rows: slice
    image_share: float
    text_share: float


class WholeBatchGradient:
    """`compute(inputs, objective)` leaves gradients in the parameters, the mean over ranks of
    `world` times the shares: the gradient of the whole batch's loss.
    """

    def __init__(
        self,
        towers: nn.Module,
        backend: Backend,
        *,
        parts: int = 1,
        autocast: torch.dtype | None = None,
    ) -> None:
        """Args:
        towers: A `Towers`, as the backend wrapped it.
        backend: Where it lives.
        parts: Parts of equal size that a rank's batch is computed in.
        autocast: Type that the towers compute in; None leaves theirs.
        """
        self.towers = towers
        self.backend = backend
        self.parts = parts
        self.autocast = autocast
        self.records: dict[str, Tensor] = {}
        """This rank's share () of the numbers to log of the last batch."""

    def compute(
        self, inputs: StepInputs, objective: Objective, *, loss_scale: float = 1.0
    ) -> dict[str, Tensor]:
        """Gradients times `loss_scale` into `.grad`; this rank's share () of every loss."""
        self.records = {}
        parts = list(_split(inputs, self.parts))
        # Wrappers average over ranks; shares are meant to be added.
        factor = loss_scale * self.backend.world_size
        if len(parts) == 1:
            losses = self._at_once(parts[0], objective, factor)
        else:
            losses = self._in_parts(parts, inputs.candidates, objective, factor)
        self.backend.reduce_gradients(self.towers.parameters())
        return losses

    def _at_once(self, part: _Part, objective: Objective, factor: float) -> dict[str, Tensor]:
        with self.backend.gradient_sync(self.towers, True):
            embeddings, auxiliary = self._embed(part)
            losses = objective(embeddings, part.inputs.candidates) | auxiliary
            # An output that the loss does not use would leave DistributedDataParallel waiting.
            unused = sum(0 * x for x in embeddings[2:] if x is not None)
            _backward(factor * _total(losses) + unused)
        return _detached(losses)

    def _in_parts(
        self, parts: list[_Part], candidates: Candidates, objective: Objective, factor: float
    ) -> dict[str, Tensor]:
        states, features = [], []
        with torch.no_grad():
            for part in parts:
                states.append(_random_state(self.backend.device))
                features.append(self._embed(part)[0])
        whole = Embeddings(
            torch.cat(
                [x.images[: _length(p.image_rows)] for x, p in zip(features, parts, strict=True)]
            ),
            torch.cat(
                [x.texts[: _length(p.text_rows)] for x, p in zip(features, parts, strict=True)]
            ),
            features[0].logit_scale,
            features[0].logit_bias,
        )
        leaves = [x.detach().requires_grad_() for x in whole if x is not None]
        losses = objective(Embeddings(*leaves, *[None] * (4 - len(leaves))), candidates)
        gradients = torch.autograd.grad(
            factor * _total(losses), leaves, allow_unused=True, materialize_grads=True
        )
        losses = _detached(losses)
        # The first part is never empty, so it comes last: then gradients are reduced.
        for number in reversed(range(len(parts))):
            part = parts[number]
            with (
                self.backend.gradient_sync(self.towers, number == 0),
                _restored(states[number], self.backend.device),
            ):
                embeddings, auxiliary = self._embed(part)
                surrogate = _inner(embeddings.images, gradients[0][part.image_rows])
                surrogate = surrogate + _inner(embeddings.texts, gradients[1][part.text_rows])
                if number == 0:
                    scalars = [x for x in embeddings[2:] if x is not None]
                    for value, gradient in zip(scalars, gradients[2:], strict=True):
                        surrogate = surrogate + value * gradient
                _backward(surrogate + factor * _total(auxiliary))
            for name, loss in _detached(auxiliary).items():
                losses[name] = losses[name] + loss if name in losses else loss
        return losses

    def _embed(self, part: _Part) -> tuple[Embeddings, dict[str, Tensor]]:
        """Normalized features of a part, and its share of the auxiliary losses."""
        inputs = part.inputs
        device, kind = self.backend.device.type, self.autocast
        with torch.autocast(device, kind, enabled=kind is not None):
            out = self.towers(inputs.images, inputs.tokens, inputs.image_keys, inputs.text_keys)
        auxiliary = {name: loss * part.image_share for name, loss in out.image_losses.items()}
        auxiliary |= {name: loss * part.text_share for name, loss in out.text_losses.items()}
        if torch.is_grad_enabled():  # once for each part
            for records, share in (
                (out.image_records, part.image_share),
                (out.text_records, part.text_share),
            ):
                for name, value in records.items():
                    self.records[name] = self.records.get(name, 0) + value * share
        embeddings = Embeddings(
            _unit(out.images), _unit(out.texts), out.logit_scale, out.logit_bias
        )
        return embeddings, auxiliary


def _split(inputs: StepInputs, parts: int) -> Iterator[_Part]:
    """Parts of a batch, the largest first; an empty one repeats a row that counts for nothing.

    Every rank calls its towers equally often, however few texts it has: sharded parameters are
    gathered by all ranks together.
    """
    candidates = inputs.candidates
    for number in range(parts):
        images = _piece(len(inputs.images), parts, number)
        texts = _piece(len(inputs.tokens), parts, number)
        some_images, some_texts = (_never_empty(rows) for rows in (images, texts))
        yield _Part(
            StepInputs(
                inputs.images[some_images],
                inputs.tokens[some_texts],
                inputs.image_keys[some_images],
                inputs.text_keys[some_texts],
                candidates,
            ),
            images,
            texts,
            _length(images) / candidates.num_images,
            _length(texts) / sum(candidates.text_counts),
        )


def _piece(rows: int, parts: int, number: int) -> slice:
    """The rows of a part; sizes differ by at most one, larger ones first."""
    size, longer = divmod(rows, parts)
    start = number * size + min(number, longer)
    return slice(start, start + size + (number < longer))


def _never_empty(rows: slice) -> slice:
    return rows if _length(rows) else slice(0, 1)


def _length(rows: slice) -> int:
    return rows.stop - rows.start


def _inner(features: Tensor, gradient: Tensor) -> Tensor:
    """Sum () of products; rows beyond the gradient's count for nothing."""
    return (features[: len(gradient)] * gradient).sum()


def _unit(features: Tensor) -> Tensor:
    """Rows of length 1, in fp32 at least."""
    half = features.dtype in (torch.bfloat16, torch.float16)
    return F.normalize(features.float() if half else features, dim=-1)


def _total(losses: Mapping[str, Tensor]) -> Any:
    """Their sum (), a tensor; the number 0 for none."""
    return sum(losses.values())


def _detached(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: loss.detach() for name, loss in losses.items()}


def _backward(loss: Tensor) -> None:
    torch.autograd.backward(loss)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """State of torch's global generators, for modules that draw from them."""
    of_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), of_device


@contextmanager
def _restored(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """The generators as they were then; afterwards as they are now."""
    now = _random_state(device)
    _set_random_state(state, device)
    try:
        yield
    finally:
        _set_random_state(now, device)


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
