"""Contrastive objectives over a global batch.  N images and M captions of it, n, m, u of a rank.

Every function returns this rank's share () of the loss: the sum of the ranks' shares is the loss of
one process that holds the whole batch, and so are the summed gradients (`communication`).  A loss
is split into a part over all pairs and parts that are linear in the scores, which need no pairs.
"""

from __future__ import annotations

from torch import Tensor

from clip_train.distributed.communicator import SOLO, Communicator, sum_ranks
from clip_train.objectives.candidates import Candidates
from clip_train.objectives.logsumexp import LogSumExp, pairwise_logsumexp
from clip_train.objectives.soft_targets import Teacher, expected_scores
from clip_train.objectives.softplus import pairwise_softplus


def contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    candidates: Candidates,
    *,
    label_smoothing: float = 0.0,
    tile: int | None = None,
    communicator: Communicator = SOLO,
) -> Tensor:
    """Symmetric InfoNCE in which an image's positives are its caption, however often it occurs.

    Each distinct caption is one candidate.  From images to captions it is the cross entropy of an
    image's own caption.  From captions to images the target is uniform over the images that carry
    the caption, and a caption counts as often as it occurs (UniCL, Yang et al. 2022, equations 3
    to 5; deviation: there a repeated caption is also repeated as a candidate).  When all captions
    differ this is CLIP's loss (Radford et al. 2021, figure 3).

    Args:
        image_features: (n, E), L2-normalised.
        text_features: (u, E), L2-normalised.
        logit_scale: () inverse temperature.
        candidates: Which texts describe which images, and which are candidates.
        label_smoothing: Share of each target spread evenly over all candidates.
        tile: Side of the tiles of pairs that are computed at a time; None keeps all pairs.
        communicator: The ranks of the batch.

    Returns:
        () this rank's share of the mean of both directions, in nats.
    """
    texts = text_features[candidates.owned]  # (m, E)
    counts = candidates.owned_counts
    normalisers = pairwise_logsumexp(
        image_features, texts, logit_scale, counts, communicator, tile=tile
    )
    matching = _matching_scores(image_features, text_features, logit_scale, candidates)
    loss = _weighted(normalisers, candidates) - 2 * (1 - label_smoothing) * matching
    if label_smoothing:
        weights = candidates.occurrences[:, None].to(texts.dtype)  # (m, 1)
        all_images = sum_ranks(image_features.sum(dim=0), communicator)  # (E,)
        all_texts = sum_ranks(texts.sum(dim=0), communicator)  # (E,)
        to_text = image_features.sum(dim=0) @ all_texts / candidates.num_captions
        to_image = (weights * texts).sum(dim=0) @ all_images / candidates.num_images
        loss = loss - label_smoothing * logit_scale * (to_text + to_image)
    return loss / (2 * candidates.num_images)


def sigmoid_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    candidates: Candidates,
    *,
    tile: int | None = None,
    communicator: Communicator = SOLO,
) -> Tensor:
    """Each pair a binary decision, summed over pairs, over N (Zhai et al. 2023, equation 1).

    Args:
        image_features: (n, E), L2-normalised.
        text_features: (u, E), L2-normalised.
        logit_scale: () inverse temperature.
        logit_bias: () added to every score.
        candidates: Which texts describe which images, and which are candidates.
        tile: Side of the tiles of pairs that are computed at a time.
        communicator: The ranks of the batch.

    Returns:
        () this rank's share, in nats.
    """
    texts = text_features[candidates.owned]  # (m, E)
    counts = candidates.owned_counts
    every = pairwise_softplus(
        image_features, texts, logit_scale, logit_bias, counts, communicator, tile=tile
    )
    # -log sigmoid(s) of a matching pair is softplus(s) - s.
    matching = _matching_scores(image_features, text_features, logit_scale, candidates)
    matching = matching + logit_bias * len(image_features)
    return (every - matching) / candidates.num_images


def distillation_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    teacher_image_features: Tensor,
    teacher_text_features: Tensor,
    teacher_scale: Tensor,
    candidates: Candidates,
    *,
    tile: int | None = None,
    communicator: Communicator = SOLO,
) -> Tensor:
    """Cross entropy of the student's distributions under the teacher's, in both directions.

    It is the Kullback–Leibler divergence of the teacher from the student plus the teacher's
    entropy, which has no gradient (affinity mimicking, Wu et al. 2023, equation 1).

    Args:
        image_features: (n, E), L2-normalised.
        text_features: (u, E), L2-normalised.
        logit_scale: () inverse temperature.
        teacher_image_features: (n, K), L2-normalised.
        teacher_text_features: (u, K), L2-normalised.
        teacher_scale: () the teacher's inverse temperature.
        candidates: Which texts describe which images, and which are candidates.
        tile: Side of the tiles of pairs that are computed at a time; None keeps all pairs.
        communicator: The ranks of the batch.

    Returns:
        () this rank's share of the mean of both directions, in nats.
    """
    texts, counts = text_features[candidates.owned], candidates.owned_counts  # (m, E)
    teacher = Teacher(
        teacher_image_features.detach(),
        teacher_text_features[candidates.owned].detach(),
        teacher_scale.detach(),
    )
    beliefs = pairwise_logsumexp(*teacher, counts, communicator, tile=tile)
    normalisers = pairwise_logsumexp(
        image_features, texts, logit_scale, counts, communicator, tile=tile
    )
    expected = expected_scores(
        image_features, texts, logit_scale, teacher, beliefs, counts, communicator, tile=tile
    )
    difference = LogSumExp(
        normalisers.of_images - expected.of_images, normalisers.of_texts - expected.of_texts
    )
    return _weighted(difference, candidates) / (2 * candidates.num_images)


def _weighted(values: LogSumExp, candidates: Candidates) -> Tensor:
    """Sum () over this rank's images, and over its captions as often as they occur."""
    occurrences = candidates.occurrences.to(values.of_texts.dtype)
    return values.of_images.sum() + (occurrences * values.of_texts).sum()


def _matching_scores(
    images: Tensor, texts: Tensor, scale: Tensor, candidates: Candidates
) -> Tensor:
    """Sum () of the scores of this rank's images with their own captions."""
    return scale * (images * texts[candidates.caption_of]).sum()
