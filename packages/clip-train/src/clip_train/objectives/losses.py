"""Contrastive losses over a global batch.

n images and u texts of this rank, m texts that it owns as candidates (u = m = n where every image
has a caption of its own); N images and M captions of all ranks; E embedding width.

Every function returns this rank's share () of the loss: the sum of the ranks' shares is the loss of
one process that holds the whole batch, and so are the summed gradients. With one process that is
the loss itself. A loss is computed as a part over all pairs and parts that are linear in the
scores, which need no pairs.
"""

from __future__ import annotations

from torch import Tensor

from clip_train.distributed.communicator import SINGLE_PROCESS, Communicator, all_reduce_sum
from clip_train.objectives.candidates import Candidates, resolve_candidates
from clip_train.objectives.logsumexp import PairSums, pairwise_logsumexp
from clip_train.objectives.soft_targets import TeacherFeatures, expected_scores
from clip_train.objectives.softplus import pairwise_softplus
from clip_train.objectives.tiles import GlobalPairs


def contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    labels: Tensor | Candidates | None = None,
    *,
    image_labels: Tensor | None = None,
    label_smoothing: float = 0.0,
    caption_share: float = 0.5,
    tile: int | None = None,
    communicator: Communicator = SINGLE_PROCESS,
) -> Tensor:
    """CLIP's loss: symmetric InfoNCE, in which images may share a caption.

    With scores `s_ij = logit_scale * image_i @ text_j` it is the mean over the batch of

        (-log softmax_j(s)_ii - log softmax_i(s)_ii) / 2      (Radford et al. 2021, figure 3)

    With labels every distinct caption is one candidate. From images to captions the target is an
    image's caption. From captions to images it is uniform over the images that carry the caption,
    and a caption counts as often as it occurs (UniCL, Yang et al. 2022, equations 3 to 5;
    deviation: there a repeated caption is also repeated as a candidate).

    With image labels, pairs of equal images are positives of each other too: the target of an image
    is spread over all captions that its copies have, as often as they have them, and the share of a
    caption's image is spread evenly over the image's copies.

    Args:
        image_features: (n, E), L2-normalized.
        text_features: (n, E), L2-normalized, row i is the caption of image i.
        logit_scale: () inverse temperature, already exponentiated.
        labels: int64 (n,) number of each pair's caption; pairs with equal numbers, on any rank, are
            positives of each other. None makes every pair the only positive of itself. The training
            loop gives `Candidates` instead, with which texts are encoded once: (u, E).
        image_labels: int64 (n,) number of each pair's image, equal for equal images; None if all
            of them differ. `Candidates` know it.
        label_smoothing: Share of each target spread evenly over all candidates.
        caption_share: Weight of the direction from captions to images; the other one has the rest.
            With labels and 0 it is the cross entropy of a classifier whose classes are the distinct
            captions of the batch.
        tile: Side of the tiles of pairs that are computed at a time, with memory that grows with
            the batch and not with its square; None keeps all pairs.
        communicator: The ranks of the batch; one process by default.

    Returns:
        () this rank's share of the weighted mean of both directions, in nats.

    Raises:
        ValueError: Images, texts and labels are not as many.
    """
    candidates = resolve_candidates(
        labels, image_features, text_features, communicator, image_labels
    )
    texts = text_features[candidates.owned]  # (m, E)
    pairs = GlobalPairs(candidates.owned_counts, communicator, tile)
    normalizers = pairwise_logsumexp(image_features, texts, logit_scale, pairs)
    positives = _mean_of_repeats(image_features, candidates, communicator)
    matching = _matching_scores(positives, text_features, logit_scale, candidates)
    of_images, of_texts = 2 * (1 - caption_share), 2 * caption_share
    normalizers = PairSums(of_images * normalizers.of_images, of_texts * normalizers.of_texts)
    loss = _sum_of_both(normalizers, candidates) - 2 * (1 - label_smoothing) * matching
    if label_smoothing:
        weights = candidates.occurrences[:, None].to(texts.dtype)  # (m, 1)
        all_images = all_reduce_sum(image_features.sum(dim=0), communicator)  # (E,)
        all_texts = all_reduce_sum(texts.sum(dim=0), communicator)  # (E,)
        to_text = image_features.sum(dim=0) @ all_texts / candidates.num_captions
        to_image = (weights * texts).sum(dim=0) @ all_images / candidates.num_images
        smoothed = of_images * to_text + of_texts * to_image
        loss = loss - label_smoothing * logit_scale * smoothed
    return loss / (2 * candidates.num_images)


