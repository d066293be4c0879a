"""A zero-shot classifier: one direction per class, from the prompts of that class.

Legend: B batch, T tokens, C classes, M templates, D width, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from clip_eval.faults import EvaluationError
from clip_eval.prompts import check_templates, fill


@runtime_checkable
class ImageTextModel(Protocol):
    """A model with an image and a text tower.

    ``encode_image``: normalised pixels, float (B, 3, H, W) → features (B, D).
    ``encode_text``: token ids, long (B, T) → features (B, D).
    ``logit_scale``: log of the factor on cosine similarity, a scalar tensor.
    """

    @property
    def logit_scale(self) -> Tensor:
        """Log of the factor on cosine similarity."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        """Features of images."""

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        """Features of texts."""


class TextTokenizer(Protocol):
    """``texts → LongTensor (B, T)``, padded."""

    def __call__(self, texts: list[str], /) -> Tensor:
        """Token ids of the texts."""


class ImagePreprocess(Protocol):
    """What a model wants done to an image, in the worker and on the device."""

    def __call__(self, image: Image.Image, /) -> Tensor:
        """An RGB Pillow image → uint8 (3, H, W)."""

    def normalize(self, images: Tensor, /) -> Tensor:
        """uint8 (B, 3, H, W) → float (B, 3, H, W), on the same device."""


@torch.no_grad()
def build_classifier(
    model: ImageTextModel,
    tokenizer: TextTokenizer,
    classnames: Sequence[str],
    templates: Sequence[str],
    *,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Class directions: the mean of the normalised prompt embeddings, normalised again.

    Every distinct prompt is encoded once, however many classes and templates lead to it, and
    embeddings are summed as they come, so that memory grows with C·D and not with C·M·D.

    Args:
        model: Has ``encode_text``; its mode (training or evaluation) is the caller's concern.
        tokenizer: Turns a list of prompts into token ids.
        classnames: C names.
        templates: M templates with ``{c}``.
        batch_size: Prompts per forward.
        device: Where the model is.

    Returns:
        (C, D) float32 on ``device``, each row of length 1.

    Raises:
        EvaluationError: No class.
        DataError: No template, or one without ``{c}``.
    """
    templates = check_templates(templates)
    if not classnames:
        raise EvaluationError("expected at least one class name, got none")
    row_of: dict[str, int] = {}
    rows = torch.tensor(
        [[row_of.setdefault(fill(t, c), len(row_of)) for t in templates] for c in classnames]
    ).flatten()  # (C·M,) which distinct prompt
    prompts = sorted(row_of, key=len)  # equally long ones together: a tower may skip padding
    rank = torch.empty(len(prompts), dtype=torch.long)
    rank[[row_of[prompt] for prompt in prompts]] = torch.arange(len(prompts))
    rows, by_row = torch.sort(rank[rows], stable=True)
    owners = by_row // len(templates)
    sums: Tensor | None = None
    for start in range(0, len(prompts), batch_size):
        tokens = tokenizer(prompts[start : start + batch_size])  # (B, T)
        features = model.encode_text(tokens.to(device)).float().cpu().double()
        features = normalize(features, dim=-1)  # (B, D)
        if sums is None:
            sums = features.new_zeros(len(classnames), features.shape[1])
        edges = torch.searchsorted(rows, torch.tensor([start, start + len(features)]))
        here = slice(int(edges[0]), int(edges[1]))
        sums.index_add_(0, owners[here], features[rows[here] - start])
    assert sums is not None
    return normalize(sums, dim=-1).float().to(device)  # (C, D)
