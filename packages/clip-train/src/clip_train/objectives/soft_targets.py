"""Scores averaged with a teacher's probabilities: what distillation needs beyond InfoNCE.

N images and M texts of the whole batch, n and m of this rank, D width, K the teacher's width, t
side of a tile. A score is `scale * image @ text`, the teacher's likewise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from clip_train.objectives.logsumexp import PairSums
from clip_train.objectives.tiles import GlobalPairs, refuse_second_derivatives


class TeacherFeatures(NamedTuple):
    """A teacher's features of this rank's images and candidates."""

    images: Tensor  # (n, K) L2-normalized
    texts: Tensor  # (m, K) L2-normalized
    scale: Tensor  # ()


def expected_scores(
    images: Tensor,
    texts: Tensor,
    scale: Tensor,
    teacher: TeacherFeatures,
    normalizers: PairSums,
    pairs: GlobalPairs,
) -> PairSums:
    """`sum_j p_ij s_ij` of each image and `sum_i q_ij s_ij` of each text over the global batch.

    `s` are the student's scores, `p` the teacher's softmax over texts, `q` its softmax over images.
    Tiles are computed again in the backward pass and none is kept.

    Args:
        images: (n, D) of this rank.
        texts: (m, D) of this rank; all ranks' together are the candidates.
        scale: ().
        teacher: The teacher's features of the same rows; they get no gradient.
        normalizers: Log-sum-exp of the teacher's scores.
        pairs: The ranks and the tiles.
    """
    return PairSums(*_Expected.apply(images, texts, scale, *teacher, *normalizers, pairs))


class _Expected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        teacher_images: Tensor,
        teacher_texts: Tensor,
        teacher_scale: Tensor,
        of_images: Tensor,
        of_texts: Tensor,
        pairs: GlobalPairs,
    ) -> tuple[Tensor, Tensor]:
        expected = images.new_zeros(len(images))
        block = [texts, teacher_texts, of_texts, texts.new_zeros(len(texts))]
        scaled, teacher_scaled = images * scale, teacher_images * teacher_scale
        for columns, teacher_columns, of_columns, expected_columns in pairs.rotate_blocks(block):
            for i, j in pairs.tiles(len(images), len(columns)):
                scores = scaled[i] @ columns[j].T  # (t, t)
                beliefs = teacher_scaled[i] @ teacher_columns[j].T  # (t, t)
                expected[i] += ((beliefs - of_images[i, None]).exp_() * scores).sum(dim=1)
                expected_columns[j] += ((beliefs - of_columns[j]).exp_() * scores).sum(dim=0)
        ctx.save_for_backward(
            images, texts, scale, teacher_scaled, teacher_texts, of_images, of_texts
        )
        ctx.pairs = pairs
        return expected, block[3]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        images, texts, scale, teacher_scaled, teacher_texts, of_images, of_texts = ctx.saved_tensors
        weight, text_weight = gradients  # (n,), (m,)
        d_images = torch.zeros_like(images)
        block = [texts, teacher_texts, of_texts, text_weight, torch.zeros_like(texts)]
        for (
            columns,
            teacher_columns,
            of_columns,
            column_weight,
            d_columns,
        ) in ctx.pairs.rotate_blocks(block):
            for i, j in ctx.pairs.tiles(len(images), len(columns)):
                beliefs = teacher_scaled[i] @ teacher_columns[j].T  # (t, t)
                share = (beliefs - of_images[i, None]).exp_().mul_(weight[i, None])
                share += (beliefs - of_columns[j]).exp_().mul_(column_weight[j])
                d_images[i].addmm_(share, columns[j])
                d_columns[j].addmm_(share.T, images[i])
        d_scale = (d_images * images).sum()
        return d_images.mul_(scale), block[4].mul_(scale), d_scale, *(None,) * 6
