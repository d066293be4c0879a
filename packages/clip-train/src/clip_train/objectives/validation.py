"""The loss of held-out pairs, in batches as training has them.

N images, M captions, P pairs, D width.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from clip_eval import PairEmbeddings
from clip_models import CLIP
from numpy.typing import NDArray

from clip_train.config.training import LossConfig
from clip_train.objectives.losses import contrastive_loss, sigmoid_loss


@torch.no_grad()
def validation_loss(
    model: CLIP, embeddings: PairEmbeddings, config: LossConfig, batch_size: int
) -> float | None:
    """Mean loss in nats of the run's contrastive objective over batches of held-out pairs.

    The first caption of every image makes the first pairs, in the order of the source, then the
    second of those that have one, and so on, so that a batch rarely holds an image twice. The last
    batch may be smaller, and counts by its size. Nothing is smoothed or distilled; without a
    contrastive objective it is that of `multi_positive`. Computed in float64, the same on any
    number of processes.

    Args:
        model: Its scale and bias.
        embeddings: Features of the pairs.
        config: The objective.
        batch_size: Pairs of a batch; the loss depends on it.

    Returns:
        None where there is no pair, or a feature is not finite.
    """
    images = torch.from_numpy(embeddings.images).double()  # (N, D)
    texts = torch.from_numpy(embeddings.texts).double()  # (M, D)
    scale = model.logit_scale.detach().exp().double().cpu()
    pairs = torch.from_numpy(embeddings.pairs[_turns(embeddings.pairs)])  # (P, 2)
    config = replace(config, label_smoothing=0.0)
    total = 0.0
    for image, text in (part.unbind(dim=1) for part in torch.split(pairs, batch_size)):
        features = images[image], texts[text], scale
        if config.kind == "sigmoid" and model.logit_bias is not None:
            loss = sigmoid_loss(*features, model.logit_bias.detach().double().cpu())
        elif config.kind == "infonce":
            loss = contrastive_loss(*features)
        else:
            loss = contrastive_loss(*features, text, image_labels=image)
        total += float(loss) * len(image)
    value = total / len(pairs) if len(pairs) else math.nan
    return value if math.isfinite(value) else None


def _turns(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order (P,) in which each image has its first pair, then each its second, and so on."""
    image = pairs[:, 0]
    by_image = np.argsort(image, kind="stable")
    starts = np.flatnonzero(np.diff(image[by_image], prepend=-1))
    lengths = np.diff(starts, append=len(image))
    turn = np.empty(len(image), dtype=np.int64)
    turn[by_image] = np.arange(len(image)) - np.repeat(starts, lengths)
    return np.lexsort((image, turn))
