"""Boundary predictors: logits per token of a segment that ends there.

B batch, L tokens, D width. Logits are float32 under any autocast and for any narrower tokens.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtp_pooling.pooling.boundary_settings import PredictorKind

_COSINE_LIMIT = 1 - 2e-4  # keeps the routing probability in [1e-4, 1 - 1e-4]


class MLPPredictor(nn.Module):
    """Boundary logits of each token by two linear layers with GELU between, from that token alone.

    Args:
        width: D.
        hidden: Width between the layers; None for 4 D.
    """

    def __init__(self, width: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = 4 * width if hidden is None else hidden
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(
        self, h: Tensor, lengths: Tensor | None = None, previous: Tensor | None = None
    ) -> Tensor:
        """(B, L) float32 logits of tokens (B, L, D); `lengths` and `previous` are ignored."""
        with without_autocast(h.device.type):
            x = F.gelu(wide_linear(self.hidden, h))
            return wide_linear(self.out, x).squeeze(-1)


class CosinePredictor(nn.Module):
    """Boundary logits from the dissimilarity of neighbors under two learned projections.

    The probability is (1 - cos(q, k)) / 2, H-Net's routing (Hwang et al. 2025), kept within
    [1e-4, 1 - 1e-4]. Both projections start as the identity. A boundary closes a segment, so the
    pair that decides about token t is (t, t + 1), and the last token always closes; a causal model
    decides by (t - 1, t), and the first token never closes, or always with `first_closes`.

    Args:
        width: D.
        causal: Decide about a token from it and the one before.
        first_closes: Whether the first token of a causal text closes, as in H-Net.
    """

    def __init__(self, width: int, causal: bool = False, first_closes: bool = False) -> None:
        super().__init__()
        self.causal, self.first_closes = causal, first_closes
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.query.weight)
        nn.init.eye_(self.key.weight)

    def forward(
        self,
        h: Tensor,
        lengths: Tensor | None = None,
        previous: Tensor | None = None,
        causal: bool | None = None,
    ) -> Tensor:
        """(B, L) float32 logits.

        Args:
            h: (B, L, D) tokens.
            lengths: (B,) valid tokens of each row; None for all.
            previous: (B, D) token before the first one, if there is one (causal only).
            causal: Overrides the module's own.
        """
        causal = self.causal if causal is None else causal
        if previous is not None and not causal:
            raise ValueError("previous is for causal scores; these decide by the next token")
        if previous is not None:
            h = torch.cat([previous[:, None], h], dim=1)
        with without_autocast(h.device.type):
            query = wide_linear(self.query, h[:, :-1])
            key = wide_linear(self.key, h[:, 1:])
            pairs = dissimilarity_logits(query, key)  # (B, L - 1)
        if previous is not None:
            return pairs
        if causal:
            limit = _limit_logit() if self.first_closes else -_limit_logit()
            return F.pad(pairs, (1, 0), value=limit)[:, : h.shape[1]]
        logits = F.pad(pairs, (0, 1), value=_limit_logit())[:, : h.shape[1]]
        if lengths is None:
            return logits
        last = torch.arange(h.shape[1], device=h.device) >= lengths[:, None] - 1
        return logits.masked_fill(last, _limit_logit())


def make_predictor(
    kind: PredictorKind, width: int, hidden: int | None = None, *, causal: bool = False
) -> MLPPredictor | CosinePredictor:
    """The predictor of a configuration.

    Args:
        kind: `mlp` or `cosine`.
        width: D.
        hidden: Width inside the MLP; None for 4 D.
        causal: Whether `cosine` decides by the token before instead of the next.
    """
    if kind == "mlp":
        return MLPPredictor(width, hidden)
    return CosinePredictor(width, causal=causal)


def dissimilarity_logits(a: Tensor, b: Tensor) -> Tensor:
    """Logits of the probability (1 - cos(a, b)) / 2 along the last dimension, at least float32."""
    wide = torch.promote_types(a.dtype, torch.float32)
    cosine = F.cosine_similarity(a.to(wide), b.to(wide), dim=-1)
    return -2 * torch.atanh(cosine.clamp(-_COSINE_LIMIT, _COSINE_LIMIT))


def without_autocast(device: str) -> AbstractContextManager[object]:
    """A context in which a device's autocast is off."""
    available = torch.amp.is_autocast_available(device)  # not on the meta device
    if available and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()  # which traced graphs do not show


def wide_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """What a linear layer gives (..., D), computed in at least float32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    bias = None if layer.bias is None else layer.bias.to(wide)
    return F.linear(x.to(wide), layer.weight.to(wide), bias)


def _limit_logit() -> float:
    return 2 * float(torch.atanh(torch.tensor(_COSINE_LIMIT)))
