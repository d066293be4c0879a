"""Configs of the towers, one frozen dataclass each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from clip_models.config.checks import (
    TOO_LARGE,
    is_number,
    is_size,
    require,
    require_heads,
    require_sizes,
)
from clip_models.config.image_size import (
    ImageSize,
    normalize_size,
    side_of,
    sides_of,
    size_in_words,
)

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
PerLayer = int | tuple[int, ...]
CLIP_VOCAB_SIZE = 49408
"""Ids of CLIP's own tokenizer, the end token last."""


class LayerShape(NamedTuple):
    """The sizes of one transformer layer, which may differ from layer to layer."""

    num_heads: int
    head_width: int
    mlp_width: int


@dataclass(frozen=True, kw_only=True)
class PatchReductionConfig:
    """Train on part of the patches (Li et al. 2023, "CLIPA"); evaluation sees all of them.

    `random` keeps a random set, `grid` one patch of every cell of a regular grid, `block` one
    rectangle.
    """

    kind: Literal["random", "grid", "block"] = "random"
    keep_ratio: float = 0.5

    def __post_init__(self) -> None:
        require(
            0 < self.keep_ratio <= 1,
            f"keep_ratio must be in (0, 1], got {self.keep_ratio}; 1.0 keeps every patch",
        )


@dataclass(frozen=True, kw_only=True)
class PoolingConfig:
    """Fewer tokens from `after_layer` on: 0 pools before the first layer.

    `name` is looked up in the entry-point group `clip_models.token_pooling`; `args` are passed to
    what is found there. `then` pools the remaining tokens again, after the same layer or a later
    one.
    """

    name: str
    after_layer: int
    args: dict[str, Any] = field(default_factory=dict, hash=False)
    then: PoolingConfig | None = None

    @property
    def stages(self) -> tuple[PoolingConfig, ...]:
        """This pooling and those that follow it."""
        return (self, *(() if self.then is None else self.then.stages))


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The tokenizer a text tower was trained with.

    `name` is `clip` for CLIP's own or a Hugging Face repository, `options` are open_clip's
    `tokenizer_kwargs`.
    """

    name: str = "clip"
    options: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Fields common to the transformers of both towers.

    `num_heads`, `head_width` and `mlp_width` are one integer or one per layer; `head_width` None is
    `width / num_heads`, `mlp_width` None is `width * mlp_ratio`. `layer_scale_init` adds a learned
    scale to every residual branch.
    """

    width: int = 768
    num_layers: int = 12
    num_heads: PerLayer = 12
    head_width: PerLayer | None = None
    mlp_ratio: float = 4.0
    mlp_width: PerLayer | None = None
    activation: Activation = "gelu"
    layer_norm_eps: float = 1e-5
    layer_scale_init: float | None = None
    pooling: PoolingConfig | None = None

    def __post_init__(self) -> None:
        require_sizes(self, "width")
        require(
            type(self.num_layers) is int and 0 <= self.num_layers < 2**16,
            f"num_layers must be an integer from 0 to 65535, got {self.num_layers!r}",
        )
        for name in ("num_heads", "head_width", "mlp_width"):
            sizes = getattr(self, name)
            given = sizes if isinstance(sizes, tuple) else (sizes,) * self.num_layers
            require(
                len(given) == self.num_layers,
                f"{name} must be one integer or one for each of {self.num_layers} layers, "
                f"got {len(given)}",
            )
            require(
                all(size is None or is_size(size) for size in given),
                f"{name} must be a positive integer or a tuple of them, got {sizes!r}",
            )
        require(
            is_number(self.layer_norm_eps) and 0 < self.layer_norm_eps < math.inf,
            f"layer_norm_eps must be a positive number, got {self.layer_norm_eps!r}",
        )
        require(
            self.mlp_width is not None
            or (is_number(self.mlp_ratio) and 1 <= self.width * self.mlp_ratio < TOO_LARGE),
            f"mlp_ratio must give at least one hidden unit, got {self.mlp_ratio!r}",
        )
        if self.head_width is None:
            for heads in _per_layer(self.num_heads, self.num_layers):
                require_heads(self.width, heads)
        if self.pooling is not None:
            places = [stage.after_layer for stage in self.pooling.stages]
            require(
                places == sorted(places) and places[0] >= 0 and places[-1] <= self.num_layers,
                f"pooling.after_layer must be in 0 … {self.num_layers} and must not fall from one "
                f"pooling to the next, got {', '.join(map(str, places))}",
            )

    def layers(self) -> tuple[LayerShape, ...]:
        """The sizes of every layer."""
        heads = _per_layer(self.num_heads, self.num_layers)
        if self.head_width is None:
            head_widths = tuple(self.width // count for count in heads)
        else:
            head_widths = _per_layer(self.head_width, self.num_layers)
        mlp_width = int(self.width * self.mlp_ratio) if self.mlp_width is None else self.mlp_width
        mlp_widths = _per_layer(mlp_width, self.num_layers)
        return tuple(map(LayerShape, heads, head_widths, mlp_widths))


class ImageSides:
    """The sides of the images of a tower, whose config has an `image_size`."""

    image_size: ImageSize

    @property
    def image_sides(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return sides_of(self.image_size)

    @property
    def image_side(self) -> int:
        """The side of square images in pixels.

        Raises:
            ConfigError: Images are not square.
        """
        return side_of(self.image_size)


@dataclass(frozen=True, kw_only=True)
class ViTConfig(ImageSides, TransformerConfig):
    """Vision transformer of CLIP (Radford et al. 2021) and its relatives.

    Attributes:
        image_size: Side of the images in pixels, or height and width.
        stem: `patch` is one convolution of kernel and stride `patch_size` (with a bias if
            `patch_bias`); `conv` is CoreNet's three of strides 4, 2 and 2 for 16 px patches.
        class_token: One learned token in front of the patches.
        position: `learned` is a table that is interpolated for other grids; `sin_cos` is computed
            for each grid (MoCo v3's, columns first) and has no weights.
        class_position: The class token has a row in the table of positions.
        position_interpolation: `bicubic` or `bilinear` (SigLIP 2's NaFlex) in two dimensions,
            antialiased; `flattened` is CoreNet's linear interpolation along the row-major sequence
            of patches.
        native: Images come in their own aspect ratio, as `NativeImages`; `image_size` is that of
            the table of positions alone, which is interpolated to the grid of each image.
        pre_norm: A norm in front of the first layer.
        readout: `class_token`; `patch_average`; `average` of all tokens, including the class
            token (CLIPA's first version); `map`, an attention with a learned query (SigLIP).
        map_num_heads: Heads of the attention of `map`; None is those of the last layer.
        map_mlp_width: Hidden units of the MLP after it; None is those of the last layer.
        norm_after_readout: The final norm is of the read feature, not of every token.
        projection: A linear map to the embedding space; `none` where `width` is its width.
    """

    kind: Literal["vit"] = "vit"
    image_size: ImageSize = 224
    patch_size: int = 32
    stem: Literal["patch", "conv"] = "patch"
    patch_bias: bool = False
    class_token: bool = True
    position: Literal["learned", "sin_cos"] = "learned"
    class_position: bool = True
    position_interpolation: Literal["bicubic", "bilinear", "flattened"] = "bicubic"
    native: bool = False
    pre_norm: bool = True
    readout: Literal["class_token", "patch_average", "average", "map"] = "class_token"
    map_num_heads: int | None = None
    map_mlp_width: int | None = None
    norm_after_readout: bool = False
    projection: Literal["linear", "none"] = "linear"
    patch_reduction: PatchReductionConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        normalize_size(self, "image_size")
        require_sizes(self, "patch_size")
        require(
            min(self.image_sides) >= self.patch_size,
            f"image_size must be at least patch_size, got {size_in_words(self.image_size)} and "
            f"{self.patch_size}",
        )
        require(
            self.stem == "patch" or self.patch_size == 16,
            f"stem 'conv' makes patches of 16 px, got patch_size {self.patch_size}",
        )
        require(
            self.class_token or self.readout != "class_token",
            "readout 'class_token' needs class_token = true; use 'patch_average' or 'map'",
        )
        require(
            self.position == "learned" or self.width % 4 == 0,
            f"width must be a multiple of 4 for position 'sin_cos', got {self.width}",
        )
        if self.readout == "map":
            require(self.num_layers >= 1, "readout 'map' needs a layer, got num_layers 0")
            for name in ("map_num_heads", "map_mlp_width"):
                if getattr(self, name) is not None:
                    require_sizes(self, name)
            require_heads(self.width, self.map_shape.num_heads)

    @property
    def smallest_image(self) -> int:
        """Smallest side of an image in pixels."""
        return self.patch_size

    @property
    def map_shape(self) -> LayerShape:
        """The sizes of the readout `map`."""
        last = self.layers()[-1]
        heads = last.num_heads if self.map_num_heads is None else self.map_num_heads
        hidden = last.mlp_width if self.map_mlp_width is None else self.map_mlp_width
        return LayerShape(heads, self.width // max(1, heads), hidden)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of an image of `image_size`; other pixels are ignored."""
        height, width = self.image_sides
        return height // self.patch_size, width // self.patch_size


@dataclass(frozen=True, kw_only=True)
class ModifiedResNetConfig(ImageSides):
    """CLIP's ResNet: three-convolution stem, anti-aliased strides, attention pooling."""

    kind: Literal["modified_resnet"] = "modified_resnet"
    image_size: ImageSize = 224
    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    num_heads: int = 32

    def __post_init__(self) -> None:
        normalize_size(self, "image_size")
        require_sizes(self, "width", "num_heads")
        require(
            all(side % 32 == 0 for side in self.image_sides),
            "image_size must be a multiple of 32 (the network's stride), got "
            f"{size_in_words(self.image_size)}",
        )
        require(
            self.width >= 2 and all(map(is_size, self.layers)),
            f"width must be at least 2 and layers positive, got {self.width} and {self.layers}",
        )
        require_heads(self.width * 32, self.num_heads)

    @property
    def smallest_image(self) -> int:
        """Smallest side of an image in pixels: the network's stride."""
        return 32

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the map that is pooled by attention."""
        height, width = self.image_sides
        return height // 32, width // 32


@dataclass(frozen=True, kw_only=True)
class CompactResNetConfig(ImageSides):
    """A small convolutional tower for small images (32 to 96 px) on small machines.

    The stem halves the image's side, and so does each stage: convolution, 2x2 max pooling, one
    residual block. `widths` are the channels of the stem and of each stage. `pooling` "max" takes
    the maximum over positions, "flatten" keeps each position.
    """

    kind: Literal["compact_resnet"] = "compact_resnet"
    image_size: ImageSize = 32
    widths: tuple[int, ...] = (64, 128, 256)
    pooling: Literal["max", "flatten"] = "max"

    def __post_init__(self) -> None:
        normalize_size(self, "image_size")
        require(len(self.widths) >= 2, f"widths must name the stem and a stage, got {self.widths}")
        stride = 2 ** len(self.widths)
        require(all(map(is_size, self.widths)), f"widths must be positive, got {self.widths}")
        require(
            all(side % stride == 0 for side in self.image_sides),
            f"image_size must be a multiple of {stride} for {len(self.widths)} widths, "
            f"got {size_in_words(self.image_size)}",
        )

    @property
    def smallest_image(self) -> int:
        """Smallest side of an image in pixels: the network's stride, or all of it for `flatten`."""
        return min(self.image_sides) if self.pooling == "flatten" else 2 ** len(self.widths)


@dataclass(frozen=True, kw_only=True)
class WhitenedCNNConfig(ImageSides):
    """A convolutional tower for small images that learns fast (Jordan 2024, arXiv 2404.00498).

    Attributes:
        widths: Channels of each pair of convolutions, which halves the side.
        stem: `whitening` is a fixed first layer that whitens patches, computed from the training
            images before the first step; `trained` is a convolution of the same shape with a bias.
        whitening_size: Side of the patches, in pixels.
        dirac: Convolutions begin as the identity of the channels that both sides have.
        norm_scale: Batch norms have a trained scale; otherwise only a trained bias.
        norm_momentum: Share of a batch in the running statistics, torch's `momentum`.
    """

    kind: Literal["whitened_cnn"] = "whitened_cnn"
    image_size: ImageSize = 32
    widths: tuple[int, ...] = (64, 256, 256)
    stem: Literal["whitening", "trained"] = "whitening"
    whitening_size: int = 2
    dirac: bool = True
    norm_scale: bool = False
    norm_momentum: float = 0.4

    def __post_init__(self) -> None:
        normalize_size(self, "image_size")
        require_sizes(self, "whitening_size")
        require(
            bool(self.widths) and all(map(is_size, self.widths)),
            f"widths must be positive, at least one, got {self.widths}",
        )
        require(
            is_number(self.norm_momentum) and 0 < self.norm_momentum <= 1,
            f"norm_momentum must be in (0, 1], got {self.norm_momentum!r}",
        )
        require(
            min(self.image_sides) >= self.smallest_image,
            f"image_size must be at least {self.smallest_image} for {len(self.widths)} widths, "
            f"got {size_in_words(self.image_size)}",
        )

    @property
    def smallest_image(self) -> int:
        """Smallest side of an image in pixels: one position is left after the last pooling."""
        return 2 ** len(self.widths) + self.whitening_size - 1


@dataclass(frozen=True, kw_only=True)
class TextConfig(TransformerConfig):
    """Text transformer of CLIP and its relatives.

    Attributes:
        causal: A token sees itself and the past only.
        readout: Where the feature is read: the row's first `end_token`, its `last` or `first`
            position.
        eot_token_id: Id of the end token. None means the row's largest id, as in CLIP, whose end
            token is the last one; ids above CLIP's 49,408 are added tokens, which are no end.
        projection: A linear map to the embedding space, with a bias or not; `none` where `width`
            is its width.
        tokenizer: None is CLIP's own, without options.
    """

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    num_heads: PerLayer = 8
    causal: bool = True
    readout: Literal["end_token", "last", "first"] = "end_token"
    eot_token_id: int | None = None
    projection: Literal["linear", "linear_bias", "none"] = "linear"
    tokenizer: TokenizerConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes(self, "context_length", "vocab_size")

    @property
    def end_token_id(self) -> int:
        """Id of the end token, which may be the default: the last one of CLIP's layout."""
        if self.eot_token_id is not None:
            return self.eot_token_id
        own = self.tokenizer is None or self.tokenizer.name == "clip"
        return (min(self.vocab_size, CLIP_VOCAB_SIZE) if own else self.vocab_size) - 1


VisionConfig = ViTConfig | ModifiedResNetConfig | CompactResNetConfig | WhitenedCNNConfig


def _per_layer(sizes: PerLayer, num_layers: int) -> tuple[int, ...]:
    return sizes if isinstance(sizes, tuple) else (sizes,) * num_layers
