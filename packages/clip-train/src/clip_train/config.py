"""The configuration of a training run: one frozen dataclass per concern, one tree for the run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Literal

from clip_models import ConfigError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class VariableSizesConfig:
    """Batches of several image sizes with about equal pixels (Mehta et al. 2022, CVNets).

    `train.batch_size` is the batch at the model's own image size.
    """

    num_sizes: int = 0
    """Sizes drawn evenly from `min_size` to `max_size`, besides the model's; 0 turns it off."""
    min_size: int = 160
    """Smallest side in pixels."""
    max_size: int = 320
    """Largest side in pixels."""
    divisor: int = 32
    """Sides are rounded to multiples of it."""
    batch_multiple: int = 1
    """Batches are multiples of it; a multiple of the number of processes gives each the same."""
    growth_epochs: tuple[int, ...] = ()
    """Epochs from which on smallest and largest side grow once more by the factors."""
    min_growth: float = 0.0
    """Share by which the smallest side grows."""
    max_growth: float = 0.0
    """Share by which the largest side grows."""

    def __post_init__(self) -> None:
        _require(self.num_sizes >= 0, f"num_sizes must be 0 or more, got {self.num_sizes}")
        _require(
            1 <= self.min_size <= self.max_size,
            f"1 <= min_size <= max_size must hold, got {self.min_size} and {self.max_size}",
        )
        for name in ("divisor", "batch_multiple"):
            _require(getattr(self, name) >= 1, f"{name} must be positive")
        _require(
            min(self.min_growth, self.max_growth) >= 0,
            f"growth must be 0 or more, got {self.min_growth} and {self.max_growth}",
        )
        _require(
            list(self.growth_epochs) == sorted(set(self.growth_epochs)),
            f"growth_epochs must rise, got {self.growth_epochs}",
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where samples come from and how their captions are worded."""

    train: str = ""
    """Training source: `wds:DIR` (or shards, or URLs of shards), `imagefolder:DIR`, `csv:FILE`,
    `parquet:DIR`, `coco:JSON`, `tfrecord:DIR`, `corenet:DIR`, `cifar10[:DIR]`, `shapes:NUMBER`,
    or a path (recognised); several are separated by `::`."""
    val: str = ""
    """Source with classes for evaluation during training; empty for none."""
    templates: tuple[str, ...] = ()
    """Prompts with a {c} slot for the class name; empty means those of the source, if any."""
    classnames: str = ""
    """File of class names for `train` and `val`: one a line, or `folder<TAB>name`, or JSON."""
    template_choice: Literal["sample", "batch"] = "sample"
    """Draw a template for each sample, or one for the whole batch: then equal classes have equal
    captions, and the text tower computes each class once."""
    variable_sizes: VariableSizesConfig = field(default_factory=VariableSizesConfig)
    cache_images: bool = False
    """Decode every image once, at the model's size, and keep the pixels in memory."""
    image_key: str = ""
    """Column, feature or extension of the image, where it has an unusual name."""
    caption_key: str = ""
    """Column, feature, extension or JSON key of the captions, where it has an unusual name."""
    image_root: str = ""
    """Directory that the paths of a table or of COCO's JSON are relative to."""
    cache_dir: str = ""
    """Where shards behind a URL are kept; empty means below `~/.cache/clip-eval`."""
    cache_gb: float = 50.0
    """Most gigabytes of them; should hold more than `shuffle_streams` shards."""
    order: Literal["exact", "stream"] = "exact"
    """`exact`: the samples of a step follow from the seed alone.  `stream`: webdataset reads tars
    from end to end, chosen at random; no index, but neither order nor resume are exact."""
    epoch_samples: int | None = None
    """Samples that count as an epoch in `stream` order, where nobody has counted them."""
    weights: tuple[float, ...] = ()
    """Share of each source when `train` names several; empty means by their sizes."""
    shuffle_streams: int = 32
    """Sharded data: at any time samples come from about this many shards; see `shuffle_buffer`."""
    shuffle_buffer: int = 65536
    """Sharded data: this many samples of the streams are permuted at a time (their numbers, not
    their pixels); data that fits is permuted as a whole."""
    decode: Literal["scaled", "exact"] = "scaled"
    """`scaled` decodes a JPEG at 1/2, 1/4 or 1/8 where the crop needs no more; `exact` in full."""
    sort_by_length: bool = False
    """Put a batch's samples in the order of their captions' lengths, so that micro-batches of
    similar lengths can be cut shorter; which samples make a batch does not change."""
    prefetch: int = 2
    """Batches that each worker keeps ready."""
    stall_seconds: float = 120.0
    """Name the shard that a worker is stuck in when no batch came for so long; after five times
    that the run stops.  Needs `workers` of 1 or more."""
    workers: int = 1
    """Processes that read and decode; 0 does it in the training process."""
    max_faults: int = 1000
    """Stop when more different samples than this could not be read."""

    def __post_init__(self) -> None:
        for template in self.templates:
            _require("{c}" in template, f"templates need a {{c}} slot, got {template!r}")
        _require(all(w > 0 for w in self.weights), f"weights must be positive, got {self.weights}")
        _require(
            self.shuffle_streams >= 1,
            f"shuffle_streams must be 1 or more, got {self.shuffle_streams}",
        )
        _require(
            self.shuffle_buffer >= 1, f"shuffle_buffer must be 1 or more, got {self.shuffle_buffer}"
        )
        _require(self.cache_gb > 0, f"cache_gb must be positive, got {self.cache_gb}")
        _require(
            (self.order == "stream") == (self.epoch_samples is not None),
            "epoch_samples goes with order 'stream', got "
            f"order {self.order!r} and epoch_samples {self.epoch_samples}",
        )
        _require(
            self.order == "exact" or not (self.cache_images or self.weights),
            "order 'stream' can neither cache images nor weight sources",
        )
        _require(self.prefetch >= 1, f"prefetch must be 1 or more, got {self.prefetch}")
        _require(
            self.stall_seconds > 0, f"stall_seconds must be positive, got {self.stall_seconds}"
        )
        _require(self.workers >= 0, f"workers must be 0 or more, got {self.workers}")
        _require(self.max_faults >= 0, f"max_faults must be 0 or more, got {self.max_faults}")


@dataclass(frozen=True, kw_only=True)
class RangeAugmentConfig:
    """Learned augmentation and the target its loss follows."""

    enabled: bool = False
    """Whether images are augmented so."""
    target_psnr: tuple[float, float] = (40.0, 20.0)
    """PSNR in dB at the first and last step; equal numbers are a fixed target."""
    curriculum: Literal["cosine", "linear"] = "cosine"
    """How the target moves, in mean squared error."""
    weight: float = 100.0
    """Weight of the loss, on images scaled to [0, 1] (the original's alpha)."""
    lr_scale: float = 1.0
    """Learning rate of the ranges as a multiple of the model's; they have no weight decay."""
    parity: bool = False
    """The original's choices: first ranges, half of the batch, one order for all."""

    def __post_init__(self) -> None:
        _require(
            min(self.target_psnr) > 0,
            f"target_psnr must be positive decibels, got {self.target_psnr}",
        )
        _require(
            self.weight >= 0 and self.lr_scale > 0,
            "weight must be 0 or more and lr_scale positive, "
            f"got {self.weight} and {self.lr_scale}",
        )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What happens to training images.  Random numbers are keyed by seed, epoch and position."""

    kind: Literal["none", "shift", "random_resized_crop"] = "none"
    """`shift` moves the image by up to `pad` pixels over its mirrored border;
    `random_resized_crop` cuts a part of area `scale` (and aspect 3/4 to 4/3) to the full size."""
    pad: int = 4
    """Largest shift in pixels."""
    scale: tuple[float, float] = (0.9, 1.0)
    """Least and largest share of the image's area that a crop keeps."""
    flip: bool = False
    """Mirror half of the images left to right."""
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Largest relative change of brightness, contrast and saturation, and of hue as a share of the
    circle; drawn for each image, in a random order."""
    color_jitter_probability: float = 1.0
    """Share of the images whose colours are changed."""
    grayscale_probability: float = 0.0
    """Share of the images that lose their colours."""
    range: RangeAugmentConfig = field(default_factory=RangeAugmentConfig)

    def __post_init__(self) -> None:
        low, high = self.scale
        _require(0 < low <= high <= 1, f"scale must satisfy 0 < low <= high <= 1, got {self.scale}")
        _require(
            self.pad >= 1, f"pad must be 1 or more, got {self.pad}; kind 'none' shifts nothing"
        )
        _require(
            all(0 <= part <= 1 for part in self.color_jitter) and self.color_jitter[3] <= 0.5,
            "color_jitter must be three numbers in [0, 1] and a hue in [0, 0.5], "
            f"got {self.color_jitter}",
        )
        for name in ("color_jitter_probability", "grayscale_probability"):
            share = getattr(self, name)
            _require(0 <= share <= 1, f"{name} must be in [0, 1], got {share}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model is trained."""

    name: str = ""
    """A name of `clip_models.list_models()`; empty is the model of `pretrained`, or ViT-B-32."""
    vision: dict[str, Any] = field(default_factory=dict)
    """Fields of its image tower to replace: `image_size`, `patch_reduction`, `pooling`, …"""
    text: dict[str, Any] = field(default_factory=dict)
    """Fields of its text tower to replace."""
    preprocess: dict[str, Any] = field(default_factory=dict)
    """Fields of its preprocessing to replace: `mean`, `std`, `interpolation`, `resize_mode`."""
    pretrained: str = ""
    """Weights to start from: a model directory, `hf-hub:org/name`, or with a `name` a file in any
    dialect that clip-models reads.  Positions are interpolated to the image size and context."""
    lock_image: bool = False
    """Freeze the image tower."""
    unlocked_image_groups: int = 0
    """How many groups at the end of a locked image tower stay trainable: what follows the blocks
    is one group, and so is each block."""
    lock_text: bool = False
    """Freeze the text tower."""
    unlocked_text_groups: int = 0
    """The same for a locked text tower."""

    def __post_init__(self) -> None:
        for tower in ("image", "text"):
            groups, locked = (
                getattr(self, f"unlocked_{tower}_groups"),
                getattr(self, f"lock_{tower}"),
            )
            _require(
                groups == 0 or (locked and groups > 0),
                f"unlocked_{tower}_groups goes with lock_{tower}, and is 0 or more; got {groups}",
            )


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How captions become ids.  The context length is the model's, or a saved tokenizer's own."""

    kind: Literal["openai", "train", "bytes", "directory"] = "openai"
    """CLIP's own vocabulary, one learned from the captions, bytes only, or a saved tokenizer."""
    vocab_size: int = 1024
    """Size of the vocabulary for kind `train`."""
    path: str = ""
    """Directory of the saved tokenizer for kind `directory`."""
    reduction: Literal["truncate", "random", "shuffle", "block", "syntax"] = "truncate"
    """How a training caption that is too long for the context is made to fit (CLIPA): its first
    tokens, any tokens in order, any in random order, neighbours, or nouns before adjectives before
    verbs (`pip install clip-tokenizer[syntax]`).  Evaluation always truncates."""

    def __post_init__(self) -> None:
        _require(
            (self.kind == "directory") == bool(self.path),
            f"path goes with kind 'directory', got kind {self.kind!r} and path {self.path!r}",
        )


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
        _require(self.batch_size >= 2, f"batch_size must be 2 or more, got {self.batch_size}")
        for name in ("samples", "accumulation", "timeout_s"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name} must be positive, got {value}")
        _require(
            self.overfit_batch is None or self.overfit_batch >= 2,
            f"overfit_batch must be 2 or more, got {self.overfit_batch}",
        )
        _require(self.steps is None or self.steps >= 1, f"steps must be positive, got {self.steps}")
        _require(
            self.epochs is None or self.epochs > 0, f"epochs must be positive, got {self.epochs}"
        )
        _require(0 <= self.seed < 2**63, f"seed must be 0 or more, got {self.seed}")


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
    """Largest norm of the whole gradient; None leaves it alone."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the weights, with this decay a step; it is what is
    evaluated and what the run leaves as its model."""

    def __post_init__(self) -> None:
        for name in ("lr", "eps", "lr_batch_size", "image_layer_decay", "text_layer_decay"):
            _require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        _require(
            all(0 <= beta < 1 for beta in self.betas), f"betas must be in [0, 1), got {self.betas}"
        )
        for name in ("warmup_steps", "warmup_samples", "cooldown_steps", "cooldown_samples"):
            value = getattr(self, name)
            _require(value is None or value >= 0, f"{name} must be 0 or more, got {value}")
        _require(
            self.schedule == "constant_cooldown"
            or not (self.cooldown_steps or self.cooldown_samples),
            f"a cooldown goes with schedule 'constant_cooldown', got {self.schedule!r}",
        )
        _require(self.weight_decay >= 0, f"weight_decay must be 0 or more, got {self.weight_decay}")
        _require(
            self.clip_norm is None or self.clip_norm > 0,
            f"clip_norm must be positive, got {self.clip_norm}; leave it out for no clipping",
        )
        _require(
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
    """A model to distil from: a model directory, or whatever else clip-models reads.  It sees the
    same images and the same tokens."""
    teacher_weight: float = 1.0
    """Factor of the distillation loss, which is added to the loss of `kind`."""

    def __post_init__(self) -> None:
        _require(
            0 <= self.label_smoothing < 1,
            f"label_smoothing must be in [0, 1), got {self.label_smoothing}",
        )
        _require(
            not self.label_smoothing or self.kind in ("infonce", "multi_positive"),
            f"label_smoothing goes with softmax losses, got kind {self.kind!r}",
        )
        _require(self.tile is None or self.tile >= 1, f"tile must be positive, got {self.tile}")
        _require(
            self.kind != "none" or bool(self.teacher),
            "kind 'none' leaves no loss without a teacher",
        )
        _require(
            self.teacher_weight > 0, f"teacher_weight must be positive, got {self.teacher_weight}"
        )


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
        _require(self.batch_size >= 1, f"batch_size must be positive, got {self.batch_size}")


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
        _require(self.keep_last >= 1, f"keep_last must be 1 or more, got {self.keep_last}")
        for name in ("every_minutes", "keep_every_steps"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name} must be positive, got {value}")


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
            _require(
                every is None or every >= 1, f"{name}.every_{unit} must be positive, got {every}"
            )
        _require(
            not (self.data.cache_images and self.augment.kind == "random_resized_crop"),
            "data.cache_images keeps images at the model's size, so augment.kind "
            "'random_resized_crop' has nothing to crop from; use 'shift' or cache_images = false",
        )
