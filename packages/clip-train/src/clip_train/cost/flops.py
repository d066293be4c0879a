"""What training costs, counted before anyone spends it: tokens, FLOPs and memory of one pair.

Nothing is estimated by formula: the model runs forward and backward on PyTorch's meta device, which
has shapes but no numbers, under its FLOP counter (a multiply and an add are two FLOPs; elementwise
work, norms and softmax are not counted), and the tensors that autograd keeps are added up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from clip_models import CLIP, CLIPConfig
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from clip_train.cost.assumptions import Accelerators

PAIRS = 2
"""Pairs that are counted together: as few as a tower with batch norm takes."""


class PairCost(NamedTuple):
    """One image–caption pair of a training step."""

    image_tokens: int  # into the image tower's first layer, class token included; 0: no transformer
    text_tokens: int
    image_flops: float  # forward, image tower
    text_flops: float  # forward, text tower
    training_flops: float  # forward and backward, both towers
    activation_bytes: float  # kept for the backward pass, fp32


class RunCost(NamedTuple):
    """A whole run on given accelerators; it is compute-bound, and nothing but the towers counts."""

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
    """Cost of one pair in a training step, the loss left out.

    Args:
        config: The model.
        image_size: Side of the images in pixels.
        caption_tokens: Positions of the text tower that are computed for a caption.
        gradient_checkpointing: Keep less and compute twice.
    """
    with torch.device("meta"):
        model = CLIP(config)
    model.set_gradient_checkpointing(gradient_checkpointing)
    images = torch.empty(PAIRS, 3, image_size, image_size, device="meta")
    tokens = torch.empty(PAIRS, caption_tokens, dtype=torch.long, device="meta")
    kept, image_tokens = _KeptBytes(model), _TokenCount(model.visual)
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
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
    parameters = sum(parameter.numel() for parameter in model.parameters())
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
    """Remembers how many tokens reach the first layer of a transformer; 0 for another network."""

    def __init__(self, tower: nn.Module) -> None:
        self.number = 0
        transformer = getattr(tower, "transformer", None)
        if transformer is not None:
            transformer.resblocks[0].register_forward_pre_hook(self._see)

    def _see(self, layer: nn.Module, given: tuple[Any, ...]) -> None:
        self.number = given[0].shape[1]


class _KeptBytes:
    """Adds up the storages that autograd keeps, each once, parameters left out."""

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

    def unpack(self, tensor: Tensor) -> Tensor:
        return tensor


def _storage_id(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
