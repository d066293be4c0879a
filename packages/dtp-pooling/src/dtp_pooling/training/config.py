"""What a training run of the language model is, and the named runs.

The published ones are the settings of Nawrot et al. 2023 on text8: Transformer-XL attention,
post-norm, 200,000 steps. Deviation: bfloat16 instead of float16 autocast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from dtp_pooling.language_model.config import BoundaryConfig, LanguageModelConfig
from dtp_pooling.strict_config import require, require_one_of


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A training run.

    Attributes:
        model: Sizes and boundaries; `vocabulary` and `boundaries.space` are set from the alphabet.
        alphabet: `text8` (27 symbols), `bytes`, or `characters` of the text.
        steps: Optimizer steps.
        batch_size: Chunks per step.
        context: Characters per chunk.
        learning_rate: Peak, of Adam.
        warmup: Steps of linear warm-up; then a cosine to zero.
        clip: Largest gradient norm.
        seed: Of weights, order of chunks, dropout and boundaries.
        precision: Autocast of the forward pass.
        log_every: Steps between lines of `metrics.jsonl`.
        evaluate_every: Steps between evaluations and checkpoints.
        evaluation_window: Characters the model sees in evaluation.
        evaluation_stride: Characters scored per window, at most `evaluation_window`.
        unigram_vocabulary: Pieces of the subword model for `unigram`.
        teacher: Folder of a trained run, such as an unpooled one, whose next-character
            probabilities are half of what is learned.
        pruned_from: Folder of a trained run whose largest heads and hidden units this run starts
            with; `model` says how many (extra `pruning`).
        quantize: `int8` evaluates and generates with int8 linear layers (extra `int8`).
    """

    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    alphabet: Literal["text8", "bytes", "characters"] = "text8"
    steps: int = 200_000
    batch_size: int = 8
    context: int = 2048
    learning_rate: float = 2.5e-4
    warmup: int = 4000
    clip: float = 0.25
    seed: int = 1111
    precision: Literal["float32", "bfloat16"] = "float32"
    log_every: int = 100
    evaluate_every: int = 10_000
    evaluation_window: int = 2048
    evaluation_stride: int = 512
    unigram_vocabulary: int = 5000
    teacher: str | None = None
    pruned_from: str | None = None
    quantize: Literal["none", "int8"] = "none"

    def __post_init__(self) -> None:
        require_one_of("alphabet", self.alphabet, Literal["text8", "bytes", "characters"])
        require_one_of("quantize", self.quantize, Literal["none", "int8"])
        require_one_of("precision", self.precision, Literal["float32", "bfloat16"])
        counts = ("steps", "batch_size", "context", "log_every", "evaluate_every")
        for name in (*counts, "evaluation_stride", "unigram_vocabulary"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1")
        require(
            self.evaluation_stride <= self.evaluation_window,
            f"evaluation_stride must be at most evaluation_window = {self.evaluation_window}, got "
            f"{self.evaluation_stride}",
        )
        require(self.warmup >= 0, f"warmup must be at least 0, got {self.warmup}")
        rate = self.learning_rate
        require(0 < rate < math.inf, f"learning_rate must be above 0 and finite, got {rate}")
        require(self.clip > 0, f"clip must be above 0, got {self.clip}")
        require(0 <= self.seed < 2**32, f"seed must be within 0 and 2**32 - 1, got {self.seed}")


_PUBLISHED = TrainingConfig(
    model=LanguageModelConfig(attention="relative", norm="post", attention_dropout=0.1),
    precision="bfloat16",
)
_CPU = TrainingConfig(
    model=LanguageModelConfig(
        width=128,
        num_heads=4,
        head_dim=32,
        feedforward=512,
        pre_layers=1,
        shortened_layers=4,
        post_layers=1,
        dropout=0.0,
    ),
    steps=2000,
    context=512,
    learning_rate=1e-3,
    warmup=100,
    evaluate_every=500,
    evaluation_window=512,
    evaluation_stride=256,
    unigram_vocabulary=1000,
)
_BOUNDARIES = {
    "vanilla": BoundaryConfig(kind="none"),
    "fixed-2": BoundaryConfig(kind="fixed", factor=2),
    "fixed-3": BoundaryConfig(kind="fixed", factor=3),
    "fixed-4": BoundaryConfig(kind="fixed", factor=4),
    "whitespace": BoundaryConfig(kind="whitespace"),
    "unigram": BoundaryConfig(kind="unigram", target_loss="double_sigmoid"),
    "entropy": BoundaryConfig(kind="entropy", target_loss="double_sigmoid"),
    "gumbel": BoundaryConfig(kind="gumbel"),
    "random": BoundaryConfig(kind="random"),
}


def _named(base: TrainingConfig, boundaries: BoundaryConfig) -> TrainingConfig:
    return replace(base, model=replace(base.model, boundaries=boundaries))


PRESETS = {
    **{f"text8-{name}": _named(_PUBLISHED, b) for name, b in _BOUNDARIES.items()},
    **{f"cpu-{name}": _named(_CPU, b) for name, b in _BOUNDARIES.items()},
}
"""`text8-*` are the published settings (`random` is ours), `cpu-*` small ones for a laptop."""
