"""Names of open_clip's models whose image tower is timm's or whose text tower stands apart.

Its other models are named as ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.towers import ViTConfig
from clip_models.converters.renaming import Rule, leading, linear, rename, same, transposed

DROPPED = ("attn_mask", "text.attn_mask", "text.transformer.embeddings.position_ids")
"""Buffers of older files that hold no weights."""

_TRUNK = "visual.trunk"
_OURS, _THEIRS = "visual.transformer.resblocks.#", f"{_TRUNK}.blocks.#"
_POOL = "visual.attn_pool"

TIMM_RULES: list[Rule] = [
    *linear("visual.conv1", f"{_TRUNK}.patch_embed.proj"),
    leading("visual.class_embedding", f"{_TRUNK}.cls_token", 2),
    leading("visual.positional_embedding", f"{_TRUNK}.pos_embed"),
    *linear("visual.ln_pre", f"{_TRUNK}.norm_pre"),
    *linear(f"{_OURS}.ln_1", f"{_THEIRS}.norm1"),
    *(same(f"{_OURS}.attn.in_proj_{x}", f"{_THEIRS}.attn.qkv.{x}") for x in ("weight", "bias")),
    *linear(f"{_OURS}.attn.out_proj", f"{_THEIRS}.attn.proj"),
    same(f"{_OURS}.ls_1.gamma", f"{_THEIRS}.ls1.gamma"),
    *linear(f"{_OURS}.ln_2", f"{_THEIRS}.norm2"),
    *linear(f"{_OURS}.mlp.c_fc", f"{_THEIRS}.mlp.fc1"),
    *linear(f"{_OURS}.mlp.c_proj", f"{_THEIRS}.mlp.fc2"),
    same(f"{_OURS}.ls_2.gamma", f"{_THEIRS}.ls2.gamma"),
    *linear("visual.ln_post", f"{_TRUNK}.norm"),
    *linear(f"{_POOL}.mlp.c_fc", f"{_TRUNK}.attn_pool.mlp.fc1"),
    *linear(f"{_POOL}.mlp.c_proj", f"{_TRUNK}.attn_pool.mlp.fc2"),
    same(f"{_POOL}.*", f"{_TRUNK}.attn_pool.*"),
    transposed("visual.proj", "visual.head.proj.weight"),
]

CUSTOM_TEXT_RULES: list[Rule] = [
    *linear("text_projection", "text.text_projection"),
    same("text_projection", "text.text_projection"),
    *(same(name, f"text.{name}") for name in ("positional_embedding", "token_embedding.weight")),
    same("transformer.*", "text.transformer.*"),
    *linear("ln_final", "text.ln_final"),
]


def is_renamed(state: Iterable[str]) -> bool:
    """Whether the names are those of a timm trunk or of a separate text tower."""
    return any(name.startswith(("visual.trunk.", "text.")) for name in state)


def to_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of any open_clip model that we have; unknown names stay as they are."""
    rules = [*TIMM_RULES, *CUSTOM_TEXT_RULES, same("*", "*")]
    kept = {name: value for name, value in state.items() if name not in DROPPED}
    return rename(kept, rules, to="native", what="the open_clip weights")


def from_our_names(state: Mapping[str, Tensor], config: CLIPConfig) -> dict[str, Tensor]:
    """The weights as open_clip names them in the model that it builds."""
    trunk = isinstance(config.vision, ViTConfig) and config.vision.readout == "map"
    apart = trunk or config.text.projection != "linear"
    rules = [*(TIMM_RULES if trunk else ()), *(CUSTOM_TEXT_RULES if apart else ())]
    return rename(state, [*rules, same("*", "*")], to="foreign")
