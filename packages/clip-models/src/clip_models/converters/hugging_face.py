"""Names of transformers' `CLIPModel` and `SiglipModel`."""

from __future__ import annotations

from clip_models.converters.renaming import (
    Rule,
    joined,
    leading,
    linear,
    parted,
    same,
    transposed,
)

DROPPED = ("*.embeddings.position_ids",)
"""Older files hold these buffers: the numbers from zero on."""


def _layers(native: str, foreign: str) -> list[Rule]:
    """The transformer layers of one tower."""
    ours, theirs = f"{native}.resblocks.#", f"{foreign}.encoder.layers.#"
    attention = f"{theirs}.self_attn"
    return [
        *linear(f"{ours}.ln_1", f"{theirs}.layer_norm1"),
        *(
            joined(f"{ours}.attn.in_proj_{part}", [f"{attention}.{x}_proj.{part}" for x in "qkv"])
            for part in ("weight", "bias")
        ),
        *linear(f"{ours}.attn.out_proj", f"{attention}.out_proj"),
        *linear(f"{ours}.ln_2", f"{theirs}.layer_norm2"),
        *linear(f"{ours}.mlp.c_fc", f"{theirs}.mlp.fc1"),
        *linear(f"{ours}.mlp.c_proj", f"{theirs}.mlp.fc2"),
    ]


_BOTH = [
    *_layers("visual.transformer", "vision_model"),
    *_layers("transformer", "text_model"),
    same("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    same("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    *linear("visual.ln_post", "vision_model.post_layernorm"),
    same("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    same("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    *linear("ln_final", "text_model.final_layer_norm"),
]

CLIP_RULES = [
    *_BOTH,
    same("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    *linear("visual.ln_pre", "vision_model.pre_layrnorm"),
    transposed("visual.proj", "visual_projection.weight"),
    transposed("text_projection", "text_projection.weight"),
    same("logit_scale", "logit_scale"),
]

_POOL, _HEAD = "visual.attn_pool", "vision_model.head"
SIGLIP_RULES = [
    *_BOTH,
    same("visual.conv1.bias", "vision_model.embeddings.patch_embedding.bias"),
    same(f"{_POOL}.latent", f"{_HEAD}.probe"),
    *(
        parted(
            [f"{_POOL}.q.{part}", f"{_POOL}.kv.{part}"],
            f"{_HEAD}.attention.in_proj_{part}",
            shares=(1, 2),
        )
        for part in ("weight", "bias")
    ),
    *linear(f"{_POOL}.proj", f"{_HEAD}.attention.out_proj"),
    *linear(f"{_POOL}.norm", f"{_HEAD}.layernorm"),
    *linear(f"{_POOL}.mlp.c_fc", f"{_HEAD}.mlp.fc1"),
    *linear(f"{_POOL}.mlp.c_proj", f"{_HEAD}.mlp.fc2"),
    *linear("text_projection", "text_model.head"),
    leading("logit_scale", "logit_scale"),
    leading("logit_bias", "logit_bias"),
]
