"""Token pooling found by name. B batch, L tokens, S segments, D width.

A config stores a name; an installed package defines it in the entry-point group
`clip_models.token_pooling`. Nothing else is ever imported because of a config.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Protocol

from torch import Tensor, nn

from clip_models.config.strict import nearest
from clip_models.config.towers import PoolingConfig
from clip_models.errors import ConfigError

GROUP = "clip_models.token_pooling"


class PooledTokens(Protocol):
    """Pooled tokens and the segment of each token."""

    @property
    def tokens(self) -> Tensor:
        """(B, S, D)."""

    @property
    def mask(self) -> Tensor | None:
        """(B, S) bool, True for segments, which come before all padding; None when all are."""

    @property
    def segment_of(self) -> Tensor:
        """(B, L) int64, the segment of each token; -1 for padding."""

    @property
    def key_bias(self) -> Tensor | None:
        """(B, S) added to the attention scores for each segment; None for zeros.

        It counts the tokens of the call. After an earlier pooling, where each of them stands for
        several tokens, the tower adds the logarithm of their mean number.
        """

    @property
    def loss(self) -> Tensor:
        """() to add to the task's loss."""

    @property
    def record(self) -> dict[str, Tensor]:
        """Tensors to log."""


class TokenPooling(Protocol):
    """The call of the `nn.Module` that an entry point's `(width, **args)` makes.

    With a true attribute `reads_uniform` it is also called with `uniform`, (B, L) float32 in the
    open interval (0, 1): random numbers that depend only on the key of the row and the place. With
    a true attribute `reads_keys` it is also called with `keys`, (B, L, ·): those of the next layer.
    With a true attribute `reads_grids`, a pooling of the patches of images of their own shape is
    also called with `grids`: rows and columns of each image, B pairs. A method `measured_sizes()`
    gives the arguments that its weights show after they were cut in place, if others than given.
    """

    def __call__(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        keep_apart: Tensor | None,
        causal: bool,
        **wanted: Any,
    ) -> PooledTokens:
        """Pool tokens (B, L, D).

        Args:
            tokens: (B, L, D).
            mask: (B, L) bool, True for tokens, which come before all padding; None for all.
            keep_apart: (B, L) bool, True for tokens that are never pooled with others (class token,
                end token); None for no token.
            causal: No segment may depend on later tokens.
            **wanted: `uniform`, `keys`, `grids`, each only if the module's attribute asks for it.
        """
        ...


def make_token_pooling(config: PoolingConfig, width: int) -> nn.Module:
    """The module a config names, for tokens of `width`.

    Raises:
        ConfigError: No installed package defines the name, or that package refuses the arguments.
    """
    found = entry_points(group=GROUP)
    if config.name not in found.names:
        known = nearest(config.name, found.names) if found.names else ""
        raise ConfigError(
            f"no installed package offers the token pooling {config.name!r}{known}; "
            "pip install dtp-pooling"
        )
    try:
        module = found[config.name].load()(width, **config.args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"token pooling {config.name!r}: {error}") from error
    assert isinstance(module, nn.Module), f"{config.name} must make an nn.Module, got {module!r}"
    return module
