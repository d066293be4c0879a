"""Sum of softplus over all pairs: the part of the sigmoid loss that needs every pair.

N images and M texts of the whole batch, n and m of this rank, D width, t side of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_train.distributed.communicator import Communicator
from clip_train.objectives.tiles import iterate_tiles, rotate_blocks


def pairwise_softplus(
    images: Tensor,
    texts: Tensor,
    scale: Tensor,
    bias: Tensor,
    counts: Sequence[int],
    communicator: Communicator,
    *,
    tile: int | None,
) -> Tensor:
    """Sum () of `softplus(scale * image @ text + bias)` over this rank's images and all texts.

    Tiles are computed again in the backward pass and none is kept, with or without `tile`.

    Args:
        images: (n, D) of this rank.
        texts: (m, D) of this rank; all ranks' together are the candidates.
        scale: ().
        bias: ().
        counts: Texts of every rank.
        communicator: The ranks.
        tile: Side of a tile; None makes one tile of a block.
    """
    return _Softplus.apply(images, texts, scale, bias, tuple(counts), communicator, tile)


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        bias: Tensor,
        counts: tuple[int, ...],
        communicator: Communicator,
        tile: int | None,
    ) -> Tensor:
        total = images.new_zeros(())
        scaled = images * scale
        for (columns,) in rotate_blocks([texts], counts, communicator):
            for i, j in iterate_tiles(len(images), len(columns), tile):
                total += F.softplus(scaled[i] @ columns[j].T + bias).sum()
        ctx.save_for_backward(images, texts, scale, bias)
        ctx.counts, ctx.communicator, ctx.tile = counts, communicator, tile
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, scale, bias = ctx.saved_tensors
        d_images, d_bias = torch.zeros_like(images), torch.zeros_like(bias)
        block = [texts, torch.zeros_like(texts)]
        scaled = images * scale
        for columns, d_columns in rotate_blocks(block, ctx.counts, ctx.communicator):
            for i, j in iterate_tiles(len(images), len(columns), ctx.tile):
                share = (scaled[i] @ columns[j].T).add_(bias).sigmoid_().mul_(gradients[0])
                d_images[i].addmm_(share, columns[j])
                d_columns[j].addmm_(share.T, images[i])
                d_bias += share.sum()
        d_scale = (d_images * images).sum()
        return d_images.mul_(scale), block[1].mul_(scale), d_scale, d_bias, None, None, None
