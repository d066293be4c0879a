"""The vision transformer tower. B batch, N patches, L tokens, S segments, D width."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_models.config.towers import ViTConfig
from clip_models.model.layouts import Packed, Padded
from clip_models.model.native_rows import find_places, gather_tokens, keep_patches
from clip_models.model.outputs import TowerOutput
from clip_models.model.pooled_layers import PooledLayers, PooledRun
from clip_models.model.transformer import MLP, Transformer
from clip_models.native_images import NativeImages
from clip_models.pooling.patch_reduction import make_patch_reducer
from clip_models.pooling.randomness import Randomness
from clip_models.positions import (
    Grid,
    is_known_equal,
    make_sin_cos_table,
    resize_grid,
    resize_sequence,
)


def make_stem(config: ViTConfig) -> nn.Module:
    """Images (B, 3, H, W) to a map of patches (B, D, rows, columns)."""
    width, patch = config.width, config.patch_size
    if config.stem == "patch":
        return nn.Conv2d(3, width, patch, stride=patch, bias=config.patch_bias)
    channels = max(32, width // 4)
    return nn.Sequential(  # CoreNet's: strides 4, 2 and 2
        OrderedDict(
            conv1=nn.Conv2d(3, channels, 4, stride=4, bias=False),
            bn1=nn.BatchNorm2d(channels),
            act1=nn.GELU(),
            conv2=nn.Conv2d(channels, channels, 2, stride=2, bias=False),
            bn2=nn.BatchNorm2d(channels),
            act2=nn.GELU(),
            conv3=nn.Conv2d(channels, width, 2, stride=2),
        )
    )


class LatentAttentionPool(nn.Module):
    """Attention with one learned query, then a residual MLP (Zhai et al. 2022, "MAP")."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width = config.width
        shape = config.map_shape
        self.num_heads = shape.num_heads
        self.latent = nn.Parameter(width**-0.5 * torch.randn(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.mlp = MLP(width, shape.mlp_width, config.activation)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, D) to (B, D); mask (B, L) is True for tokens to attend to."""
        heads = (self.num_heads, x.shape[2] // self.num_heads)
        query = self.q(self.latent).view(1, 1, *heads)  # (1, 1, H, D/H)
        key_value = self.kv(x).view(*x.shape[:2], 2, *heads)
        key, value = key_value.unbind(2)  # 2 × (B, L, H, D/H)
        mixed = F.scaled_dot_product_attention(
            query.expand(x.shape[0], -1, -1, -1).transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=None if mask is None else mask[:, None, None],
        )  # (B, H, 1, D/H)
        pooled = self.proj(mixed.flatten(1))  # (B, D)
        return pooled + self.mlp(self.norm(pooled))


class VisionTransformer(nn.Module):
    """Images of any size to features."""

    def __init__(self, config: ViTConfig, embed_dim: int) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.conv1 = make_stem(config)
        self.class_embedding: nn.Parameter | None = None
        if config.class_token:
            self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self._add_positions()
        self.ln_pre = nn.LayerNorm(width, config.layer_norm_eps) if config.pre_norm else None
        self.transformer = Transformer(config)
        self.pooling = None if config.pooling is None else PooledLayers(config.pooling, width)
        self.ln_post = nn.LayerNorm(width, config.layer_norm_eps)
        self.attn_pool = LatentAttentionPool(config) if config.readout == "map" else None
        self.proj: nn.Parameter | None = None
        if config.projection == "linear":
            self.proj = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))
        reduction = config.patch_reduction
        self.patch_reducer = None if reduction is None else make_patch_reducer(reduction)

    def forward(self, images: Tensor | NativeImages) -> Tensor:
        """Normalized images (B, 3, H, W), or of their own shape, to features (B, embed_dim)."""
        return self.run(images).features

    def run(self, images: Tensor | NativeImages, *, generator: Randomness = None) -> TowerOutput:
        """Features with the losses and records of a token pooling.

        Args:
            images: (B, 3, H, W), or patches of images of their own shape; normalized.
            generator: Randomness of patch reduction and token pooling.
        """
        if isinstance(images, NativeImages):
            return self._run_native(images, generator)
        patches = self.conv1(images)  # (B, D, rows, columns)
        grid = (patches.shape[2], patches.shape[3])
        x = patches.flatten(2).transpose(1, 2) + self._patch_positions(grid)  # (B, N, D)
        if self.patch_reducer is not None and self.training:
            keep = self.patch_reducer.keep_indices(
                grid, generator, batch=x.shape[0], device=x.device
            )  # (B, K)
            x = x.gather(1, keep[:, :, None].expand(-1, -1, x.shape[2]))  # (B, K, D)
        if self.class_embedding is not None:
            x = torch.cat([self._class_token().expand(x.shape[0], 1, -1), x], dim=1)  # (B, L, D)
        if self.pooling is not None:
            return self._run_pooled(x, None, generator)
        if self.ln_pre is not None:
            x = self.ln_pre(x)
        x = self.transformer(x, Padded(read_at=self._read_at()))
        return TowerOutput(self._project(self._read(x)), {}, {})

    def _run_native(self, images: NativeImages, generator: Randomness) -> TowerOutput:
        """Features of images of their own shape, none of which depends on the others."""
        x, counts = self._embed_native(images, generator)  # (class token + N, D)
        has_class_token = self.class_embedding is not None
        lengths = torch.tensor(counts) + self._first_patch
        if self.pooling is not None:
            position = torch.arange(int(lengths.max()), device=x.device).expand(len(images), -1)
            row = torch.arange(len(images), device=x.device)[:, None].expand_as(position)
            index = gather_tokens(counts, row, position, has_class_token=has_class_token)
            real = position < lengths.to(x.device)[:, None]  # (B, L)
            mask = None if len(set(counts)) == 1 else real
            return self._run_pooled(F.embedding(index, x), mask, generator, images.grids)
        reads_class_token = self._read_at() is not None
        packed = Packed(
            lengths, x.device, causal=False, read="first" if reads_class_token else None
        )
        x = x[gather_tokens(counts, packed.row, packed.position, has_class_token=has_class_token)]
        if self.ln_pre is not None:
            x = self.ln_pre(x)
        x = self.transformer(x, packed)  # (N, D), or (B, D) in the order of lengths
        if reads_class_token:
            return TowerOutput(self._project(self._read(x[packed.unsort, None])), {}, {})
        tokens, real = packed.pad(x)
        return TowerOutput(self._project(self._read(tokens, real)), {}, {})

    def _embed_native(
        self, images: NativeImages, generator: Randomness
    ) -> tuple[Tensor, list[int]]:
        """The class token, if there is one, then the kept patches of all images; their numbers."""
        x = self._embed_patches(images.patches[images.mask])  # (N, D)
        grids, places = find_places(images.grids, x.device)
        tables = [self._patch_positions(grid) for grid in grids]
        x = x + F.embedding(places, torch.cat(tables))
        counts = list(images.counts)
        if self.patch_reducer is not None and self.training:
            keep, counts = keep_patches(self.patch_reducer, images.grids, generator, x.device)
            x = x[keep]
        if self.class_embedding is not None:
            x = torch.cat([self._class_token().to(x.dtype)[None], x])
        return x, counts

    def _embed_patches(self, patches: Tensor) -> Tensor:
        """Patches (N, P) to (N, D)."""
        if isinstance(self.conv1, nn.Conv2d):
            weight = self.conv1.weight.permute(0, 2, 3, 1).flatten(1)  # (D, P)
            return F.linear(patches, weight, self.conv1.bias)
        side = self.config.patch_size
        return self.conv1(patches.view(-1, side, side, 3).permute(0, 3, 1, 2)).flatten(1)

    def _run_pooled(
        self,
        x: Tensor,
        mask: Tensor | None,
        generator: Randomness,
        grids: tuple[Grid, ...] | None = None,
    ) -> TowerOutput:
        """Run the pooled layers on tokens (B, L, D), of which `mask` (B, L) tells padding."""
        assert self.pooling is not None
        if self.ln_pre is not None:
            x = self.ln_pre(x)
        batch, length = x.shape[:2]
        keep_apart = torch.arange(length, device=x.device).expand(batch, -1) < self._first_patch
        is_first_read = self.config.readout == "class_token"
        read = x.new_zeros(batch, dtype=torch.long) if is_first_read else None
        pooled = self.pooling(
            self.transformer,
            x,
            keep_apart=keep_apart,
            mask=mask,
            read=read,
            generator=generator,
            grids=grids,
        )
        features = self._project(self._read(pooled.tokens, mask, pooled))
        return TowerOutput(features, pooled.losses, pooled.records)

    def _add_positions(self) -> None:
        """Add the position table of the configured grid: a parameter, or a buffer if computed."""
        config = self.config
        self._first_patch = int(config.class_token)
        class_row = config.class_token and config.class_position
        if config.position == "learned":
            rows = config.grid[0] * config.grid[1] + class_row
            self.positional_embedding = nn.Parameter(
                config.width**-0.5 * torch.randn(rows, config.width)
            )
            return
        table = make_sin_cos_table(config.width, config.grid)
        table = torch.cat([torch.zeros(int(class_row), config.width, device="cpu"), table])
        device = next(self.conv1.parameters()).device  # of the weights, possibly meta
        self.register_buffer("positional_embedding", table.to(device))

    def _class_token(self) -> Tensor:
        """(D,) with its position."""
        assert self.class_embedding is not None
        if self.config.class_position:
            return self.class_embedding + self.positional_embedding[0]
        return self.class_embedding

    def _patch_positions(self, grid: Grid) -> Tensor:
        """(N, D) for a grid of any size."""
        config, table = self.config, cast(Tensor, self.positional_embedding)
        if config.class_token and config.class_position:
            table = table[1:]
        configured = config.grid
        if config.position == "sin_cos":
            if is_known_equal(grid[0], configured[0]) and is_known_equal(grid[1], configured[1]):
                return table
            return make_sin_cos_table(config.width, grid).to(table)
        if config.position_interpolation == "flattened":
            return resize_sequence(table, grid[0] * grid[1])
        return resize_grid(table, configured, grid, config.position_interpolation)

    def _read_at(self) -> int | None:
        return 0 if self.config.readout == "class_token" else None

    def _read(
        self, x: Tensor, real: Tensor | None = None, pooled: PooledRun | None = None
    ) -> Tensor:
        """Tokens after the last layer (B, ·, D) to one feature for each image (B, D).

        `real` (B, L) is True for tokens, before a pooling if there is one; None for all.
        """
        if not self.config.norm_after_readout:
            x = self.ln_post(x)
        if self.attn_pool is not None:
            x = self.attn_pool(x, real if pooled is None else pooled.mask)
        elif self.config.readout == "class_token":
            x = x[:, 0]
        else:
            x = self._average(x, real, pooled)
        return self.ln_post(x) if self.config.norm_after_readout else x

    def _average(self, x: Tensor, real: Tensor | None, pooled: PooledRun | None) -> Tensor:
        """The mean (B, D) of tokens, in which each counts as its segment."""
        if pooled is not None:
            segment_of = pooled.segment_of.clamp(min=0)
            x = x.gather(1, segment_of[:, :, None].expand(-1, -1, x.shape[2]))
        first = self._first_patch if self.config.readout == "patch_average" else 0
        if real is None:
            return x[:, first:].mean(1)
        weight = real[:, first:, None].to(x.dtype)
        return (x[:, first:] * weight).sum(1) / weight.sum(1)

    def _project(self, x: Tensor) -> Tensor:
        return x if self.proj is None else x @ self.proj
