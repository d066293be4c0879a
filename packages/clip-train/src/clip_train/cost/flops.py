"""Cost of training, counted in advance: tokens, FLOPs and memory of one pair.

The model runs forward and backward on PyTorch's meta device, which has shapes but no numbers, under
PyTorch's FLOP counter: a multiply and an add are two FLOPs; elementwise work, norms and softmax are
not counted. The tensors that autograd keeps are added up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from clip_models import CLIP, CLIPConfig
from osf_supernet import count_parameters
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from clip_train.cost.assumptions import Accelerators

PAIRS = 2
"""Number of pairs in the counted batch, the fewest that a tower with batch norm accepts."""


class PairCost(NamedTuple):
    """Cost of one image–caption pair in a training step."""

    image_tokens: int  # at the image tower's first layer, with the class token; 0: no transformer
    text_tokens: int
    image_flops: float  # forward, image tower
    text_flops: float  # forward, text tower
    training_flops: float  # forward and backward, both towers
    activation_bytes: float  # kept for the backward pass, fp32


class RunCost(NamedTuple):
    """Cost of a whole run, which is taken to be compute-bound, with the towers as its only work."""

    parameters: int
    state_bytes: float  # fp32 weights, gradients and two AdamW moments
    training_flops: float
    days: float
    accelerator_hours: float
    price: float


def pair_cost(
    config: CLIPConfig,
    *,
    image_size: int,
    caption_tokens: int,
    gradient_checkpointing: bool = False,
) -> PairCost:
    """Cost of one pair in a training step, without the loss.

    Args:
        config: The model.
        image_size: Side of the images in pixels.
        caption_tokens: Number of positions that the text tower computes for a caption.
        gradient_checkpointing: Recompute layers in the backward pass.
    """
    with torch.device("meta"):
        model = CLIP(config)
    model.set_gradient_checkpointing(gradient_checkpointing)
    images = torch.empty(PAIRS, 3, image_size, image_size, device="meta")
    tokens = torch.empty(PAIRS, caption_tokens, dtype=torch.long, device="meta")
    kept, image_tokens = _KeptBytes(model), _TokenCount(model.visual)
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            image_features = model.encode_image(images)
            image_flops = counter.get_total_flops()
            text_features = model.encode_text(tokens)
            text_flops = counter.get_total_flops() - image_flops
        torch.autograd.backward(image_features.sum() + text_features.sum())
        training_flops = counter.get_total_flops()
    return PairCost(
        image_tokens.number,
        caption_tokens,
        image_flops / PAIRS,
        text_flops / PAIRS,
        training_flops / PAIRS,
        kept.total / PAIRS,
    )


def run_cost(
    config: CLIPConfig, cost: PairCost, *, pairs: float, accelerators: Accelerators
) -> RunCost:
    """Cost of training on `pairs` image–caption pairs."""
    with torch.device("meta"):
        model = CLIP(config)
    parameters = count_parameters(model)
    flops = cost.training_flops * pairs
    rate = accelerators.number * accelerators.peak_tflops * 1e12 * accelerators.utilization
    hours = flops / rate / 3600
    return RunCost(
        parameters=parameters,
        state_bytes=16.0 * parameters,
        training_flops=flops,
        days=hours / 24,
        accelerator_hours=hours * accelerators.number,
        price=hours * accelerators.number * accelerators.price_per_hour,
    )


class _TokenCount:
    """Number of tokens at the first layer of a transformer; 0 for another network."""

    def __init__(self, tower: nn.Module) -> None:
        self.number = 0
        transformer = getattr(tower, "transformer", None)
        if transformer is not None:
            transformer.resblocks[0].register_forward_pre_hook(self._see)

    def _see(self, layer: nn.Module, given: tuple[Any, ...]) -> None:
        self.number = given[0].shape[1]


class _KeptBytes:
    """Bytes of the storages that autograd keeps, each counted once, without parameters."""

    def __init__(self, model: nn.Module) -> None:
        self.total = 0
        self._tensors: list[Tensor] = list(model.parameters())  # alive, so that no id is reused
        self._seen = {_storage_id(parameter) for parameter in self._tensors}

    def pack(self, tensor: Tensor) -> Tensor:
        if _storage_id(tensor) not in self._seen:
            self._seen.add(_storage_id(tensor))
            self._tensors.append(tensor)
            self.total += tensor.untyped_storage().nbytes()
        return tensor


def _storage_id(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
