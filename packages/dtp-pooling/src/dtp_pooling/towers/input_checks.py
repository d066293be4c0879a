"""Checks of what a tower calls its token pooling with. B batch, L tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor

from dtp_pooling.pooling.segment_plan import is_exported
from dtp_pooling.towers.config import TokenPoolingConfig


def check_inputs(
    config: TokenPoolingConfig,
    tokens: Tensor,
    mask: Tensor | None,
    keep_apart: Tensor | None,
    causal: bool,
    uniform: Tensor | None,
    keys: Tensor | None,
    needs_whole_images: bool = True,
) -> None:
    """Raise ValueError unless the arguments of a pooling fit each other and its configuration."""
    if tokens.dim() != 3:
        raise ValueError(f"tokens must be (B, L, D), got {tuple(tokens.shape)}")
    shape = tuple(tokens.shape[:2])
    for name, given in (("mask", mask), ("keep_apart", keep_apart)):
        if given is not None and (given.shape != shape or given.dtype != torch.bool):
            raise ValueError(
                f"{name} must be a bool (B, L) = {shape}, got {given.dtype} {tuple(given.shape)}"
            )
    if uniform is not None and uniform.shape != shape:
        raise ValueError(f"uniform must be (B, L) = {shape}, got {tuple(uniform.shape)}")
    if config.compare == "keys" and (keys is None or keys.shape[:2] != shape):
        raise ValueError(
            f"compare='keys' needs keys (B, L, ·) for tokens {tuple(tokens.shape)}, got "
            f"{None if keys is None else tuple(keys.shape)}; without an attention layer use "
            "compare='tokens'"
        )
    if causal and config.kind in ("top_k", "dissimilarity"):
        raise ValueError(
            f"kind={config.kind!r} looks at later tokens and would leak them in a causal "
            "tower; use 'gumbel', 'fixed' or 'random'"
        )
    known = not is_exported() and not torch.compiler.is_compiling()
    if known and mask is not None and bool((mask[:, 1:] > mask[:, :-1]).any()):
        raise ValueError("mask has real tokens after padding; pad at the end of rows")
    if config.order != "raster":
        same = keep_apart is None or bool((keep_apart == keep_apart[:1]).all())
        if causal or (needs_whole_images and mask is not None) or not same:
            raise ValueError(
                f"order={config.order!r} is for whole images with the same tokens kept apart in "
                "every row; use order='raster'"
            )
