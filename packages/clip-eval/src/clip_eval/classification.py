"""The best classes of images, batch by batch: N x C scores never exist at once.

Legend: B batch, C classes, D width, K guesses, N samples, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

from clip_eval.classifier import ImagePreprocess, ImageTextModel
from clip_eval.loading import ImageBatch, iter_batches
from clip_eval.samples import Source


@dataclass(frozen=True)
class Guesses:
    """Best classes of a batch, on the host.

    Attributes:
        classes: Class indices, best first (B, K).
        probabilities: Softmax over all C classes at the model's logit scale, of these (B, K).
        finite: Whether all scores of an image are finite (B,).
    """

    classes: Tensor
    probabilities: Tensor
    finite: Tensor

    def row(self, index: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Classes and probabilities of one image; empty if its scores are not finite."""
        if not bool(self.finite[index]):
            return (), ()
        return tuple(self.classes[index].tolist()), tuple(self.probabilities[index].tolist())


@torch.no_grad()
def guess_classes(
    model: ImageTextModel,
    preprocess: ImagePreprocess,
    classifier: Tensor,
    images: Tensor,
    *,
    limit: int,
    device: str | torch.device = "cpu",
) -> Guesses:
    """The best ``limit`` classes of each image.

    Args:
        model: On ``device``, in evaluation mode.
        preprocess: Normalises pixels.
        classifier: Class directions (C, D) on ``device``.
        images: uint8 (B, 3, H, W).
        limit: How many classes; all of them if there are fewer.
        device: Where the forward runs.
    """
    pixels = preprocess.normalize(images.to(device))  # (B, 3, H, W)
    features = normalize(model.encode_image(pixels).float(), dim=-1)  # (B, D)
    logits = model.logit_scale.float().exp() * features @ classifier.T  # (B, C)
    best = logits.topk(min(limit, logits.shape[1]), dim=-1).indices  # (B, K)
    probabilities = logits.softmax(dim=-1).gather(1, best)  # (B, K)
    return Guesses(best.cpu(), probabilities.cpu(), logits.isfinite().all(dim=-1).cpu())


def classify(
    model: ImageTextModel,
    source: Source,
    classifier: Tensor,
    *,
    preprocess: ImagePreprocess,
    limit: int,
    batch_size: int,
    device: str | torch.device,
    workers: int,
    indices: Sequence[int] | None = None,
    progress: bool = False,
) -> Iterator[tuple[ImageBatch, Guesses | None]]:
    """Batches of a source with their guesses; None for a batch with no usable image."""
    batches = iter_batches(
        source, preprocess, batch_size=batch_size, workers=workers, indices=indices
    )
    total = len(source) if indices is None else len(indices)
    with tqdm(total=total, unit="img", desc="classifying", disable=not progress) as bar:
        for batch in batches:
            guesses = None
            if len(batch.images):
                guesses = guess_classes(
                    model, preprocess, classifier, batch.images, limit=limit, device=device
                )
            yield batch, guesses
            bar.update(len(batch.keys) + len(batch.skipped))


@contextmanager
def evaluation_mode(model: ImageTextModel) -> Iterator[None]:
    """Every module in evaluation mode, and back to the mode it was in."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
