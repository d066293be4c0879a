"""The vision transformer tower.  B batch, G patches a side, L = 1 + G² tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clip_models.config import ViTConfig
from clip_models.transformer import Transformer


class VisionTransformer(nn.Module):
    """Images to features read at the class token."""

    def __init__(self, config: ViTConfig, embed_dim: int) -> None:
        super().__init__()
        width, patch = config.width, config.patch_size
        tokens = 1 + (config.image_size // patch) ** 2
        self.image_size = config.image_size
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(tokens, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(config)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) to features (B, embed_dim)."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)  # (B, G², D)
        first = self.class_embedding.expand(len(images), 1, -1)  # (B, 1, D)
        x = torch.cat([first, patches], dim=1) + self.positional_embedding  # (B, L, D)
        x = self.transformer(self.ln_pre(x), causal=False)
        return self.ln_post(x[:, 0]) @ self.proj  # (B, embed_dim)