def sigmoid_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    labels: Tensor | Candidates | None = None,
    *,
    tile: int | None = None,
    communicator: Communicator = SINGLE_PROCESS,
) -> Tensor:
    """SigLIP's loss: each pair a binary decision (Zhai et al. 2023, equation 1).

        -1/N sum_ij log sigmoid(z_ij s_ij)      s_ij = logit_scale * image_i @ text_j + logit_bias

    with z_ij = 1 where text j is the caption of image i, else -1.

    Args:
        image_features: (n, E), L2-normalized.
        text_features: (n, E), L2-normalized, row i is the caption of image i.
        logit_scale: () inverse temperature, already exponentiated.
        logit_bias: () added to every score.
        labels: As in `contrastive_loss`.
        tile: Side of the tiles of pairs that are computed at a time; None makes one tile. No tile
            is kept for the backward pass.
        communicator: The ranks of the batch; one process by default.

    Returns:
        () this rank's share, in nats.

    Raises:
        ValueError: Images, texts and labels are not as many.
    """
    candidates = resolve_candidates(labels, image_features, text_features, communicator)
    texts = text_features[candidates.owned]  # (m, E)
    pairs = GlobalPairs(candidates.owned_counts, communicator, tile)
    softplus = pairwise_softplus(image_features, texts, logit_scale, logit_bias, pairs)
    # -log sigmoid(s) of a matching pair is softplus(s) - s.
    matching = _matching_scores(image_features, text_features, logit_scale, candidates)
    matching = matching + logit_bias * len(image_features)
    return (softplus - matching) / candidates.num_images


def distillation_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    teacher_image_features: Tensor,
    teacher_text_features: Tensor,
    teacher_logit_scale: Tensor,
    labels: Tensor | Candidates | None = None,
    *,
    tile: int | None = None,
    communicator: Communicator = SINGLE_PROCESS,
) -> Tensor:
    """Cross entropy of the student's distributions under the teacher's, in both directions.

    With the teacher's probabilities p it is the mean over the batch of

        (-sum_j p_ij log softmax_j(s)_ij - sum_i p_ij log softmax_i(s)_ij) / 2

    which is the Kullback–Leibler divergence of the teacher from the student plus the teacher's
    entropy, which has no gradient (affinity mimicking, Wu et al. 2023, equation 1).

    Args:
        image_features: (n, E), L2-normalized.
        text_features: (n, E), L2-normalized, row i is the caption of image i.
        logit_scale: () inverse temperature, already exponentiated.
        teacher_image_features: (n, K), L2-normalized, of the same images.
        teacher_text_features: (n, K), L2-normalized, of the same texts.
        teacher_logit_scale: () the teacher's inverse temperature.
        labels: As in `contrastive_loss`.
        tile: Side of the tiles of pairs that are computed at a time; None keeps all pairs.
        communicator: The ranks of the batch; one process by default.

    Returns:
        () this rank's share of the mean of both directions, in nats.

    Raises:
        ValueError: Images, texts and labels are not as many.
    """
    candidates = resolve_candidates(labels, image_features, text_features, communicator)
    texts = text_features[candidates.owned]  # (m, E)
    pairs = GlobalPairs(candidates.owned_counts, communicator, tile)
    teacher = TeacherFeatures(
        teacher_image_features.detach(),
        teacher_text_features[candidates.owned].detach(),
        teacher_logit_scale.detach(),
    )
    teacher_normalizers = pairwise_logsumexp(*teacher, pairs)
    normalizers = pairwise_logsumexp(image_features, texts, logit_scale, pairs)
    expected = expected_scores(
        *(image_features, texts, logit_scale), teacher, teacher_normalizers, pairs
    )
    difference = PairSums(
        normalizers.of_images - expected.of_images, normalizers.of_texts - expected.of_texts
    )
    return _sum_of_both(difference, candidates) / (2 * candidates.num_images)


def _sum_of_both(values: PairSums, candidates: Candidates) -> Tensor:
    """Sum () over this rank's images, and over its captions as often as they occur."""
    occurrences = candidates.occurrences.to(values.of_texts.dtype)
    return values.of_images.sum() + (occurrences * values.of_texts).sum()


def _mean_of_repeats(images: Tensor, candidates: Candidates, communicator: Communicator) -> Tensor:
    """Images (n, E), each repeated one replaced by the mean of its copies on all ranks.

    With n(g, c) pairs of image g and caption c, the targets of the loss are n(g, c) / n(g) from a
    copy of g to c, and n(g, c) / (n(c) n(g)) from c to a copy of g. Weighted by n(c), both sum to
    the scores of every pair's caption with the mean of its image's copies.
    """
    if candidates.repeated is None or candidates.repeats is None:
        return images
    rows = (candidates.repeated >= 0).nonzero()[:, 0]
    numbers = candidates.repeated[rows]
    sums = images.new_zeros(len(candidates.repeats), images.shape[1])  # (K, E)
    sums = all_reduce_sum(sums.index_add(0, numbers, images[rows]), communicator)
    means = sums / candidates.repeats[:, None].to(images.dtype)
    return images.index_copy(0, rows, means[numbers])


def _matching_scores(
    images: Tensor, texts: Tensor, scale: Tensor, candidates: Candidates
) -> Tensor:
    """Sum () of the scores of this rank's images with their captions."""
    return scale * (images * texts[candidates.caption_of]).sum()
