"""Sum of softplus over all pairs: the part of the sigmoid loss that needs every pair.

N images and M texts of the whole batch, n and m of this rank, D width, t side of a tile.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_train.objectives.tiles import GlobalPairs, refuse_second_derivatives


def pairwise_softplus(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, pairs: GlobalPairs
) -> Tensor:
    """Sum () of `softplus(scale * image @ text + bias)` over this rank's images and all texts.

    Tiles are computed again in the backward pass and none is kept, with or without `pairs.tile`.

    Args:
        images: (n, D) of this rank.
        texts: (m, D) of this rank; all ranks' together are the candidates.
        scale: ().
        bias: ().
        pairs: The ranks and the tiles.
    """
    return _Softplus.apply(images, texts, scale, bias, pairs)


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, pairs: GlobalPairs
    ) -> Tensor:
        total = images.new_zeros(())
        scaled = images * scale
        for (columns,) in pairs.rotate_blocks([texts]):
            for i, j in pairs.tiles(len(images), len(columns)):
                total += F.softplus(scaled[i] @ columns[j].T + bias).sum()
        ctx.save_for_backward(images, texts, scale, bias)
        ctx.pairs = pairs
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        images, texts, scale, bias = ctx.saved_tensors
        d_images, d_bias = torch.zeros_like(images), torch.zeros_like(bias)
        block = [texts, torch.zeros_like(texts)]
        scaled = images * scale
        for columns, d_columns in ctx.pairs.rotate_blocks(block):
            for i, j in ctx.pairs.tiles(len(images), len(columns)):
                share = (scaled[i] @ columns[j].T).add_(bias).sigmoid_().mul_(gradients[0])
                d_images[i].addmm_(share, columns[j])
                d_columns[j].addmm_(share.T, images[i])
                d_bias += share.sum()
        d_scale = (d_images * images).sum()
        return d_images.mul_(scale), block[1].mul_(scale), d_scale, d_bias, None
