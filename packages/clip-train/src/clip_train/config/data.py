"""The sections of a config about samples: where they come from and what happens to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clip_models.config import require


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
        require(self.num_sizes >= 0, f"num_sizes must be 0 or more, got {self.num_sizes}")
        require(
            1 <= self.min_size <= self.max_size,
            f"1 <= min_size <= max_size must hold, got {self.min_size} and {self.max_size}",
        )
        for name in ("divisor", "batch_multiple"):
            require(getattr(self, name) >= 1, f"{name} must be positive")
        require(
            min(self.min_growth, self.max_growth) >= 0,
            f"growth must be 0 or more, got {self.min_growth} and {self.max_growth}",
        )
        require(
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
            require("{c}" in template, f"templates need a {{c}} slot, got {template!r}")
        require(all(w > 0 for w in self.weights), f"weights must be positive, got {self.weights}")
        require(
            self.shuffle_streams >= 1,
            f"shuffle_streams must be 1 or more, got {self.shuffle_streams}",
        )
        require(
            self.shuffle_buffer >= 1, f"shuffle_buffer must be 1 or more, got {self.shuffle_buffer}"
        )
        require(self.cache_gb > 0, f"cache_gb must be positive, got {self.cache_gb}")
        require(
            (self.order == "stream") == (self.epoch_samples is not None),
            "epoch_samples goes with order 'stream', got "
            f"order {self.order!r} and epoch_samples {self.epoch_samples}",
        )
        require(
            self.order == "exact" or not (self.cache_images or self.weights),
            "order 'stream' can neither cache images nor weight sources",
        )
        require(self.prefetch >= 1, f"prefetch must be 1 or more, got {self.prefetch}")
        require(self.stall_seconds > 0, f"stall_seconds must be positive, got {self.stall_seconds}")
        require(self.workers >= 0, f"workers must be 0 or more, got {self.workers}")
        require(self.max_faults >= 0, f"max_faults must be 0 or more, got {self.max_faults}")


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
        require(
            min(self.target_psnr) > 0,
            f"target_psnr must be positive decibels, got {self.target_psnr}",
        )
        require(
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
        require(0 < low <= high <= 1, f"scale must satisfy 0 < low <= high <= 1, got {self.scale}")
        require(self.pad >= 1, f"pad must be 1 or more, got {self.pad}; kind 'none' shifts nothing")
        require(
            all(0 <= part <= 1 for part in self.color_jitter) and self.color_jitter[3] <= 0.5,
            "color_jitter must be three numbers in [0, 1] and a hue in [0, 0.5], "
            f"got {self.color_jitter}",
        )
        for name in ("color_jitter_probability", "grayscale_probability"):
            share = getattr(self, name)
            require(0 <= share <= 1, f"{name} must be in [0, 1], got {share}")
