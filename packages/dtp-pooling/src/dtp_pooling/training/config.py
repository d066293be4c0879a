"""Configuration of a training run of the language model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from dtp_pooling.language_model.config import LanguageModelConfig
from dtp_pooling.strict_config import require, require_at_least, require_members


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A training run.

    Attributes:
        model: Sizes and boundaries; `vocabulary` and `boundaries.space` are set from the alphabet.
        alphabet: `text8` (27 symbols), `bytes`, or `characters` of the text.
        steps: Number of optimizer steps.
        batch_size: Number of chunks of text per step.
        context: Number of characters per chunk.
        learning_rate: Peak learning rate of Adam.
        part_rates: Factors of the learning rate for layers on tokens, on segments, and on segments
            of segments; H-Net has higher ones for outer layers.
        warmup: Number of steps of linear warm-up, before a cosine decay to zero.
        clip: Gradient norm above which gradients are clipped.
        seed: Seed of initial weights, order of chunks, dropout and boundaries.
        precision: Autocast dtype of the forward pass.
        log_every: Number of steps between records of training metrics.
        evaluate_every: Number of steps between evaluations, each with a checkpoint.
        keep_last: Number of newest checkpoints to keep.
        evaluation_window: Number of characters that the model sees in evaluation.
        evaluation_stride: Number of characters scored per window, at most `evaluation_window`.
        unigram_vocabulary: Number of pieces of the subword model of the kind `unigram`.
        teacher: Directory of a trained run, such as an unpooled one, whose next-character
            probabilities are distilled: the objective is the mean of the cross-entropy and the
            divergence from them.
        pruned_from: Directory of a trained run whose largest heads and hidden units are the initial
            weights, as many as `model` has (extra `pruning`).
        init_from: Directory of a trained run whose weights are the initial ones and whose alphabet
            the texts must have; `model` must fit its weights.
        quantize: Precision of linear layers in evaluation and generation (`int8`: extra `int8`).
    """

    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    alphabet: Literal["text8", "bytes", "characters"] = "text8"
    steps: int = 200_000
    batch_size: int = 8
    context: int = 2048
    learning_rate: float = 2.5e-4
    part_rates: tuple[float, float, float] = (1.0, 1.0, 1.0)
    warmup: int = 4000
    clip: float = 0.25
    seed: int = 1111
    precision: Literal["float32", "bfloat16"] = "float32"
    log_every: int = 100
    evaluate_every: int = 10_000
    keep_last: int = 2
    evaluation_window: int = 2048
    evaluation_stride: int = 512
    unigram_vocabulary: int = 5000
    teacher: str | None = None
    pruned_from: str | None = None
    init_from: str | None = None
    quantize: Literal["none", "int8"] = "none"

    def __post_init__(self) -> None:
        require_members(self)
        require_at_least(self, 1, "steps", "batch_size", "context", "log_every", "evaluate_every")
        require_at_least(self, 1, "keep_last", "evaluation_stride", "unigram_vocabulary")
        require_at_least(self, 0, "warmup")
        require(
            self.evaluation_stride <= self.evaluation_window,
            f"evaluation_stride must be at most evaluation_window = {self.evaluation_window}, got "
            f"{self.evaluation_stride}",
        )
        require(
            self.init_from is None or self.pruned_from is None,
            "init_from and pruned_from both name initial weights; give one of them",
        )
        rate = self.learning_rate
        require(0 < rate < math.inf, f"learning_rate must be above 0 and finite, got {rate}")
        object.__setattr__(self, "part_rates", tuple(self.part_rates))
        require(
            all(0 <= factor < math.inf for factor in self.part_rates),
            f"part_rates must be three numbers of at least 0, got {self.part_rates}",
        )
        require(self.clip > 0, f"clip must be above 0, got {self.clip}")
        require(0 <= self.seed < 2**32, f"seed must be within 0 and 2**32 - 1, got {self.seed}")
