"""Token pooling found by name.  B batch, L tokens, S segments, D width.

A config stores a name; the packages that are installed say what it means through the entry-point
group `clip_models.token_pooling`.  Nothing else is ever imported because of a config.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Protocol

from torch import Tensor, nn

from clip_models.config import PoolingConfig
from clip_models.randomness import Randomness
from clip_models.strict_config import ConfigError, nearest

GROUP = "clip_models.token_pooling"


class PooledTokens(Protocol):
    """Fewer tokens and where the old ones went."""

    @property
    def tokens(self) -> Tensor:
        """(B, S, D)."""

    @property
    def mask(self) -> Tensor | None:
        """(B, S) bool, True for segments, which come before all padding; None when all are."""

    @property
    def segment_of(self) -> Tensor:
        """(B, L) int64, the segment of each token; -1 where there was no token."""

    @property
    def loss(self) -> Tensor:
        """() to add to the task's loss."""

    @property
    def record(self) -> dict[str, Tensor]:
        """What to log."""


class TokenPooling(Protocol):
    """What an entry point's `(width, **args)` returns: an `nn.Module` with this call."""

    def __call__(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        keep_apart: Tensor | None,
        causal: bool,
        generator: Randomness,
    ) -> PooledTokens:
        """Pool tokens (B, L, D).

        Args:
            tokens: (B, L, D).
            mask: (B, L) bool, True for real tokens, which come before all padding; None for all.
            keep_apart: (B, L) bool, True for tokens that stay segments of their own (class token,
                end token); None for no token.
            causal: No segment may depend on what follows it.
            generator: As for the towers.
        """
        ...


def make_token_pooling(config: PoolingConfig, width: int) -> nn.Module:
    """The module a config names, for tokens of `width`.

    Raises:
        ConfigError: No installed package offers the name.
    """
    found = entry_points(group=GROUP)
    if config.name not in found.names:
        known = nearest(config.name, found.names) if found.names else ""
        raise ConfigError(
            f"no installed package offers the token pooling {config.name!r}{known}; "
            "pip install dtp-pooling"
        )
    module = found[config.name].load()(width, **config.args)
    assert isinstance(module, nn.Module), f"{config.name} must make an nn.Module, got {module!r}"
    return module
