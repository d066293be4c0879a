"""Names of CoreNet's CLIP (Apple, `multi_modal_image_text.clip` with the `vit` encoder)."""

from __future__ import annotations

from clip_models.converters.renaming import Rule, keep, keep_layer, squeeze

DROPPED = ("image_encoder.neural_augmentor.*",)
"""RangeAugment's learned ranges: part of its training, not of the model."""


def _layer_rules(native: str, foreign: str) -> list[Rule]:
    ours, theirs = f"{native}.resblocks.#", f"{foreign}.#"
    attention = f"{theirs}.pre_norm_mha.1"
    return [
        *keep_layer(f"{ours}.ln_1", f"{theirs}.pre_norm_mha.0"),
        *(
            keep(f"{ours}.attn.in_proj_{part}", f"{attention}.qkv_proj.{part}")
            for part in ("weight", "bias")
        ),
        *keep_layer(f"{ours}.attn.out_proj", f"{attention}.out_proj"),
        *keep_layer(f"{ours}.ln_2", f"{theirs}.pre_norm_ffn.0"),
        *keep_layer(f"{ours}.mlp.c_fc", f"{theirs}.pre_norm_ffn.1"),
        *keep_layer(f"{ours}.mlp.c_proj", f"{theirs}.pre_norm_ffn.4"),
    ]


_POSITIONS = "pos_embed.pos_embed"
RULES = [
    keep("visual.conv1.conv1.weight", "image_encoder.patch_emb.0.block.conv.weight"),
    keep("visual.conv1.bn1.*", "image_encoder.patch_emb.0.block.norm.*"),
    keep("visual.conv1.conv2.weight", "image_encoder.patch_emb.1.block.conv.weight"),
    keep("visual.conv1.bn2.*", "image_encoder.patch_emb.1.block.norm.*"),
    *keep_layer("visual.conv1.conv3", "image_encoder.patch_emb.2.block.conv"),
    squeeze("visual.class_embedding", "image_encoder.cls_token", 2),
    squeeze("visual.positional_embedding", f"image_encoder.pos_embed.{_POSITIONS}", 2),
    *_layer_rules("visual.transformer", "image_encoder.transformer"),
    *keep_layer("visual.ln_post", "image_encoder.post_transformer_norm"),
    keep("visual.proj", "image_encoder.classifier.proj"),
    keep("token_embedding.weight", "text_encoder.embedding_layer.weight"),
    squeeze("positional_embedding", f"text_encoder.positional_embedding.{_POSITIONS}", 2),
    *_layer_rules("transformer", "text_encoder.transformer"),
    *keep_layer("ln_final", "text_encoder.final_layer_norm"),
    keep("text_projection", "text_encoder.projection_layer"),
    keep("logit_scale", "logit_scale"),
]
