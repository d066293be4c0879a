"""Configuration of token pooling in image and text towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dtp_pooling.pooling.boundary_settings import (
    EvaluationRule,
    PredictorKind,
    RateLoss,
    require_ranges,
)
from dtp_pooling.strict_config import require, require_members

TokenOrder = Literal["raster", "serpentine", "hilbert"]
PoolingKind = Literal["top_k", "gumbel", "routing", "fixed", "random", "dissimilarity"]

LEARNED = ("top_k", "gumbel", "routing")


@dataclass(frozen=True, kw_only=True)
class TokenPoolingConfig:
    """Where segments of a tower's tokens end.

    Attributes:
        kind: `top_k` keeps an exact number of segments at learned scores. `gumbel` samples from
            learned probabilities, with a rate loss. `routing` ends a segment where neighboring
            tokens differ under learned projections, without noise and with a rate loss (H-Net,
            Hwang et al. 2025, whose settings are rate_loss="ratio", weight=0.03, smooth and
            confidence). `fixed` spaces segments evenly. `random`
            is the control with the same number. `dissimilarity` needs no training: segments end
            where neighboring tokens differ most.
        rate: Segments per poolable token, in (0, 1]; 1 leaves the tower as it was.
        scores: Boundary predictor of learned kinds: `mlp`, or `cosine` routing between neighbors,
            which `routing` always has.
        hidden: Width inside the MLP predictor; None for 4 times the tower's.
        temperature: Temperature of the straight-through relaxation.
        sample: Whether boundaries are sampled in training (`top_k`: without replacement), or the
            likeliest are taken.
        evaluation: How `gumbel` decides in evaluation: `threshold` at one half, or `pattern`,
            with the same fixed noise at each position for every sample.
        smooth: Whether a learned kind blends a segment with those before it, the more the less
            sure the boundary between them is.
        confidence: Whether the task's gradient reaches the probability of every decision of a
            learned kind, straight through.
        rate_loss: Loss that holds `gumbel` and `routing` at their rate.
        interval: Lowest and highest rate for `rate_loss="interval"`.
        weight: Weight of the rate loss.
        order: Order in which the patches of an image form a sequence.
        compare: What `dissimilarity` compares: the `tokens`, or their `keys` in the next attention
            layer, as Token Merging does.
        proportional: Whether the attention of later layers weighs a segment by its number of
            tokens.
        max_segments: Number of segments to pad every row to, those kept apart included; None for
            that of the longest row. A given number avoids a device synchronization and makes
            `torch.compile` and `torch.export` possible (exact kinds, raster order, no mask).
        grid: Rows and columns of patches; None for a square.
        seed: Seed of the fixed pattern of `random` and `gumbel` in evaluation.
    """

    kind: PoolingKind = "top_k"
    rate: float = 0.25
    scores: PredictorKind = "mlp"
    hidden: int | None = None
    temperature: float = 0.5
    sample: bool = True
    evaluation: EvaluationRule = "threshold"
    smooth: bool = False
    confidence: bool = False
    rate_loss: RateLoss = "binomial"
    interval: tuple[float, float] = (0.2, 0.3)
    weight: float = 1.0
    order: TokenOrder = "raster"
    compare: Literal["tokens", "keys"] = "tokens"
    proportional: bool = False
    max_segments: int | None = None
    grid: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_members(self)
        require(
            self.compare == "tokens" or self.kind == "dissimilarity",
            f"compare='keys' is for kind='dissimilarity', got kind={self.kind!r}",
        )
        require(0 < self.rate <= 1, f"rate must be in (0, 1], got {self.rate}; 1 pools nothing")
        require(
            self.kind not in ("gumbel", "routing") or self.rate < 1,
            f"kind={self.kind!r} needs a rate below 1: its prior is undefined there; use 'top_k'",
        )
        for name in ("smooth", "confidence"):
            require(
                not getattr(self, name) or self.kind in LEARNED,
                f"{name} needs the probabilities of a learned kind, got kind={self.kind!r}; "
                f"use one of {LEARNED}",
            )
        object.__setattr__(self, "interval", tuple(self.interval))
        require_ranges(self.hidden, self.temperature, self.weight, self.interval, self.seed)
        if self.grid is not None:
            object.__setattr__(self, "grid", tuple(self.grid))
