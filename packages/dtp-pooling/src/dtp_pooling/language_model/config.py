"""Configurations of the pooled language model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from dtp_pooling.pooling.boundary_settings import (
    BoundaryTarget,
    PredictorKind,
    RateLoss,
    require_ranges,
)
from dtp_pooling.strict_config import require, require_at_least, require_members, require_one_of

EvaluationRule = Literal["threshold", "calibrated", "pattern"]
BoundaryKind = Literal[
    "none", "fixed", "whitespace", "unigram", "entropy", "gumbel", "routing", "random"
]
SegmentValue = Literal["mean", "last"]

LEARNED_FROM_TARGETS = ("unigram", "entropy")
LEARNED_FROM_TASK = ("gumbel", "routing")
LEARNED = (*LEARNED_FROM_TARGETS, *LEARNED_FROM_TASK)

# what None stands for
_BY_DEFAULT = {
    "value": "mean",
    "smooth": False,
    "confidence": False,
    "rate_loss": "binomial",
    "weight": 1.0,
}
_ROUTING = {
    "value": "last",
    "smooth": True,
    "confidence": True,
    "rate_loss": "ratio",
    "weight": 0.03,
}


@dataclass(frozen=True, kw_only=True)
class BoundaryConfig:
    """How a causal model decides where segments end.

    Attributes:
        kind: `none` runs every layer on all tokens. `fixed` and `whitespace` follow the data.
            `unigram` and `entropy` predict given subword ends or the model's own entropy spikes.
            `gumbel` samples from a predictor that learns from the task. `routing` closes a segment
            where a token differs from the one before, by learned projections, and nothing is drawn
            (H-Net, Hwang et al. 2025). `random` is the control.
        factor: Shortening factor of `fixed`, in tokens per segment.
        rate: Prior rate: share of tokens that close a segment, of `random` and of the rate loss of
            `gumbel` and `routing`.
        scores: Boundary predictor: `mlp`, or `cosine` routing between neighbors, which `routing`
            always has.
        hidden: Width inside the MLP predictor; None for 4 times the model's.
        temperature: Temperature of the Gumbel-sigmoid relaxation.
        evaluation: How `gumbel` decides in evaluation: `threshold` at a probability, one half as
            published; `calibrated`, the same at the probability that a share `rate` of the training
            text exceeds, which training sets before each evaluation; or `pattern`, sampling with
            the same fixed noise at each position in every text. The last two keep the rate of
            training also while the predictor is unsure.
        threshold: Probability above which `gumbel` closes a segment in evaluation.
        value: Value of a segment: the `mean` of its tokens, or its `last` one, which closes it;
            None for `last` with `routing`, else `mean`.
        smooth: Whether segments are averaged exponentially with those before them after their
            layers, weighted by the probabilities of their boundaries; None for true with `routing`.
        confidence: Whether the gradient of each token reaches the probability of its decision,
            straight through; None for true with `routing`.
        rate_loss: Loss that holds `gumbel` and `routing` at their rate; `interval` is zero within
            `interval`. None for `ratio` with `routing`, else `binomial`.
        interval: Lowest and highest rate for `rate_loss="interval"`.
        weight: Weight of the boundary loss in the total; None for 0.03 with `routing`, else 1.
        target_loss: Form of the cross-entropy of `unigram` and `entropy`.
        spikes_left: Number of earlier tokens whose entropy a spike exceeds.
        space: Token id of the space, for `whitespace`.
        seed: Seed of the fixed pattern of `random` and `gumbel` in evaluation.
    """

    kind: BoundaryKind = "gumbel"
    factor: int = 2
    rate: float = 0.2
    scores: PredictorKind = "mlp"
    hidden: int | None = None
    temperature: float = 0.5
    evaluation: EvaluationRule = "threshold"
    threshold: float = 0.5
    value: SegmentValue | None = None
    smooth: bool | None = None
    confidence: bool | None = None
    rate_loss: RateLoss | None = None
    interval: tuple[float, float] = (0.15, 0.25)
    weight: float | None = None
    target_loss: BoundaryTarget = "logits"
    spikes_left: int = 2
    space: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self.kind not in ("topk", "top_k"),
            "kind='top_k' picks boundaries by the whole text, which leaks the future in a causal "
            "model; use 'gumbel' with a rate",
        )
        require_members(self)
        require_at_least(self, 1, "factor", "spikes_left")
        for name in ("rate", "threshold"):
            share = getattr(self, name)
            require(0 < share < 1, f"{name} must be in (0, 1), got {share}")
        object.__setattr__(self, "interval", tuple(self.interval))
        for name, alias in (("value", SegmentValue), ("rate_loss", RateLoss)):
            if getattr(self, name) is not None:
                require_one_of(name, getattr(self, name), alias)
        for name in ("smooth", "confidence"):
            require(
                not getattr(self, name) or self.kind in LEARNED,
                f"{name} needs the probabilities of a learned kind, got kind={self.kind!r}; "
                f"use one of {LEARNED}",
            )
        weight = 1.0 if self.weight is None else self.weight
        require_ranges(self.hidden, self.temperature, weight, self.interval, self.seed)

    def resolve(self) -> BoundaryConfig:
        """The same with every setting that is None, but for `hidden`, as the kind has it."""
        defaults = _ROUTING if self.kind == "routing" else _BY_DEFAULT
        open_settings = {n: v for n, v in defaults.items() if getattr(self, n) is None}
        return dataclasses.replace(self, **open_settings)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Sizes of a pooled language model; the defaults are those of Nawrot et al. 2023.

    Deviation: they have an attention dropout of 0.1. With it, attention on CPU does not use the
    fused kernel of PyTorch (three times the time of a step at 2048 tokens), so the default is 0.

    Attributes:
        vocabulary: Number of symbols.
        width: Model width.
        num_heads: Number of heads of every layer.
        head_dim: Width of a head, even.
        feedforward: Width inside the feed-forward layers.
        pre_layers: Number of layers on all tokens, before pooling.
        shortened_layers: Number of layers on segments.
        post_layers: Number of layers on all tokens, after unpooling.
        attention: `rotary`, or `relative` as in Transformer-XL.
        norm: Layer norm before (`pre`, with one more at the end) or after (`post`) each part.
        dropout: Dropout rate of embeddings and of each part's output.
        attention_dropout: Dropout rate of attention weights.
        boundaries: Where segments end.
        residual: How tokens from before pooling are added after it: as they are (`identity`), or
            through a float32 linear map that begins at zero (`linear`, as in H-Net).
        part_norms: Whether the layers on tokens before pooling, and those on segments, end with an
            RMS norm, as in H-Net.
        nested_layers: Number of layers on segments of segments, in the middle of
            `shortened_layers`; they need a kind in `nested`.
        nested: Where segments of segments end: `none`, `fixed`, `gumbel`, `routing` or `random`.
    """

    vocabulary: int = 27
    width: int = 512
    num_heads: int = 8
    head_dim: int = 64
    feedforward: int = 2048
    pre_layers: int = 2
    shortened_layers: int = 8
    post_layers: int = 2
    attention: Literal["rotary", "relative"] = "rotary"
    norm: Literal["pre", "post"] = "pre"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    boundaries: BoundaryConfig = field(default_factory=BoundaryConfig)
    residual: Literal["identity", "linear"] = "identity"
    part_norms: bool = False
    nested_layers: int = 0
    nested: BoundaryConfig = field(default_factory=lambda: BoundaryConfig(kind="none"))

    def __post_init__(self) -> None:
        require_members(self)
        require_at_least(self, 1, "vocabulary", "width", "num_heads", "head_dim", "feedforward")
        require_at_least(self, 0, "pre_layers", "shortened_layers", "post_layers", "nested_layers")
        require(
            self.nested.kind in ("none", "fixed", *LEARNED_FROM_TASK, "random"),
            f"nested.kind={self.nested.kind!r} reads characters or targets, which segments do not "
            "have; use 'fixed', 'gumbel', 'routing' or 'random'",
        )
        is_nested = self.nested.kind != "none"
        require(
            is_nested == (self.nested_layers > 0),
            f"nested_layers={self.nested_layers} does not fit nested.kind={self.nested.kind!r}: "
            "segments of segments need both, at least one layer and a kind",
        )
        require(
            not is_nested or self.boundaries.kind != "none",
            "nested segments are made of segments; boundaries.kind must not be 'none'",
        )
        for name in ("head_dim", "width"):
            require(getattr(self, name) % 2 == 0, f"{name} must be even, got {getattr(self, name)}")
        for name in ("dropout", "attention_dropout"):
            share = getattr(self, name)
            require(0 <= share < 1, f"{name} must be in [0, 1), got {share}")
