"""The CLIP model: two towers and one embedding space.  B batch, T text tokens, E embedding width.

The text tower's parameters live on the model itself (`transformer`, `token_embedding`, …), as in
OpenAI's CLIP and open_clip, so that their checkpoints load with no renaming.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_models.compact_resnet import CompactResNet
from clip_models.config import CLIPConfig, ModifiedResNetConfig, ViTConfig
from clip_models.modified_resnet import ModifiedResNet
from clip_models.transformer import Transformer
from clip_models.vision_transformer import VisionTransformer


class CLIPOutput(NamedTuple):
    """What `CLIP.forward` returns; features are L2-normalised."""

    image_features: Tensor  # (B, E)
    text_features: Tensor  # (B, E)
    logit_scale: Tensor  # () inverse temperature, already exponentiated
    logit_bias: Tensor | None  # ()


class CLIP(nn.Module):
    """Contrastive language–image model (Radford et al. 2021)."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        text, embed_dim = config.text, config.embed_dim
        self.visual: nn.Module
        if isinstance(config.vision, ViTConfig):
            self.visual = VisionTransformer(config.vision, embed_dim)
        elif isinstance(config.vision, ModifiedResNetConfig):
            self.visual = ModifiedResNet(config.vision, embed_dim)
        else:
            self.visual = CompactResNet(config.vision, embed_dim)
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
        self.transformer = Transformer(text)
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(config.init_logit_scale))
        bias = config.init_logit_bias
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))
        self.eot_token_id = text.vocab_size - 1 if text.eot_token_id is None else text.eot_token_id
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=text.width**-0.5)

    def encode_image(self, images: Tensor, *, normalize: bool = False) -> Tensor:
        """Features (B, E) of normalised images (B, 3, S, S)."""
        size = self.config.vision.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"images must be (B, 3, {size}, {size}), got {tuple(images.shape)}; "
                "resize them with the model's Preprocess"
            )
        features: Tensor = self.visual(images)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, tokens: Tensor, *, normalize: bool = False) -> Tensor:
        """Features (B, E) of token ids (B, T), read at each row's first end token.

        Only the positions up to the batch's last end token are computed: attention is causal, so
        what follows an end token cannot change its feature.
        """
        longest = self.config.text.context_length
        if tokens.ndim != 2 or tokens.shape[1] > longest:
            raise ValueError(
                f"tokens must be (B, T) with T at most {longest}, got {tuple(tokens.shape)}; "
                "tokenise with the model's context_length"
            )
        end = (tokens == self.eot_token_id).to(torch.uint8).argmax(dim=1)  # (B,)
        if len(tokens) and not torch.compiler.is_compiling():
            tokens = tokens[:, : int(end.max()) + 1]
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]  # (B, T, D)
        x = self.transformer(x, causal=True)
        last = x[torch.arange(len(x), device=x.device), end]  # (B, D)
        features: Tensor = self.ln_final(last) @ self.text_projection  # (B, E)
        return F.normalize(features, dim=-1) if normalize else features

    def forward(self, images: Tensor, tokens: Tensor) -> CLIPOutput:
        """Normalised features of both towers with the scale (and bias) of their logits."""
        return CLIPOutput(
            self.encode_image(images, normalize=True),
            self.encode_text(tokens, normalize=True),
            self.logit_scale.exp(),
            self.logit_bias,
        )
