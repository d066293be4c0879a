"""Weights of the reference implementation of Nawrot et al. 2023 in this package's model.

The checkpoints of github.com/PiotrNawrot/dynamic-pooling hold a `model_state` next to pickled
objects of that project's classes, which this package does not unpickle: pass the tensors.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from torch import Tensor

from dtp_pooling.language_model.config import BoundaryConfig, LanguageModelConfig
from dtp_pooling.language_model.model import DynamicPoolingLM

_STAGES = ("pre", "shortened", "post")
_PLAIN = {
    "word_emb.weight": "embedding.weight",
    "r_w_bias": "content_bias",
    "r_r_bias": "position_bias",
    "null_group": "null",
    "down_ln.weight": "pooled_norm.weight",
    "down_ln.bias": "pooled_norm.bias",
    "final_cast.weight": "head.weight",
    "final_cast.bias": "head.bias",
}
_PREDICTOR = {"0": "hidden", "2": "out"}
_LAYER = {
    "dec_attn.qkv_net": "attention.qkv",
    "dec_attn.r_net": "attention.position",
    "dec_attn.o_net": "attention.out",
    "dec_attn.layer_norm": "attention_norm",
    "pos_ff.CoreNet.0": "expand",
    "pos_ff.CoreNet.3": "contract",
    "pos_ff.layer_norm": "feedforward_norm",
}


def load_hourglass(
    model_state: Mapping[str, Tensor], boundaries: BoundaryConfig
) -> DynamicPoolingLM:
    """The model of a reference checkpoint in evaluation mode, with equal logits.

    Deviation: `gumbel` decides by probability one half; the reference samples in evaluation too.

    Args:
        model_state: Its tensors by name; sizes are read from them.
        boundaries: What `boundaries_type` and its settings were; `none` for a vanilla model.

    Raises:
        ValueError: A name is unknown or missing.
    """
    named = {name.removeprefix("module."): value for name, value in model_state.items()}
    named.pop("pos_emb.inv_freq", None)  # a constant
    state = {_rename(name): value for name, value in named.items()}
    if "null" in state:
        state["null"] = state["null"].reshape(-1)
    for needed in ("r_w_bias", "word_emb.weight", "layers.0.0.pos_ff.CoreNet.0.weight"):
        if _rename(needed) not in state:
            raise ValueError(f"the checkpoint has no {needed}; pass its whole `model_state`")
    model = DynamicPoolingLM(_read_config(state, boundaries))
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"the checkpoint does not fit boundaries.kind={boundaries.kind!r}: "
            f"missing {missing}, unexpected {unexpected}; pass the kind it was trained with"
        )
    return model.eval()


def _read_config(state: Mapping[str, Tensor], boundaries: BoundaryConfig) -> LanguageModelConfig:
    """The sizes that tensors under this package's names have."""
    depths = {stage: _count_layers(state, stage) for stage in _STAGES}
    num_heads, head_dim = state["content_bias"].shape
    vocabulary, width = state["embedding.weight"].shape
    predictor = state.get("segmenter.scores.hidden.weight")
    if predictor is not None:
        boundaries = dataclasses.replace(boundaries, hidden=predictor.shape[0])
    return LanguageModelConfig(
        vocabulary=vocabulary,
        width=width,
        num_heads=num_heads,
        head_dim=head_dim,
        feedforward=state["pre.0.expand.weight"].shape[0],
        pre_layers=depths["pre"],
        shortened_layers=depths["shortened"],
        post_layers=depths["post"],
        attention="relative",
        norm="post",
        attention_dropout=0.1,
        boundaries=boundaries,
    )


def _rename(name: str) -> str:
    if name in _PLAIN:
        return _PLAIN[name]
    layer = re.fullmatch(r"layers\.([012])\.(\d+)\.(.+)\.(weight|bias)", name)
    if layer is not None and layer[3] in _LAYER:
        return f"{_STAGES[int(layer[1])]}.{layer[2]}.{_LAYER[layer[3]]}.{layer[4]}"
    predictor = re.fullmatch(r"boundary_predictor\.boundary_predictor\.([02])\.(.+)", name)
    if predictor is not None:
        return f"segmenter.scores.{_PREDICTOR[predictor[1]]}.{predictor[2]}"
    raise ValueError(f"{name!r} is not a weight of the reference model; pass its `model_state`")


def _count_layers(state: Mapping[str, Tensor], stage: str) -> int:
    numbers = {int(name.split(".")[1]) for name in state if name.startswith(f"{stage}.")}
    return len(numbers)
