"""Both towers of a model in one call, as backends wrap them.

n images, u texts, T text tokens, S image side, E embedding width.
"""

from __future__ import annotations

from typing import NamedTuple

from clip_models import CLIP, NativeImages
from torch import Tensor, nn

from clip_train.augment.range_augment import LearnedAugmentation


class TowerFeatures(NamedTuple):
    """The result of one call; features are not normalized."""

    images: Tensor  # (n, E)
    texts: Tensor  # (u, E)
    logit_scale: Tensor  # () already exponentiated
    logit_bias: Tensor | None  # ()
    image_losses: dict[str, Tensor]  # auxiliary losses (), means over the images
    text_losses: dict[str, Tensor]  # the same, over the texts
    image_records: dict[str, Tensor]  # numbers () to log, means over the images
    text_records: dict[str, Tensor]  # the same, over the texts


class Towers(nn.Module):
    """A model with one `forward` for both towers, because wrappers hook into that alone."""

    def __init__(self, model: CLIP, augmentation: LearnedAugmentation | None = None) -> None:
        super().__init__()
        self.model = model
        self.augmentation = augmentation

    def forward(
        self,
        images: Tensor | NativeImages,
        tokens: Tensor,
        image_keys: Tensor,
        text_keys: Tensor,
    ) -> TowerFeatures:
        """Features and auxiliary losses.

        Args:
            images: (n, 3, S, S) normalized; in [0, 1] for an augmentation, which those of their own
                shape have none of.
            tokens: int64 (u, T).
            image_keys: int64 (n,) of which all randomness of an image is a function.
            text_keys: int64 (u,) the same of a text.
        """
        model, image_losses = self.model, {}
        if self.augmentation is not None:
            assert not isinstance(images, NativeImages)
            images, image_losses["augment.range"] = self.augmentation(images, image_keys)
        image = model.run_image_tower(images, generator=image_keys)
        text = model.run_text_tower(tokens, generator=text_keys)
        return TowerFeatures(
            image.features,
            text.features,
            model.logit_scale.exp(),
            None if model.logit_bias is None else model.logit_bias + 0,  # wrappers reject leaves
            image_losses | {f"vision.{name}": loss for name, loss in image.losses.items()},
            {f"text.{name}": loss for name, loss in text.losses.items()},
            _scalars("vision", image.records),
            _scalars("text", text.records),
        )


def _scalars(tower: str, records: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The numbers among the records, such as `vision.pooling/shortening`."""
    return {
        f"{tower}.{part}/{name}": value.detach()
        for part, record in records.items()
        for name, value in record.items()
        if value.ndim == 0
    }
