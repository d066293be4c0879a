"""Towers as modules of one input and one output. B batch, T text positions, E embedding width."""

from __future__ import annotations

from torch import Tensor, nn

from clip_models.model.clip import CLIP


class ImageEncoder(nn.Module):
    """Normalized images (B, 3, H, W) to L2-normalized features (B, E)."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)  # exporters restore the mode of the whole

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, E)."""
        return self.model.encode_image(images, normalize=True)


class TextEncoder(nn.Module):
    """Token ids (B, T) to L2-normalized features (B, E)."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)  # exporters restore the mode of the whole

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, E)."""
        return self.model.encode_text(tokens, normalize=True)
