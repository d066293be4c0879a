"""The configuration of a training run, a tree of frozen dataclasses."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Literal

from clip_models.config import require

from clip_train.config.checks import require_at_least, require_positive
from clip_train.config.data import AugmentConfig, DataConfig
from clip_train.config.model import ModelConfig, TokenizerConfig
from clip_train.config.training import LossConfig, OptimConfig, TrainConfig

KINDS = ("auto", "classify", "multilabel", "retrieval")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation on `data.val` during training; one always runs at the end."""

    every_steps: int | None = None
    """Steps between evaluations; None for one at the end only."""
    every_samples: int | None = None
    """Samples between evaluations, rounded up to whole steps; takes precedence over
    `every_steps`."""
    batch_size: int = 256
    """Images per forward pass."""
    views: Literal["single", "mirror", "mirror_shift"] = "single"
    """Views of each image whose features are averaged: the image alone, its mirror image too, or
    both in three places a pixel apart. Results name them unless they are `single`."""
    kind: str | tuple[str, ...] = "auto"
    """Task of each set of `data.val`, or one for all: `classify` or `multilabel` (zero-shot, with
    class names), `retrieval` (recalls and loss of image–caption pairs), or `auto` for what a set's
    samples have."""
    names: tuple[str, ...] = ()
    """Name of each set of `data.val` in metrics and curves; empty for names made of the paths."""
    classnames: tuple[str, ...] = ()
    """Class names of each set of `data.val`, as in `data.classnames`, with "" for those of the
    data; empty for those of `data.classnames`."""
    metric: str = ""
    """Metric by which the best model is kept in `best`, such as `acc1`, `loss` or
    `text_retrieval_recall@1`; with several sets `NAME/METRIC`; empty for none."""
    patience: int | None = None
    """Number of evaluations in a row without a better `metric` after which the run ends early;
    None for never."""

    def __post_init__(self) -> None:
        require_positive(self, "batch_size", "patience")
        for kind in self.kinds:
            require(kind in KINDS, f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        require(
            len(set(self.names)) == len(self.names) and all(self.names),
            f"names must differ and not be empty, got {self.names}",
        )
        require(
            self.patience is None or bool(self.metric),
            f"patience goes with metric, got patience {self.patience} and no metric",
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The task of each set, or one for all."""
        return (self.kind,) if isinstance(self.kind, str) else self.kind


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints of the whole training state."""

    every_steps: int | None = None
    """Steps between checkpoints; None for one at an interruption and at the end only."""
    every_samples: int | None = None
    """Samples between checkpoints, rounded up to whole steps; takes precedence over
    `every_steps`."""
    every_minutes: float | None = None
    """Maximum minutes between checkpoints, in addition to steps or samples."""
    keep_last: int = 2
    """Number of latest checkpoints to keep."""
    keep_every_steps: int | None = None
    """Interval in steps of checkpoints that are never deleted; None deletes all but the latest."""
    directory: str = ""
    """Directory or fsspec URL (`s3://bucket/run`) of the checkpoints; empty for `checkpoints` in
    the run directory."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "keep_last")
        require_positive(self, "every_minutes", "keep_every_steps")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Metrics, which metrics.jsonl and TensorBoard always get."""

    every_steps: int = 10
    """Steps between rows of metrics.jsonl and TensorBoard points."""
    every_samples: int | None = None
    """Samples between rows, rounded up to whole steps; takes precedence over `every_steps`."""
    wandb_project: str = ""
    """Weights & Biases project to log to as well (`pip install clip-train[wandb]`); empty for
    none."""
    peak_tflops: float | None = None
    """Peak of one device in TFLOP/s, for the model FLOPs utilization (MFU); None for that of a
    common GPU, or no MFU."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Configuration of a training run."""

    description: str = ""
    """Description of the run, shown by `clip-train presets`."""
    needs: tuple[str, ...] = ()
    """Keys without which a run does not start, such as `model.pretrained` for a fine-tuning."""
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
            remedy = f"; --{name}.every_{unit} None leaves it to the end of the run"
            remedy = "" if name == "log" else remedy
            require(
                every is None or every >= 1,
                f"{name}.every_{unit} must be positive, got {every}{remedy}",
            )
        require(
            not (self.data.cache_images and self.augment.kind == "random_resized_crop"),
            "data.cache_images keeps images at the model's size, so augment.kind "
            "'random_resized_crop' has nothing to crop from; use 'shift' or cache_images = false",
        )
        require(
            self.augment.flip_choice == "random" or self.data.order == "exact",
            "augment.flip_choice 'alternating' knows a sample by its place in the data, and "
            "data.order 'stream' has none; use 'random', or order 'exact'",
        )
