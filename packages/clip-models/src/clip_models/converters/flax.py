"""Names of Flax weights (`.npz` or flattened): CLIPA's JAX code, and big_vision's SigLIP.

Kernels are (input, output) where torch's weights are (output, input); those of attention have a
dimension of heads, which is why writing them needs a config. Layers may also be
stacked in one array each ("scanned"). CLIPA's files have no positions of the image (its configs
have "sincos2d"): they are computed on reading, and not written if they equal the computed ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.towers import TransformerConfig, ViTConfig
from clip_models.converters.renaming import Rule, keep, squeeze, transpose
from clip_models.errors import CheckpointError, ConfigError
from clip_models.positions import make_sin_cos_table

_ATTENTION = "MultiHeadDotProductAttention_0"
_SCANNED = "/encoderblock/"
_POSITIONS = "img/pos_embedding"


def unstack_layers(state: Mapping[str, Tensor], config: CLIPConfig) -> dict[str, Tensor]:
    """The state without the prefix `params/`, with separate layers and all positions."""
    plain: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix("params/")
        if _SCANNED not in name:
            plain[name] = value
            continue
        if not value.ndim:
            raise CheckpointError(f"{key} has no dimension of layers")
        for index, layer in enumerate(value):
            plain[name.replace(_SCANNED, f"/encoderblock_{index}/")] = layer
    table = _compute_positions(plain, config)
    return plain if table is None else {_POSITIONS: table, **plain}


def drop_computed_positions(state: Mapping[str, Tensor], config: CLIPConfig) -> dict[str, Tensor]:
    """The state without the image positions if they are those that CLIPA's code computes."""
    table, written = _compute_positions(state, config), state.get(_POSITIONS)
    if table is None or written is None or written.dtype != table.dtype or written.is_meta:
        return dict(state)
    computed = torch.equal(written.cpu(), table)
    return {key: value for key, value in state.items() if key != _POSITIONS or not computed}


def _compute_positions(state: Mapping[str, Tensor], config: CLIPConfig) -> Tensor | None:
    """(1, N, D) by CLIPA's formula, in the type of the patch embedding; None for SigLIP's learned.

    The first row, for the class token, is zeros.
    """
    vision, kernel = config.vision, state.get("img/embedding/kernel")
    if not isinstance(vision, ViTConfig) or kernel is None:
        return None
    if vision.readout == "map" or vision.width % 4:
        return None
    table = make_sin_cos_table(vision.width, vision.grid, endpoint=True)
    first = table.new_zeros(int(vision.class_token and vision.class_position), vision.width)
    return torch.cat([first, table])[None].to(kernel.dtype)


def clipa_rules(config: CLIPConfig) -> list[Rule]:
    """The two towers of CLIPA."""
    vision, text = _require_towers(config)
    return [
        *_vision_rules(vision, norm="img/encoder_norm"),
        keep("visual.proj", "img/head/kernel"),
        *_text_rules(text, encoder="txt/Transformer", norm="txt/encoder_norm"),
        keep("text_projection", "txt/head/kernel"),
        squeeze("logit_scale", "t"),
    ]


def siglip_rules(config: CLIPConfig) -> list[Rule]:
    """The two towers of big_vision's SigLIP."""
    vision, text = _require_towers(config)
    ours, theirs = "visual.attn_pool", "img/MAPHead_0"
    heads, attention = vision.map_shape.num_heads, f"{theirs}/{_ATTENTION}"
    keys_and_values = [f"{attention}/key", f"{attention}/value"]
    return [
        *_vision_rules(vision, norm="img/Transformer/encoder_norm"),
        keep(f"{ours}.latent", f"{theirs}/probe"),
        *_heads_in_rules(f"{ours}.q.weight", f"{ours}.q.bias", [f"{attention}/query"], heads),
        *_heads_in_rules(f"{ours}.kv.weight", f"{ours}.kv.bias", keys_and_values, heads),
        *_heads_out_rules(f"{ours}.proj", f"{attention}/out", heads),
        *_norm_rules(f"{ours}.norm", f"{theirs}/LayerNorm_0"),
        *_dense_rules(f"{ours}.mlp.c_fc", f"{theirs}/MlpBlock_0/Dense_0"),
        *_dense_rules(f"{ours}.mlp.c_proj", f"{theirs}/MlpBlock_0/Dense_1"),
        *_text_rules(text, encoder="txt/Encoder_0", norm="txt/Encoder_0/encoder_norm"),
        *_dense_rules("text_projection", "txt/head"),
        squeeze("logit_scale", "t"),
        squeeze("logit_bias", "b"),
    ]


def _require_towers(config: CLIPConfig) -> tuple[ViTConfig, TransformerConfig]:
    if not isinstance(config.vision, ViTConfig):
        raise ConfigError(f"Flax weights have a 'vit' tower, got {config.vision.kind!r}")
    return config.vision, config.text


