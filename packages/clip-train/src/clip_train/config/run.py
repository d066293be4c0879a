"""The configuration of a training run: one frozen dataclass per concern, one tree for the run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from clip_models.config import require

from clip_train.config.data import (
    AugmentConfig,
    DataConfig,
    RangeAugmentConfig,
    VariableSizesConfig,
)
from clip_train.config.model import ModelConfig, TokenizerConfig
from clip_train.config.training import LossConfig, OptimConfig, TrainConfig

__all__ = [
    "AugmentConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "LogConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "RangeAugmentConfig",
    "TokenizerConfig",
    "TrainConfig",
    "VariableSizesConfig",
]


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Zero-shot evaluation on `data.val` during training; it always runs at the end."""

    every_steps: int | None = None
    """Steps between evaluations; None means only at the end."""
    every_samples: int | None = None
    """The same in samples, rounded up to whole steps; takes precedence."""
    batch_size: int = 256
    """Images a forward pass."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"batch_size must be positive, got {self.batch_size}")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When and where the whole training state is written."""

    every_steps: int | None = None
    """Steps between checkpoints; None means only when interrupted and at the end."""
    every_samples: int | None = None
    """The same in samples, rounded up to whole steps; takes precedence."""
    every_minutes: float | None = None
    """Also write one when the last is that old."""
    keep_last: int = 2
    """How many of them stay."""
    keep_every_steps: int | None = None
    """Those of steps that this number divides stay for good."""
    directory: str = ""
    """Where they go: empty for `checkpoints` in the run directory, a path, or a URL that fsspec
    knows (`s3://bucket/run`)."""

    def __post_init__(self) -> None:
        require(self.keep_last >= 1, f"keep_last must be 1 or more, got {self.keep_last}")
        for name in ("every_minutes", "keep_every_steps"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} must be positive, got {value}")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """When and where numbers are written; metrics.jsonl and TensorBoard always get them."""

    every_steps: int = 10
    """Steps between lines of metrics.jsonl and TensorBoard points."""
    every_samples: int | None = None
    """The same in samples, rounded up to whole steps; takes precedence."""
    wandb_project: str = ""
    """Also log to this project of Weights & Biases (`pip install clip-train[wandb]`)."""
    peak_tflops: float | None = None
    """Arithmetic speed of one device in TFLOP/s, to which the model FLOPs utilisation refers; None
    knows that of common GPUs and otherwise reports none."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole training run."""

    description: str = ""
    """One line for `clip-train presets`."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        for name, unit in itertools.product(("eval", "checkpoint", "log"), ("steps", "samples")):
            every = getattr(getattr(self, name), f"every_{unit}")
            require(
                every is None or every >= 1, f"{name}.every_{unit} must be positive, got {every}"
            )
        require(
            not (self.data.cache_images and self.augment.kind == "random_resized_crop"),
            "data.cache_images keeps images at the model's size, so augment.kind "
            "'random_resized_crop' has nothing to crop from; use 'shift' or cache_images = false",
        )
