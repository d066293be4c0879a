"""Config sections about samples: data sources, image sizes, augmentation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clip_models.config import require

from clip_train.config.checks import require_at_least, require_positive, require_share


@dataclass(frozen=True, kw_only=True)
class VariableSizesConfig:
    """Variable batch sampler: image sizes that change per batch, at constant pixels per batch.

    From CVNets (Mehta et al. 2022). `train.batch_size` is the batch size at the model's image size.
    """

    num_sizes: int = 0
    """Number of image sizes drawn evenly between `min_size` and `max_size`, in addition to the
    model's own; 0 disables variable sizes."""
    min_size: int = 160
    """Smallest image side in pixels."""
    max_size: int = 320
    """Largest image side in pixels."""
    divisor: int = 32
    """Divisor of every image side, in pixels."""
    batch_multiple: int = 1
    """Divisor of every batch size; a multiple of the number of processes gives each the same number
    of images."""
    growth_epochs: tuple[int, ...] = ()
    """Epochs at which the smallest and the largest side grow by `min_growth` and `max_growth`."""
    min_growth: float = 0.0
    """Relative growth of the smallest side at each of `growth_epochs`."""
    max_growth: float = 0.0
    """Relative growth of the largest side at each of `growth_epochs`."""

    def __post_init__(self) -> None:
        require_at_least(0, self, "num_sizes", "min_growth", "max_growth")
        require_positive(self, "divisor", "batch_multiple")
        require(
            1 <= self.min_size <= self.max_size,
            f"1 <= min_size <= max_size must hold, got {self.min_size} and {self.max_size}",
        )
        require(
            list(self.growth_epochs) == sorted(set(self.growth_epochs)),
            f"growth_epochs must rise, got {self.growth_epochs}",
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Training and evaluation data."""

    train: str = ""
    """Training data: `wds:DIR` (or shards, or URLs of shards), `imagefolder:DIR`, `pairs:DIR`,
    `csv:FILE`, `parquet:DIR`, `coco:JSON`, `tfrecord:DIR`, `corenet:DIR`, `cifar10[:DIR]`,
    `shapes:NUMBER`, or a path whose format is recognized; `::` separates several sources."""
    val: str | tuple[str, ...] = ""
    """Data for evaluation during training, in the same notation: labelled, or image–caption pairs;
    a list for several sets, each evaluated by itself; empty for none."""
    split: str = ""
    """Split of `train` to read, where it has several; empty for the one called train."""
    val_split: str = ""
    """Split of each set of `val` to read, where it has several; empty for test, or else val or
    validation."""
    holdout: float = 0.0
    """Share of the samples of `train` that is kept for validation, as the set `holdout`, where
    there is no `val`; which they are does not depend on the seed."""
    templates: tuple[str, ...] = ()
    """Caption templates with a {c} slot for the class name; or one file of templates (as
    CLIP_benchmark's, `FILE.json:NAME` for one of its data sets), or the name of a standard data set
    such as imagenet1k; empty for those of the source, if it has any."""
    classnames: str = ""
    """Class names for `train` and `val`: a file with one per line, `folder<TAB>name` per line, or
    JSON (as CLIP_benchmark's, `FILE.json:NAME` for one of its data sets); or the name of a standard
    data set such as imagenet1k."""
    template_choice: Literal["sample", "batch"] = "sample"
    """Scope of one random template: each `sample`, or the whole `batch`, where images of a class
    then share one caption that is encoded once."""
    variable_sizes: VariableSizesConfig = field(default_factory=VariableSizesConfig)
    token_budget: int | None = None
    """Number of tokens of a batch of all processes, for images that keep their aspect ratio
    (`model.vision.native`): patches and class tokens of images, and tokens of captions times
    `caption_weight`. Batches hold as many samples as fit; `train.batch_size` is only the nominal
    size, for lengths in samples and rules of the learning rate. None for batches of
    `train.batch_size`."""
    sequence_lengths: tuple[int, ...] = ()
    """Maximum numbers of patches of an image, one of which each step draws; empty for the model's
    number of positions. Needs `token_budget`."""
    sequence_shares: tuple[float, ...] = ()
    """Share of steps of each of `sequence_lengths`; empty for equal shares."""
    caption_weight: float = 1.0
    """Tokens of `token_budget` that a token of a caption counts; 0 counts images alone."""
    cache_images: bool = False
    """Decode every image once, at the model's image size, and keep the pixels in memory."""
    image_key: str = ""
    """Column, feature or file extension of the images, if it is not a common one."""
    caption_key: str = ""
    """Column, feature, file extension or JSON key of the captions, if it is not a common one."""
    label_key: str = ""
    """Column, feature, file extension or JSON key of the labels, if it is not a common one."""
    first_label: int | None = None
    """Number of the first class in the labels of the data; empty for 0, or for what TF-slim's
    records tell."""
    image_root: str = ""
    """Directory that image paths in a table or a COCO file are relative to."""
    cache_dir: str = ""
    """Directory for shards downloaded from URLs; empty for one below `~/.cache/clip-eval`."""
    cache_gb: float = 50.0
    """Maximum size of `cache_dir` in GB; it should hold more than `shuffle_streams` shards."""
    order: Literal["exact", "stream"] = "exact"
    """Order of samples: `exact` follows from the seed alone; `stream` reads tar shards, also
    compressed ones, sequentially and needs no index, but depends on the numbers of processes,
    workers and resumes."""
    epoch_samples: int | None = None
    """Number of samples per epoch for order `stream`, which does not count them."""
    weights: tuple[float, ...] = ()
    """Sampling weight of each source when `train` names several; empty for weights by size."""
    shuffle_streams: int = 32
    """Number of shards read at the same time, for sharded data."""
    shuffle_buffer: int = 65536
    """Number of samples shuffled together, for sharded data (their indices, not their pixels);
    smaller data is shuffled as a whole."""
    decode: Literal["scaled", "exact"] = "scaled"
    """JPEG decoding: `scaled` to 1/2, 1/4 or 1/8 of the size where the crop needs no more, or
    `exact` at full size."""
    exif_orientation: bool = False
    """Turn images of `train` and `val` upright, as their EXIF says; otherwise they are read as
    stored, as by open_clip and torchvision."""
    sort_by_length: bool = False
    """Sort each batch by caption length, so that micro-batches are padded less; the batch holds the
    same samples."""
    prefetch: int = 2
    """Number of batches that each worker loads ahead."""
    stall_seconds: float = 120.0
    """Seconds without a batch before a warning names the shard that each worker is reading; after
    five times as long the run stops. Needs `workers` of 1 or more."""
    workers: int = 1
    """Number of data loading processes; 0 loads in the training process, for evaluations too."""
    max_faults: float = 0.05
    """Maximum share of unreadable samples among those read before the run stops, which fewer than
    100 never do; a number of 1 or more, or 0, is a maximum number of samples."""

    def __post_init__(self) -> None:
        for template in self.templates:
            is_name = len(self.templates) == 1 and not set(" {}") & set(template)
            require(
                "{c}" in template or is_name,
                f"templates need a {{c}} slot, got {template!r}",
            )
        require(all(w > 0 for w in self.weights), f"weights must be positive, got {self.weights}")
        require(0 <= self.holdout < 1, f"holdout must be in [0, 1), got {self.holdout}")
        require(
            not self.holdout or not (self.val_specs or self.order == "stream"),
            "holdout goes neither with val nor with order 'stream': set data.holdout to 0, or "
            f"data.val to '' and data.order to 'exact'; got holdout {self.holdout}, val "
            f"{self.val!r}, order {self.order!r}",
        )
        require_at_least(1, self, "shuffle_streams", "shuffle_buffer", "prefetch")
        require_at_least(0, self, "workers", "max_faults", "caption_weight")
        self._check_token_budget()
        require_positive(self, "cache_gb", "stall_seconds")
        require(
            (self.order == "stream") == (self.epoch_samples is not None),
            "epoch_samples goes with order 'stream', got "
            f"order {self.order!r} and epoch_samples {self.epoch_samples}",
        )
        require(
            self.order == "exact" or not (self.cache_images or self.weights),
            "order 'stream' can neither cache images nor weight sources",
        )

    def _check_token_budget(self) -> None:
        require_positive(self, "token_budget")
        lengths, shares = self.sequence_lengths, self.sequence_shares
        require(
            self.token_budget is not None or not lengths,
            f"sequence_lengths {lengths} needs token_budget, the number of tokens of a batch",
        )
        require(
            all(length >= 1 for length in lengths) and len(set(lengths)) == len(lengths),
            f"sequence_lengths must be different positive numbers, got {lengths}",
        )
        require(
            not shares or (len(shares) == len(lengths) and all(share > 0 for share in shares)),
            f"sequence_shares must be a positive number for each of {len(lengths)} "
            f"sequence_lengths, got {shares}",
        )
        require(
            self.token_budget is None
            or not (self.cache_images or self.variable_sizes.num_sizes or self.order == "stream"),
            "token_budget goes neither with cache_images, nor with variable_sizes, nor with order "
            "'stream', whose samples have no sizes; leave those out",
        )

    @property
    def val_specs(self) -> tuple[str, ...]:
        """The validation sets as the user named them."""
        specs = (self.val,) if isinstance(self.val, str) else self.val
        return tuple(spec for spec in specs if spec)


@dataclass(frozen=True, kw_only=True)
class RangeAugmentConfig:
    """RangeAugment: learned strengths of brightness, contrast and noise (Mehta et al. 2022)."""

    enabled: bool = False
    """Use RangeAugment."""
    target_psnr: tuple[float, float] = (40.0, 20.0)
    """Target PSNR in dB at the first and at the last step; equal numbers for a fixed target."""
    curriculum: Literal["cosine", "linear"] = "cosine"
    """Interpolation of the target between its ends, in mean squared error."""
    weight: float = 100.0
    """Weight of the augmentation loss (alpha of the paper), for images scaled to [0, 1]."""
    lr_scale: float = 1.0
    """Learning rate of the ranges relative to the model's; they have no weight decay."""
    parity: bool = False
    """Follow the reference implementation: its initial ranges, half of the batch augmented, one
    order of operations for all images."""

    def __post_init__(self) -> None:
        require(
            min(self.target_psnr) > 0,
            f"target_psnr must be positive decibels, got {self.target_psnr}",
        )
        require_at_least(0, self, "weight")
        require_positive(self, "lr_scale")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training images."""

    kind: Literal["none", "shift", "random_resized_crop"] = "none"
    """Geometric augmentation: `shift` moves the image by up to `pad` pixels and mirrors its border;
    `random_resized_crop` resizes a crop of area `scale` and aspect ratio 3/4 to 4/3 to the full
    size. Of images in their own aspect ratio (`data.token_budget`) the crop keeps that ratio."""
    pad: int = 4
    """Maximum shift in pixels, for kind `shift`."""
    scale: tuple[float, float] = (0.9, 1.0)
    """Minimum and maximum area of a crop relative to the image, for kind `random_resized_crop`."""
    flip: bool = False
    """Flip half of the images horizontally."""
    flip_choice: Literal["random", "alternating"] = "random"
    """Which images are flipped: `random` chooses anew in every epoch; `alternating` chooses once,
    and flips the others in every second epoch."""
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Maximum relative change of brightness, contrast and saturation, and maximum hue shift as a
    fraction of the circle; in random order per image."""
    color_jitter_probability: float = 1.0
    """Probability of color jitter per image."""
    grayscale_probability: float = 0.0
    """Probability of conversion to grayscale per image."""
    range: RangeAugmentConfig = field(default_factory=RangeAugmentConfig)

    def __post_init__(self) -> None:
        low, high = self.scale
        require(
            self.flip or self.flip_choice == "random",
            f"flip_choice {self.flip_choice!r} goes with flip = true",
        )
        require(0 < low <= high <= 1, f"scale must satisfy 0 < low <= high <= 1, got {self.scale}")
        require(self.pad >= 1, f"pad must be 1 or more, got {self.pad}; kind 'none' shifts nothing")
        require(
            all(0 <= part <= 1 for part in self.color_jitter) and self.color_jitter[3] <= 0.5,
            "color_jitter must be three numbers in [0, 1] and a hue in [0, 0.5], "
            f"got {self.color_jitter}",
        )
        require_share(self, "color_jitter_probability", "grayscale_probability")