def _vision_rules(config: ViTConfig, *, norm: str) -> list[Rule]:
    return [
        _kernel_rule("visual.conv1.weight", "img/embedding/kernel"),
        keep("visual.conv1.bias", "img/embedding/bias"),
        squeeze("visual.class_embedding", "img/cls", 2),
        squeeze("visual.positional_embedding", _POSITIONS),
        *_layer_rules(config, "visual.transformer", "img/Transformer"),
        *_norm_rules("visual.ln_post", norm),
    ]


def _text_rules(config: TransformerConfig, *, encoder: str, norm: str) -> list[Rule]:
    return [
        keep("token_embedding.weight", "txt/Embed_0/embedding"),
        squeeze("positional_embedding", "txt/pos_embedding"),
        *_layer_rules(config, "transformer", encoder),
        *_norm_rules("ln_final", norm),
    ]


def _layer_rules(config: TransformerConfig, native: str, foreign: str) -> list[Rule]:
    rules: list[Rule] = []
    for index, shape in enumerate(config.layers()):
        ours, theirs = f"{native}.resblocks.{index}", f"{foreign}/encoderblock_{index}"
        parts = [f"{theirs}/{_ATTENTION}/{x}" for x in ("query", "key", "value")]
        rules += [
            *_norm_rules(f"{ours}.ln_1", f"{theirs}/LayerNorm_0"),
            *_heads_in_rules(
                f"{ours}.attn.in_proj_weight", f"{ours}.attn.in_proj_bias", parts, shape.num_heads
            ),
            *_heads_out_rules(
                f"{ours}.attn.out_proj", f"{theirs}/{_ATTENTION}/out", shape.num_heads
            ),
            *_norm_rules(f"{ours}.ln_2", f"{theirs}/LayerNorm_1"),
            *_dense_rules(f"{ours}.mlp.c_fc", f"{theirs}/MlpBlock_0/Dense_0"),
            *_dense_rules(f"{ours}.mlp.c_proj", f"{theirs}/MlpBlock_0/Dense_1"),
        ]
    return rules


def _norm_rules(native: str, foreign: str) -> list[Rule]:
    return [
        keep(f"{native}.weight", f"{foreign}/scale"),
        keep(f"{native}.bias", f"{foreign}/bias"),
    ]


def _dense_rules(native: str, foreign: str) -> list[Rule]:
    return [
        transpose(f"{native}.weight", f"{foreign}/kernel"),
        keep(f"{native}.bias", f"{foreign}/bias"),
    ]


def _kernel_rule(native: str, foreign: str) -> Rule:
    """A convolution: (D, 3, P, P) here, (P, P, 3, D) there."""
    return Rule(
        (native,),
        (foreign,),
        lambda values: [values[0].permute(3, 2, 0, 1)],
        lambda values: [values[0].permute(2, 3, 1, 0)],
    )


def _heads_in_rules(weight: str, bias: str, foreign: Sequence[str], heads: int) -> list[Rule]:
    """Projections into heads: together (parts * H * d, D) here, each (D, H, d) there."""

    def join(values: Sequence[Tensor]) -> Sequence[Tensor]:
        for value in values:
            _check_heads(value.shape[-2:], heads)
        return [
            torch.cat(
                [
                    torch.t(value.flatten(1)) if value.ndim == 3 else value.flatten()
                    for value in values
                ]
            )
        ]

    def split(values: Sequence[Tensor]) -> Sequence[Tensor]:
        return [
            torch.t(part).reshape(*part.shape[1:], heads, -1)
            for part in values[0].chunk(len(foreign))
        ]

    return [
        Rule((weight,), tuple(f"{name}/kernel" for name in foreign), join, split),
        Rule((bias,), tuple(f"{name}/bias" for name in foreign), join, split),
    ]


def _heads_out_rules(native: str, foreign: str, heads: int) -> list[Rule]:
    """The projection out of heads: (D, H * d) here, (H, d, D) there."""

    def join(values: Sequence[Tensor]) -> Sequence[Tensor]:
        _check_heads(values[0].shape[:2], heads)
        return [torch.t(values[0].flatten(0, 1))]

    def split(values: Sequence[Tensor]) -> Sequence[Tensor]:
        return [torch.t(values[0]).reshape(heads, -1, len(values[0]))]

    return [
        Rule((f"{native}.weight",), (f"{foreign}/kernel",), join, split),
        keep(f"{native}.bias", f"{foreign}/bias"),
    ]


def _check_heads(shape: Sequence[int], heads: int) -> None:
    if len(shape) != 2 or shape[0] != heads:
        raise ValueError(f"it has {shape[0] if shape else 'no'} heads, the config {heads}")
