"""Config sections about training: length, optimizer and loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from clip_models.config import require

from clip_train.config.checks import require_at_least, require_positive, require_share


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, batch size and numerics of the run."""

    steps: int | None = None
    """Number of optimizer steps; takes precedence over `samples` and `epochs`."""
    epochs: float | None = None
    """Number of passes over the training data."""
    samples: int | None = None
    """Number of image–caption pairs seen, rounded up to whole steps; takes precedence over
    `epochs`."""
    batch_size: int = 256
    """Global batch size: image–caption pairs per step on all processes together."""
    grad_accum_steps: int = 1
    """Number of micro-batches per process and step. The gradient is still that of the whole batch;
    embeddings are computed twice."""
    seed: int = 0
    """Random seed of everything."""
    device: str = "auto"
    """Device: `auto` (CUDA if available), `cpu`, `cuda`, `cuda:1`, …"""
    backend: Literal["auto", "single", "ddp", "fsdp2", "xla"] = "auto"
    """Distributed backend: `ddp`, or `fsdp2` for sharded parameters, both under torchrun; `auto`
    for `ddp` under torchrun and `single` otherwise; `xla` needs torch_xla."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Autocast type of the towers; weights and loss stay fp32, and `fp16` scales the loss; `auto`
    is bf16 where the device has instructions for it, else fp32, decided when a run starts."""
    compile: Literal["", "inductor", "aot_eager"] = ""
    """torch.compile backend for the towers; empty for none."""
    gradient_checkpointing: bool = False
    """Recompute each transformer layer in the backward pass instead of storing its activations."""
    timeout_s: float = 600.0
    """Seconds that a process waits for the others before the run fails."""
    overfit_batch: int | None = None
    """Overfit check: train on this number of samples over and over, without augmentation or
    evaluation."""

    def __post_init__(self) -> None:
        require_at_least(2, self, "batch_size", "overfit_batch")
        require_positive(self, "samples", "steps", "grad_accum_steps", "timeout_s")
        require(
            self.epochs is None or 0 < self.epochs < math.inf,
            f"epochs must be positive and finite, got {self.epochs}",
        )
        require(0 <= self.seed < 2**63, f"seed must be 0 or more, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class ConvolutionOptimConfig:
    """Convolutions of the image tower, if they have an optimizer of their own."""

    name: Literal["", "muon"] = ""
    """Optimizer of convolutions: `muon` for Muon on each layer's filters as a matrix; empty for
    that of everything else."""
    lr: float = 0.24
    """Peak learning rate, which follows the same schedule."""
    momentum: float = 0.6
    """Nesterov momentum."""
    newton_schulz_steps: int = 3
    """Number of iterations by which an update is orthogonalized."""
    keep_norm: bool = True
    """Scale each layer's filters to a norm of the square root of their number before an update."""

    def __post_init__(self) -> None:
        require_positive(self, "lr", "newton_schulz_steps")
        require(0 <= self.momentum < 1, f"momentum must be in [0, 1), got {self.momentum}")


@dataclass(frozen=True, kw_only=True)
class BiasOptimConfig:
    """Biases and norms of a convolutional image tower, if they have an optimizer of their own."""

    name: Literal["", "sgd"] = ""
    """Optimizer of biases and norms: `sgd` for Nesterov SGD; empty for that of everything else."""
    lr: float = 0.1
    """Peak learning rate, which follows the same schedule."""
    momentum: float = 0.85
    """Nesterov momentum."""

    def __post_init__(self) -> None:
        require_positive(self, "lr")
        require(0 < self.momentum < 1, f"momentum must be in (0, 1), got {self.momentum}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and learning rate schedule."""

    name: Literal["adamw", "muon"] = "adamw"
    """Optimizer; `muon` is torch's Muon for the matrices of transformer blocks and AdamW for
    everything else."""
    lr: float = 5e-4
    """Peak learning rate."""
    lr_rule: Literal["fixed", "linear", "sqrt"] = "fixed"
    """Scaling of `lr` with the batch size relative to `lr_batch_size`: `fixed` for none,
    `linear`, or `sqrt` for the square root."""
    lr_batch_size: int = 256
    """Batch size that `lr` refers to under `lr_rule`."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay rates of the first and second moment; the first is also Muon's momentum."""
    eps: float = 1e-6
    """Term added to the square root of the second moment."""
    weight_decay: float = 0.2
    """Decoupled weight decay of matrices; vectors, biases, norms and the logit scale have none."""
    image_layer_decay: float = 1.0
    """Layer-wise learning rate decay of the image tower: factor from each group to the one before
    it."""
    text_layer_decay: float = 1.0
    """Layer-wise learning rate decay of the text tower: factor from each group to the one before
    it."""
    convolutions: ConvolutionOptimConfig = field(default_factory=ConvolutionOptimConfig)
    biases: BiasOptimConfig = field(default_factory=BiasOptimConfig)
    schedule: Literal["cosine", "linear", "constant", "constant_cooldown"] = "cosine"
    """Learning rate after warmup: cosine or linear decay to `final_lr`, constant, or constant with
    a linear decay to zero over the last `cooldown_steps`."""
    first_lr: float = 0.0
    """Learning rate at the start of warmup."""
    final_lr: float = 0.0
    """Learning rate at the end of the cosine or linear schedule."""
    warmup_steps: int = 0
    """Number of linear warmup steps."""
    warmup_samples: int | None = None
    """Length of warmup in samples; takes precedence over `warmup_epochs` and `warmup_steps`."""
    warmup_epochs: float | None = None
    """Length of warmup in epochs; takes precedence over `warmup_steps`."""
    warmup_share: float | None = None
    """Length of warmup as a share of the run's steps; takes precedence over all of these."""
    cooldown_steps: int = 0
    """Number of cooldown steps."""
    cooldown_samples: int | None = None
    """Length of the cooldown in samples; takes precedence over `cooldown_epochs` and
    `cooldown_steps`."""
    cooldown_epochs: float | None = None
    """Length of the cooldown in epochs; takes precedence over `cooldown_steps`."""
    clip_norm: float | None = None
    """Maximum norm of the model's gradient; None for no clipping."""
    ema_decay: float | None = None
    """Decay per step of an exponential moving average of the weights, which is then evaluated and
    saved as the final model; None for no average."""

    def __post_init__(self) -> None:
        require_positive(
            self, "lr", "eps", "lr_batch_size", "image_layer_decay", "text_layer_decay"
        )
        for name in ("lr", "eps", "first_lr", "final_lr", "weight_decay"):
            value = getattr(self, name)
            require(math.isfinite(value), f"{name} must be finite, got {value}")
        require(
            all(0 <= beta < 1 for beta in self.betas), f"betas must be in [0, 1), got {self.betas}"
        )
        units = ("steps", "samples", "epochs")
        lengths = [f"{part}_{unit}" for part in ("warmup", "cooldown") for unit in units]
        require_at_least(0, self, "weight_decay", *lengths)
        require(
            self.warmup_share is None or 0 <= self.warmup_share < 1,
            f"warmup_share must be in [0, 1), got {self.warmup_share}",
        )
        require(
            self.schedule == "constant_cooldown"
            or not (self.cooldown_steps or self.cooldown_samples or self.cooldown_epochs),
            f"a cooldown goes with schedule 'constant_cooldown', got {self.schedule!r}",
        )
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
    """Objective."""

    kind: Literal["infonce", "multi_positive", "sigmoid", "none"] = "multi_positive"
    """Contrastive loss: `infonce` (CLIP's; only a pair's own caption is positive), `multi_positive`
    (equal captions are one candidate, and pairs of equal images are positives of each other),
    `sigmoid` (SigLIP's), or `none` for distillation alone."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all candidates."""
    caption_share: float = 0.5
    """Share in softmax losses of the direction from captions to images; 0 leaves the other one, and
    the distinct captions of a batch are classes of its images."""
    tile: int | None = None
    """Side of the tiles in which the similarity matrix is computed, and recomputed in the backward
    pass, so that memory grows linearly with the batch size; None for the whole matrix."""
    teacher: str = ""
    """Teacher to distil from: a model directory, `hf-hub:ORG/NAME`, or together with `teacher_name`
    a weight file. It sees the same images and tokens as the model."""
    teacher_name: str = ""
    """Name of the registered model that `teacher` has the weights of, if `teacher` does not say
    so."""
    teacher_images: str = ""
    """Precomputed image embeddings to distil from: an .npz or .parquet file of `clip-eval embed
    --data`, keyed by sample."""
    teacher_texts: str = ""
    """Precomputed caption embeddings to distil from: an .npz or .parquet file of `clip-eval embed
    --texts`."""
    teacher_logit_scale: float = 100.0
    """Inverse temperature of precomputed embeddings."""
    teacher_weight: float = 1.0
    """Weight of the distillation loss, which is added to the contrastive loss."""

    def __post_init__(self) -> None:
        require(
            0 <= self.label_smoothing < 1,
            f"label_smoothing must be in [0, 1), got {self.label_smoothing}",
        )
        require(
            not self.label_smoothing or self.kind in ("infonce", "multi_positive"),
            f"label_smoothing goes with softmax losses, got kind {self.kind!r}",
        )
        require_share(self, "caption_share")
        require(
            self.caption_share == 0.5 or self.kind in ("infonce", "multi_positive"),
            f"caption_share goes with softmax losses, got kind {self.kind!r}",
        )
        require_positive(self, "tile", "teacher_weight", "teacher_logit_scale")
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
