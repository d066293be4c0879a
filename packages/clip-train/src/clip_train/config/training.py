"""The sections of a config about training: length, optimizer and loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from clip_models.config import require


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, batch and numbers of the run."""

    steps: int | None = None
    """Optimizer steps; takes precedence over `epochs`."""
    epochs: float | None = None
    """Passes over the training set."""
    samples: int | None = None
    """Image–caption pairs to see, rounded up to whole steps; comes after `steps` and before
    `epochs`."""
    batch_size: int = 256
    """Image–caption pairs a step, of all processes together."""
    accumulation: int = 1
    """Compute a process's batch in that many parts, to save memory.  The gradient is still that of
    the whole batch; embeddings are computed twice."""
    seed: int = 0
    """Everything random follows from it."""
    device: str = "auto"
    """`auto` (CUDA when there is one), `cpu`, `cuda`, `cuda:1`, …"""
    backend: Literal["auto", "single", "ddp", "fsdp2", "xla"] = "auto"
    """`ddp` and `fsdp2` (parameters sharded) run under torchrun; `auto` is `ddp` there, and a
    single process otherwise; `xla` needs torch_xla."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """`bf16` and `fp16` compute the towers in that type by autocast, `fp16` with a loss scale;
    weights and loss stay fp32."""
    compile: Literal["", "inductor", "aot_eager"] = ""
    """Compile the towers with that backend of torch.compile; empty does not."""
    gradient_checkpointing: bool = False
    """Compute each transformer layer again in the backward pass instead of keeping what it made."""
    timeout_s: float = 600.0
    """Seconds that a process waits for the others before it gives up."""
    overfit_batch: int | None = None
    """Train on the first that many samples over and over, unaugmented: a check that the loss can
    reach its floor.  Nothing is evaluated."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 2, f"batch_size must be 2 or more, got {self.batch_size}")
        for name in ("samples", "accumulation", "timeout_s"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} must be positive, got {value}")
        require(
            self.overfit_batch is None or self.overfit_batch >= 2,
            f"overfit_batch must be 2 or more, got {self.overfit_batch}",
        )
        require(self.steps is None or self.steps >= 1, f"steps must be positive, got {self.steps}")
        require(
            self.epochs is None or 0 < self.epochs < math.inf,
            f"epochs must be positive and finite, got {self.epochs}",
        )
        require(0 <= self.seed < 2**63, f"seed must be 0 or more, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its learning rate over time."""

    name: Literal["adamw", "muon"] = "adamw"
    """`muon` updates the matrices of transformer blocks by torch's Muon, all else by AdamW."""
    lr: float = 5e-4
    """Peak learning rate."""
    lr_rule: Literal["fixed", "linear", "sqrt"] = "fixed"
    """`linear`: `lr` is meant for `lr_batch_size` samples a step and scales with the batch; `sqrt`:
    with its root."""
    lr_batch_size: int = 256
    """The batch that `lr` is meant for under a rule."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of the first and second moment; the first is also Muon's momentum."""
    eps: float = 1e-6
    """Added to the root of the second moment."""
    weight_decay: float = 0.2
    """Decoupled decay of matrices; vectors, biases, norms and the logit scale have none."""
    image_layer_decay: float = 1.0
    """Factor of the learning rate from each group of the image tower to the one before it."""
    text_layer_decay: float = 1.0
    """The same for the text tower."""
    schedule: Literal["cosine", "constant", "constant_cooldown"] = "cosine"
    """Learning rate after the warmup: cosine to `final_lr`, constant, or constant and then linearly
    to zero over the last `cooldown_steps`."""
    first_lr: float = 0.0
    """Learning rate that the warmup starts from."""
    final_lr: float = 0.0
    """Learning rate that the cosine ends at."""
    warmup_steps: int = 0
    """Steps of linear warmup."""
    warmup_samples: int | None = None
    """The same in samples; takes precedence."""
    cooldown_steps: int = 0
    """Steps of the cooldown."""
    cooldown_samples: int | None = None
    """The same in samples; takes precedence."""
    clip_norm: float | None = None
    """Largest norm of the model's whole gradient; None leaves it alone."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the weights, with this decay a step; it is what is
    evaluated and what the run leaves as its model."""

    def __post_init__(self) -> None:
        for name in ("lr", "eps", "lr_batch_size", "image_layer_decay", "text_layer_decay"):
            require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("lr", "eps", "first_lr", "final_lr", "weight_decay"):
            value = getattr(self, name)
            require(math.isfinite(value), f"{name} must be finite, got {value}")
        require(
            all(0 <= beta < 1 for beta in self.betas), f"betas must be in [0, 1), got {self.betas}"
        )
        for name in ("warmup_steps", "warmup_samples", "cooldown_steps", "cooldown_samples"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"{name} must be 0 or more, got {value}")
        require(
            self.schedule == "constant_cooldown"
            or not (self.cooldown_steps or self.cooldown_samples),
            f"a cooldown goes with schedule 'constant_cooldown', got {self.schedule!r}",
        )
        require(self.weight_decay >= 0, f"weight_decay must be 0 or more, got {self.weight_decay}")
        require(
            self.clip_norm is None or self.clip_norm > 0,
            f"clip_norm must be positive, got {self.clip_norm}; leave it out for no clipping",
        )
        require(
            self.ema_decay is None or 0 < self.ema_decay < 1,
            f"ema_decay must be in (0, 1), got {self.ema_decay}; leave it out for no average",
        )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The objective."""

    kind: Literal["infonce", "multi_positive", "sigmoid", "none"] = "multi_positive"
    """`infonce`: only a pair's own caption is right.  `multi_positive`: equal captions are one.
    `sigmoid`: each pair is a binary decision (SigLIP).  `none`: distillation alone."""
    label_smoothing: float = 0.0
    """Share of the target spread over all candidates."""
    tile: int | None = None
    """Compute the pairs of the batch in tiles of that side, and again in the backward pass, instead
    of keeping all of them: memory grows with the batch, not with its square."""
    teacher: str = ""
    """A model to distil from: a model directory, `hf-hub:org/name`, or with a `teacher_name` a file
    of weights in any dialect.  It sees the same images and the same tokens."""
    teacher_name: str = ""
    """The registered model that `teacher` has the weights of, where it does not say so itself."""
    teacher_images: str = ""
    """Distil from embeddings of the training images instead: a file of `clip-eval embed --data`,
    .npz or .parquet, whose keys are the samples'."""
    teacher_texts: str = ""
    """The same of all captions: a file of `clip-eval embed --texts`."""
    teacher_logit_scale: float = 100.0
    """Inverse temperature of embeddings in files."""
    teacher_weight: float = 1.0
    """Factor of the distillation loss, which is added to the loss of `kind`."""

    def __post_init__(self) -> None:
        require(
            0 <= self.label_smoothing < 1,
            f"label_smoothing must be in [0, 1), got {self.label_smoothing}",
        )
        require(
            not self.label_smoothing or self.kind in ("infonce", "multi_positive"),
            f"label_smoothing goes with softmax losses, got kind {self.kind!r}",
        )
        require(self.tile is None or self.tile >= 1, f"tile must be positive, got {self.tile}")
        require(
            bool(self.teacher_images) == bool(self.teacher_texts),
            "teacher_images and teacher_texts go together, got "
            f"{self.teacher_images!r} and {self.teacher_texts!r}",
        )
        require(
            not (self.teacher and self.teacher_images),
            "give a teacher or its embeddings, got both teacher and teacher_images",
        )
        require(
            bool(self.teacher) or not self.teacher_name,
            f"teacher_name goes with teacher, got {self.teacher_name!r} alone",
        )
        require(
            self.kind != "none" or bool(self.teacher or self.teacher_images),
            "kind 'none' leaves no loss without a teacher",
        )
        for name in ("teacher_weight", "teacher_logit_scale"):
            require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
