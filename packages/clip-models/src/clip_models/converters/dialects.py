"""State dicts and configs of other libraries, to and from ours.

A dialect is a naming of weights. Every conversion goes through ours: `to_native`, `from_native`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.strict import nearest
from clip_models.config.towers import ViTConfig
from clip_models.converters import corenet, flax, hugging_face, open_clip, openai
from clip_models.converters.dialect_names import DIALECTS, Dialect
from clip_models.converters.equivalence import require_same
from clip_models.converters.hugging_face_config import to_hugging_face_config
from clip_models.converters.renaming import Rule, rename
from clip_models.errors import CheckpointError, ConfigError

TOWERS = {"openai": ("vit", "modified_resnet"), "clipa": ("vit",), "corenet": ("vit",)}
"""Kinds of image towers that a dialect without configs has."""
_CLIPS = (
    ("text.token_embedding.weight", "visual."),
    ("token_embedding.weight", "visual."),
    (
        "text_model.embeddings.token_embedding.weight",
        "vision_model.embeddings.patch_embedding.weight",
    ),
    ("text_encoder.embedding_layer.weight", "image_encoder.patch_emb.0.block.conv.weight"),
)
"""For each naming, a name in the text tower, and how a name in the image tower begins."""


def find_prefixes(names: Collection[str]) -> list[str]:
    """What stands before the names of each whole CLIP among them, sorted; "" for none."""
    found = set()
    for text, image in _CLIPS:
        for name in names:
            prefix = name.removesuffix(text)
            whole_part = name.endswith(text) and (not prefix or prefix.endswith("."))
            if whole_part and any(other.startswith(prefix + image) for other in names):
                found.add(prefix)
    return sorted(found)


def detect_dialect(state: Mapping[str, Tensor]) -> Dialect:
    """The dialect of the names of a state dict.

    The names in most of open_clip's and OpenAI's models are ours; "open-clip" is the answer for
    trunks of timm and separate text towers, "openai" for weights with the numbers that OpenAI's
    archives hold.

    Raises:
        CheckpointError: The names are of no known dialect.
    """
    if "vision_model.embeddings.patch_embedding.weight" in state:
        return "hugging-face"
    if "image_encoder.patch_emb.0.block.conv.weight" in state:
        return "corenet"
    if {"img/embedding/kernel", "params/img/embedding/kernel"} & state.keys():
        return "clipa"
    if open_clip.has_foreign_names(state):
        return "open-clip"
    if "input_resolution" in state:
        return "openai"
    if "token_embedding.weight" in state:
        return "clip-models"
    raise CheckpointError(
        f"these are not weights of a known CLIP{_describe_part(state)}: "
        f"{', '.join(list(state)[:4])}, …"
    )


def _describe_part(state: Mapping[str, Tensor]) -> str:
    """What is said of one tower without the other."""
    beginnings = {name.partition(".")[0] for name in state}
    if beginnings <= {"visual", "vision_model", "image_encoder"}:
        return ", but an image tower alone, and a CLIP needs both towers"
    return ""


def to_native(
    state: Mapping[str, Tensor], config: CLIPConfig, *, dialect: Dialect | None = None
) -> dict[str, Tensor]:
    """The state dict that `CLIP(config)` loads; types and bits stay as they are.

    Args:
        state: Weights in any dialect.
        config: The model they are of.
        dialect: None detects it.

    Raises:
        CheckpointError: A tensor has no place in the model's naming.
    """
    dialect = detect_dialect(state) if dialect is None else dialect
    if dialect == "clipa":
        state = flax.unstack_layers(state, config)
    if dialect == "open-clip":
        native = open_clip.to_native(state)
    elif dialect in ("openai", "clip-models"):
        if dialect == "openai":
            openai.require_activation(config)
        native = {key: value for key, value in state.items() if key not in openai.EXTRAS}
    else:
        rules, dropped = _rules(dialect, config)
        native = rename(state, rules, to="native", dropped=dropped, what=f"the {dialect} weights")
    for name in ("logit_scale", "logit_bias"):
        if name in native and native[name].numel() == 1:
            native[name] = native[name].reshape(())
    return native


def from_native(
    state: Mapping[str, Tensor], config: CLIPConfig, dialect: Dialect
) -> dict[str, Tensor]:
    """The weights of `CLIP(config)` in another dialect; types and bits stay as they are.

    Raises:
        ConfigError: The dialect has no such model.
    """
    if dialect == "clip-models":
        return dict(state)
    if dialect == "open-clip":
        return open_clip.from_native(state, config)
    if dialect == "hugging-face":
        to_hugging_face_config(config)
    known = TOWERS.get(dialect, ())
    if known and config.vision.kind not in known:
        raise ConfigError(
            f"{dialect} has no such model: its image towers are of kind {' or '.join(known)}, and "
            f"this one is {config.vision.kind}"
        )
    try:
        if dialect == "openai":
            require_same(config, openai.infer_config(state), "OpenAI's CLIP")
            return {**state, **openai.make_extras(config)}
        foreign = rename(state, _rules(dialect, config)[0], to="foreign", what="the model")
    except CheckpointError as error:
        raise ConfigError(f"{dialect} has no such model: {error}") from None
    return flax.drop_computed_positions(foreign, config) if dialect == "clipa" else foreign


def _rules(dialect: Dialect, config: CLIPConfig) -> tuple[list[Rule], tuple[str, ...]]:
    """The rules of a dialect and the patterns of names that may be dropped."""
    siglip = isinstance(config.vision, ViTConfig) and config.vision.readout == "map"
    if dialect == "hugging-face":
        if siglip and getattr(config.vision, "native", False):
            return hugging_face.SIGLIP2_RULES, hugging_face.DROPPED
        rules = hugging_face.SIGLIP_RULES if siglip else hugging_face.CLIP_RULES
        return rules, hugging_face.DROPPED
    if dialect == "clipa":
        return flax.siglip_rules(config) if siglip else flax.clipa_rules(config), ()
    if dialect == "corenet":
        return corenet.RULES, corenet.DROPPED
    raise ConfigError(f"unknown dialect {dialect!r}{nearest(dialect, DIALECTS)}")
