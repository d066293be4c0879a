"""Causal self-attention with rotary or Transformer-XL positions, whole or one token at a time.

B batch, L tokens, H heads, C head width, D model width, P distances, R rows of one decoding step.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerCache:
    """Keys and values of one layer; rows may have different numbers of them.

    Attributes:
        keys: (B, H, capacity, C); beyond a row's length it holds anything.
        values: (B, H, capacity, C).
        lengths: (B,) int64.
        relative: (P, H, C) projected embedding of the distances 0 to P - 1, or None.
    """

    def __init__(self, keys: Tensor, values: Tensor, lengths: Tensor) -> None:
        self.keys, self.values, self.lengths = keys, values, lengths
        self.relative: Tensor | None = None

    def append(self, rows: Tensor, key: Tensor, value: Tensor) -> None:
        """Add one key and value, each (R, H, C), to the rows (R,)."""
        if int(self.lengths[rows].max()) == self.keys.shape[2]:
            self.keys, self.values = _double_capacity(self.keys), _double_capacity(self.values)
        at = self.lengths[rows]
        self.keys[rows, :, at] = key
        self.values[rows, :, at] = value
        self.lengths[rows] += 1

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values (R, H, n, C) of the rows, and (R, 1, 1, n) which of them exist."""
        lengths = self.lengths[rows]
        size = int(lengths.max())
        exists = torch.arange(size, device=rows.device) < lengths[:, None]
        keys, values = self.keys[rows, :, :size], self.values[rows, :, :size]
        return keys, values, exists[:, None, None, :]


class RelativeTerms(NamedTuple):
    """Terms of Transformer-XL attention that all layers share.

    Attributes:
        table: (P, D) sinusoids of the distances P - 1 down to 0.
        content_bias: (H, C) added to queries that meet keys.
        position_bias: (H, C) added to queries that meet distances.
    """

    table: Tensor
    content_bias: Tensor
    position_bias: Tensor


