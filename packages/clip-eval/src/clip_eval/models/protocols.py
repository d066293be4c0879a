"""What an evaluation needs of a model: protocols, the parts together, evaluation mode.

Legend: B batch, T tokens, D width, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor, nn


@runtime_checkable
class ImageTextModel(Protocol):
    """A model with an image and a text tower.

    `encode_image`: normalized pixels, float (B, 3, H, W), to features (B, D).
    `encode_text`: token ids, long (B, T), to features (B, D).
    `logit_scale`: log of the factor on cosine similarity, a scalar tensor.
    """

    @property
    def logit_scale(self) -> Tensor:
        """Log of the factor on cosine similarity."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        """Features of images."""

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        """Features of texts."""


class TextTokenizer(Protocol):
    """A tokenizer: texts to padded token ids, long (B, T)."""

    def __call__(self, texts: list[str], /) -> Tensor:
        """Token ids of the texts."""


class ImagePreprocess(Protocol):
    """A preprocessing: one method for the loader's workers, one for the device."""

    def __call__(self, image: Image.Image, /) -> Tensor:
        """RGB Pillow image to uint8 (3, H, W)."""

    def normalize(self, images: Any, /) -> Any:
        """uint8 (B, 3, H, W) to float (B, 3, H, W), on the same device.

        The preprocessing of images in their own shape takes and gives `NativeImages`.
        """


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model with its tokenizer and preprocessing.

    Attributes:
        model: The model, in evaluation mode.
        tokenizer: Texts → token ids.
        preprocess: Image → pixels.
        templates: Caption templates saved with the model, with `{c}` for the class name.
        name: Name of the model in tables.
        path: Its directory; None for another library's model.
        warnings: What the reader of its results should know.
        factory: The `module:factory` that made it; empty for other models.
    """

    model: ImageTextModel
    tokenizer: TextTokenizer
    preprocess: ImagePreprocess
    templates: tuple[str, ...] | None = None
    name: str
    path: Path | None = None
    warnings: tuple[str, ...] = ()
    factory: str = ""


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
