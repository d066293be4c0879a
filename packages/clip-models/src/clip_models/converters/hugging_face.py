"""Names of transformers' `CLIPModel`, `SiglipModel` and `Siglip2Model`."""

from __future__ import annotations

from clip_models.converters.renaming import (
    Rule,
    concatenate,
    flatten_patches,
    keep,
    keep_layer,
    split,
    squeeze,
    transpose,
)

DROPPED = ("*.embeddings.position_ids",)
"""Buffers of older files: the integers from zero."""


def _layer_rules(native: str, foreign: str) -> list[Rule]:
    """The transformer layers of one tower."""
    ours, theirs = f"{native}.resblocks.#", f"{foreign}.encoder.layers.#"
    attention = f"{theirs}.self_attn"
    return [
        *keep_layer(f"{ours}.ln_1", f"{theirs}.layer_norm1"),
        *(
            concatenate(
                f"{ours}.attn.in_proj_{part}", [f"{attention}.{x}_proj.{part}" for x in "qkv"]
            )
            for part in ("weight", "bias")
        ),
        *keep_layer(f"{ours}.attn.out_proj", f"{attention}.out_proj"),
        *keep_layer(f"{ours}.ln_2", f"{theirs}.layer_norm2"),
        *keep_layer(f"{ours}.mlp.c_fc", f"{theirs}.mlp.fc1"),
        *keep_layer(f"{ours}.mlp.c_proj", f"{theirs}.mlp.fc2"),
    ]


_BOTH = [
    *_layer_rules("visual.transformer", "vision_model"),
    *_layer_rules("transformer", "text_model"),
    keep("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    *keep_layer("visual.ln_post", "vision_model.post_layernorm"),
    keep("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    keep("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    *keep_layer("ln_final", "text_model.final_layer_norm"),
]

_KERNEL = ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight")

CLIP_RULES = [
    *_BOTH,
    keep(*_KERNEL),
    keep("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    *keep_layer("visual.ln_pre", "vision_model.pre_layrnorm"),
    transpose("visual.proj", "visual_projection.weight"),
    transpose("text_projection", "text_projection.weight"),
    keep("logit_scale", "logit_scale"),
]

_POOL, _HEAD = "visual.attn_pool", "vision_model.head"
_SIGLIP = [
    *_BOTH,
    keep("visual.conv1.bias", "vision_model.embeddings.patch_embedding.bias"),
    keep(f"{_POOL}.latent", f"{_HEAD}.probe"),
    *(
        split(
            [f"{_POOL}.q.{part}", f"{_POOL}.kv.{part}"],
            f"{_HEAD}.attention.in_proj_{part}",
            shares=(1, 2),
        )
        for part in ("weight", "bias")
    ),
    *keep_layer(f"{_POOL}.proj", f"{_HEAD}.attention.out_proj"),
    *keep_layer(f"{_POOL}.norm", f"{_HEAD}.layernorm"),
    *keep_layer(f"{_POOL}.mlp.c_fc", f"{_HEAD}.mlp.fc1"),
    *keep_layer(f"{_POOL}.mlp.c_proj", f"{_HEAD}.mlp.fc2"),
    *keep_layer("text_projection", "text_model.head"),
    squeeze("logit_scale", "logit_scale"),
    squeeze("logit_bias", "logit_bias"),
]

SIGLIP_RULES = [*_SIGLIP, keep(*_KERNEL)]
SIGLIP2_RULES = [*_SIGLIP, flatten_patches(*_KERNEL)]
"""Of NaFlex; SigLIP 2 for images of one shape is a `SiglipModel`."""