class RotaryAttention(nn.Module):
    """Causal attention through PyTorch's fused kernels, positions rotated into queries and keys."""

    def __init__(self, width: int, num_heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.dropout = num_heads, head_dim, dropout
        self.qkv = nn.Linear(width, 3 * num_heads * head_dim)
        self.out = nn.Linear(num_heads * head_dim, width)

    def forward(
        self, x: Tensor, relative: RelativeTerms | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, LayerCache | None]:
        """(B, L, D) to (B, L, D), and the cache of it when the rows' `lengths` (B,) are given."""
        q, k, v = _split_heads(self.qkv(x), self.num_heads)  # each (B, H, L, C)
        position = torch.arange(x.shape[1], device=x.device)
        q, k = rotate(q, position), rotate(k, position)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        cache = None if lengths is None else LayerCache(k, v, lengths.clone())
        return self.out(y.transpose(1, 2).flatten(2)), cache

    def step(
        self, x: Tensor, cache: LayerCache, rows: Tensor, relative: RelativeTerms | None = None
    ) -> Tensor:
        """(R, D) next tokens of the rows to (R, D), adding them to the cache."""
        q, k, v = _split_heads(self.qkv(x[:, None]), self.num_heads)  # each (R, H, 1, C)
        position = cache.lengths[rows][:, None, None]
        cache.append(rows, rotate(k, position)[:, :, 0], v[:, :, 0])
        keys, values, exists = cache.read(rows)
        y = F.scaled_dot_product_attention(rotate(q, position), keys, values, attn_mask=exists)
        return cast(Tensor, self.out(y[:, :, 0].flatten(1)))


class RelativeAttention(nn.Module):
    """Transformer-XL attention (Dai et al. 2019, appendix B): learned biases, sinusoid distances.

    The score of a query for a key at distance d is (q + u) k + (q + v) W r_d over the square root
    of C, with u and v shared by all layers.
    """

    def __init__(self, width: int, num_heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.dropout = num_heads, head_dim, dropout
        self.qkv = nn.Linear(width, 3 * num_heads * head_dim)
        self.position = nn.Linear(width, num_heads * head_dim)
        self.out = nn.Linear(num_heads * head_dim, width)

    def forward(
        self, x: Tensor, relative: RelativeTerms | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, LayerCache | None]:
        """(B, L, D) to (B, L, D), and the cache of it when the rows' `lengths` (B,) are given."""
        assert relative is not None
        length = x.shape[1]
        q, k, v = _split_heads(self.qkv(x), self.num_heads)  # each (B, H, L, C)
        by_distance = self.position(relative.table).view(length, self.num_heads, self.head_dim)
        r = by_distance.permute(1, 2, 0)
        distance = (q + relative.position_bias[:, None]) @ r  # (B, H, L, P = L), far to near
        bias = _shift_by_distance(distance) * self.head_dim**-0.5
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        bias = bias.masked_fill(future, -torch.inf)
        dropout = self.dropout if self.training else 0.0
        q = q + relative.content_bias[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        cache = None if lengths is None else LayerCache(k, v, lengths.clone())
        return self.out(y.transpose(1, 2).flatten(2)), cache

    def step(
        self, x: Tensor, cache: LayerCache, rows: Tensor, relative: RelativeTerms | None = None
    ) -> Tensor:
        """(R, D) next tokens of the rows to (R, D), adding them to the cache."""
        assert relative is not None
        q, k, v = _split_heads(self.qkv(x[:, None]), self.num_heads)  # each (R, H, 1, C)
        cache.append(rows, k[:, :, 0], v[:, :, 0])
        keys, values, exists = cache.read(rows)
        if cache.relative is None or cache.relative.shape[0] < keys.shape[2]:
            near_to_far = self.position(relative.table.flip(0))
            cache.relative = near_to_far.view(-1, self.num_heads, self.head_dim)
        query = q[:, :, 0] + relative.position_bias
        by_distance = torch.einsum("rhc,phc->rhp", query, cache.relative)
        position = torch.arange(keys.shape[2], device=x.device)
        distance = (cache.lengths[rows][:, None] - 1 - position).clamp(min=0)  # (R, n)
        bias = by_distance.gather(2, distance[:, None].expand(-1, self.num_heads, -1))
        bias = (bias * self.head_dim**-0.5)[:, :, None].masked_fill(~exists, -torch.inf)
        q = q + relative.content_bias[:, None]
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=bias)
        return cast(Tensor, self.out(y[:, :, 0].flatten(1)))


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021): pairs (i, i + C / 2) turned by position / 10⁴ⁱ.

    Args:
        x: (..., C), C even.
        position: Integers that broadcast against the leading dimensions of x.
    """
    half = x.shape[-1] // 2
    exponent = torch.arange(half, device=x.device, dtype=torch.float32) / half
    angle = position[..., None].float() * 10000.0**-exponent
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], dim=-1)


def sinusoids(size: int, width: int, like: Tensor) -> Tensor:
    """(P, D) sinusoids of the distances P - 1 down to 0: sines, then cosines."""
    distance = torch.arange(size - 1, -1, -1, device=like.device, dtype=torch.float32)
    exponent = torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width
    angle = distance[:, None] / 10000.0**exponent
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(like.dtype)


def _split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, L, 3 H C) to three (B, H, L, C)."""
    batch, length, width = qkv.shape
    split = qkv.view(batch, length, 3, num_heads, width // (3 * num_heads))
    q, k, v = split.permute(2, 0, 3, 1, 4)
    return q, k, v


def _shift_by_distance(x: Tensor) -> Tensor:
    """(B, H, L, L) by distance, far to near, to (B, H, L, L) by key; arbitrary for future keys."""
    batch, heads, length, _ = x.shape
    padded = F.pad(x, (1, 0)).reshape(batch, heads, length + 1, length)
    return padded[:, :, 1:]


def _double_capacity(x: Tensor) -> Tensor:
    return torch.cat([x, torch.zeros_like(x)], dim=2) if x.shape[2] else F.pad(x, (0, 0, 0, 16))
