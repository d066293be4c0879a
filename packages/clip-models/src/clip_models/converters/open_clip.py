"""Names of open_clip's models with an image tower of timm or a separate text tower.

Its other models have the names of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.towers import ViTConfig
from clip_models.converters.renaming import Rule, keep, keep_layer, rename, squeeze, transpose

DROPPED = ("attn_mask", "text.attn_mask", "text.transformer.embeddings.position_ids")
"""Buffers of older files, which are not weights."""

_TRUNK = "visual.trunk"
_OURS, _THEIRS = "visual.transformer.resblocks.#", f"{_TRUNK}.blocks.#"
_POOL = "visual.attn_pool"

TIMM_RULES: list[Rule] = [
    *keep_layer("visual.conv1", f"{_TRUNK}.patch_embed.proj"),
    squeeze("visual.class_embedding", f"{_TRUNK}.cls_token", 2),
    squeeze("visual.positional_embedding", f"{_TRUNK}.pos_embed"),
    *keep_layer("visual.ln_pre", f"{_TRUNK}.norm_pre"),
    *keep_layer(f"{_OURS}.ln_1", f"{_THEIRS}.norm1"),
    *(keep(f"{_OURS}.attn.in_proj_{x}", f"{_THEIRS}.attn.qkv.{x}") for x in ("weight", "bias")),
    *keep_layer(f"{_OURS}.attn.out_proj", f"{_THEIRS}.attn.proj"),
    keep(f"{_OURS}.ls_1.gamma", f"{_THEIRS}.ls1.gamma"),
    *keep_layer(f"{_OURS}.ln_2", f"{_THEIRS}.norm2"),
    *keep_layer(f"{_OURS}.mlp.c_fc", f"{_THEIRS}.mlp.fc1"),
    *keep_layer(f"{_OURS}.mlp.c_proj", f"{_THEIRS}.mlp.fc2"),
    keep(f"{_OURS}.ls_2.gamma", f"{_THEIRS}.ls2.gamma"),
    *keep_layer("visual.ln_post", f"{_TRUNK}.norm"),
    *keep_layer(f"{_POOL}.mlp.c_fc", f"{_TRUNK}.attn_pool.mlp.fc1"),
    *keep_layer(f"{_POOL}.mlp.c_proj", f"{_TRUNK}.attn_pool.mlp.fc2"),
    keep(f"{_POOL}.*", f"{_TRUNK}.attn_pool.*"),
    transpose("visual.proj", "visual.head.proj.weight"),
]

CUSTOM_TEXT_RULES: list[Rule] = [
    *keep_layer("text_projection", "text.text_projection"),
    keep("text_projection", "text.text_projection"),
    *(keep(name, f"text.{name}") for name in ("positional_embedding", "token_embedding.weight")),
    keep("transformer.*", "text.transformer.*"),
    *keep_layer("ln_final", "text.ln_final"),
]


def has_foreign_names(state: Iterable[str]) -> bool:
    """Whether the names are those of a timm trunk or of a separate text tower."""
    return any(name.startswith(("visual.trunk.", "text.")) for name in state)


def to_native(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an open_clip model under our names; unknown names stay as they are."""
    rules = [*TIMM_RULES, *CUSTOM_TEXT_RULES, keep("*", "*")]
    kept = {name: value for name, value in state.items() if name not in DROPPED}
    return rename(kept, rules, to="native", what="the open_clip weights")


def from_native(state: Mapping[str, Tensor], config: CLIPConfig) -> dict[str, Tensor]:
    """The weights as open_clip names them in the model that it builds."""
    trunk = isinstance(config.vision, ViTConfig) and config.vision.readout == "map"
    separate_text = trunk or config.text.projection != "linear"
    rules = [*(TIMM_RULES if trunk else ()), *(CUSTOM_TEXT_RULES if separate_text else ())]
    return rename(state, [*rules, keep("*", "*")], to="foreign")
