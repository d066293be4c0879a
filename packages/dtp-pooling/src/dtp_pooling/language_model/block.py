"""A transformer layer. B batch, L tokens, D width, R rows of one decoding step."""

from __future__ import annotations

from torch import Tensor, nn

from dtp_pooling.language_model.attention import (
    LayerCache,
    RelativeAttention,
    RelativeTerms,
    RotaryAttention,
)
from dtp_pooling.language_model.config import LanguageModelConfig


class Block(nn.Module):
    """Attention and feed-forward, each with a residual and a layer norm before or after it."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        attention = RotaryAttention if config.attention == "rotary" else RelativeAttention
        self.pre = config.norm == "pre"
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = attention(
            config.width, config.num_heads, config.head_dim, config.attention_dropout
        )
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, config.feedforward)
        self.contract = nn.Linear(config.feedforward, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.activation = nn.GELU()

    def forward(
        self, x: Tensor, relative: RelativeTerms | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, LayerCache | None]:
        """(B, L, D) to (B, L, D), and the layer's cache when `lengths` (B,) are given."""
        y, cache = self.attention(self.attention_norm(x) if self.pre else x, relative, lengths)
        return self._add_attention(x, y), cache

    def step(
        self, x: Tensor, cache: LayerCache, rows: Tensor, relative: RelativeTerms | None = None
    ) -> Tensor:
        """(R, D) next tokens of the rows (R,) to (R, D)."""
        y = self.attention.step(self.attention_norm(x) if self.pre else x, cache, rows, relative)
        return self._add_attention(x, y)

    def _add_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """The layer's output, from its input and the attention's."""
        x = x + self.dropout(attended)
        x = x if self.pre else self.attention_norm(x)
        y = self.feedforward_norm(x) if self.pre else x
        y = self.contract(self.dropout(self.activation(self.expand(y))))
        x = x + self.dropout(y)
        return x if self.pre else self.feedforward_norm(x)
