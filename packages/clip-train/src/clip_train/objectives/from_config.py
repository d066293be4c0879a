"""The losses that a config asks for, as one function of a global batch's embeddings."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from clip_train.config.training import LossConfig
from clip_train.distributed.communicator import Communicator
from clip_train.objectives.batch import Embeddings, Objective
from clip_train.objectives.candidates import Candidates
from clip_train.objectives.losses import contrastive_loss, distillation_loss, sigmoid_loss


def make_objective(
    config: LossConfig, communicator: Communicator, teacher: Embeddings | None = None
) -> Objective:
    """The objective of one step.

    Args:
        config: Which losses.
        communicator: The ranks.
        teacher: A teacher's embeddings of this rank's images and texts, to distill from.
    """
    options: dict[str, Any] = {"tile": config.tile, "communicator": communicator}

    def objective(student: Embeddings, candidates: Candidates) -> dict[str, Tensor]:
        losses = {}
        features_and_scale, bias = student[:3], student.logit_bias
        if config.kind in ("infonce", "multi_positive"):
            losses["contrastive"] = contrastive_loss(
                *features_and_scale,
                candidates,
                label_smoothing=config.label_smoothing,
                caption_share=config.caption_share,
                **options,
            )
        elif config.kind == "sigmoid":
            assert bias is not None  # `build_data_components` adds one
            losses["sigmoid"] = sigmoid_loss(*features_and_scale, bias, candidates, **options)
        if teacher is not None:
            loss = distillation_loss(*features_and_scale, *teacher[:3], candidates, **options)
            losses["distillation"] = config.teacher_weight * loss
        return losses

    return objective
