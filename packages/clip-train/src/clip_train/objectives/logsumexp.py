"""Log-sum-exp of all scores of an image, and of a text: the part of InfoNCE that needs every pair.

N images and M texts of the whole batch, n and m of this rank, D width, t side of a tile. A score
is `scale * image @ text`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from clip_train.distributed.communicator import all_gather_rows, rows_of_rank
from clip_train.objectives.tiles import GlobalPairs, refuse_second_derivatives


class PairSums(NamedTuple):
    """A number of each of this rank's images and texts, taken over all of their pairs."""

    of_images: Tensor  # (n,) over all M texts
    of_texts: Tensor  # (m,) over all N images


def pairwise_logsumexp(
    images: Tensor, texts: Tensor, scale: Tensor, pairs: GlobalPairs
) -> PairSums:
    """Normalizers over the global batch, with gradients for images, texts and scale.

    Args:
        images: (n, D) of this rank.
        texts: (m, D) of this rank; all ranks' together are the candidates.
        scale: ().
        pairs: Without `tile` this rank's (n, M) scores are kept for the backward pass. With one,
            tiles of that side are computed twice and none is kept: memory O((n + m) D + t²) instead
            of O(n M), after Cheng et al. 2024 (Inf-CL), with one difference: texts travel, images
            stay.
    """
    if pairs.tile is not None:
        return PairSums(*_Tiled.apply(images, texts, scale, pairs))
    counts, communicator, _ = pairs
    everyone = all_gather_rows(texts, counts, communicator)  # (M, D)
    scores = scale * images @ everyone.T  # (n, M)
    partial = scores.logsumexp(dim=0)  # (M,) over this rank's images
    ranks = all_gather_rows(partial[None], [1] * communicator.world_size, communicator)  # (R, M)
    of_texts = ranks.logsumexp(dim=0)[rows_of_rank(counts, communicator.rank)]  # (m,)
    return PairSums(scores.logsumexp(dim=1), of_texts)


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, texts: Tensor, scale: Tensor, pairs: GlobalPairs
    ) -> tuple[Tensor, Tensor]:
        of_images = images.new_full((len(images),), -torch.inf)
        block = [texts, texts.new_full((len(texts),), -torch.inf)]
        scaled = images * scale
        for columns, of_columns in pairs.rotate_blocks(block):
            for i, j in pairs.tiles(len(images), len(columns)):
                scores = scaled[i] @ columns[j].T  # (t, t)
                of_images[i] = torch.logaddexp(of_images[i], scores.logsumexp(dim=1))
                of_columns[j] = torch.logaddexp(of_columns[j], scores.logsumexp(dim=0))
        of_texts = block[1]
        ctx.save_for_backward(images, texts, scale, of_images, of_texts)
        ctx.pairs = pairs
        return of_images, of_texts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        images, texts, scale, of_images, of_texts = ctx.saved_tensors
        weight, text_weight = gradients  # (n,), (m,)
        d_images = torch.zeros_like(images)
        block = [texts, of_texts, text_weight, torch.zeros_like(texts)]
        scaled = images * scale
        for columns, of_columns, column_weight, d_columns in ctx.pairs.rotate_blocks(block):
            for i, j in ctx.pairs.tiles(len(images), len(columns)):
                scores = scaled[i] @ columns[j].T  # (t, t)
                share = (scores - of_images[i, None]).exp_().mul_(weight[i, None])
                share += scores.sub_(of_columns[j]).exp_().mul_(column_weight[j])
                d_images[i].addmm_(share, columns[j])
                d_columns[j].addmm_(share.T, images[i])
        d_scale = (d_images * images).sum()
        return d_images.mul_(scale), block[3].mul_(scale), d_scale, None
