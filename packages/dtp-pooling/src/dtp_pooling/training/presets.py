"""Named training runs.

`text8-*` are the settings of Nawrot et al. 2023 on text8: Transformer-XL attention, post-norm,
200,000 steps (`random` is ours). Deviation: bfloat16 instead of float16 autocast. `cpu-*` are small
ones for a laptop, too short for a sure predictor: `cpu-gumbel` calibrates its threshold.

`*-routing` have the same sizes with the parts of H-Net (Hwang et al. 2025): its routing rule,
smoothing, confidence, ratio loss, norms and residual, in pre-norm layers with rotary positions.
`*-routing-2` have segments of segments, for which half of the layers on segments are used. Learning
rates grow with the square root of the number of positions that a part sees. H-Net has Mamba-2
layers on tokens where these have attention, and no such run of full length has been made.
"""

from __future__ import annotations

from dataclasses import replace

from dtp_pooling.language_model.config import BoundaryConfig, LanguageModelConfig
from dtp_pooling.strict_config import nearest
from dtp_pooling.training.config import TrainingConfig

_PUBLISHED = TrainingConfig(
    model=LanguageModelConfig(attention="relative", norm="post", attention_dropout=0.1),
    precision="bfloat16",
)
_CPU = TrainingConfig(
    model=LanguageModelConfig(
        width=128,
        num_heads=4,
        head_dim=32,
        feedforward=512,
        pre_layers=1,
        shortened_layers=4,
        post_layers=1,
        dropout=0.0,
    ),
    steps=2000,
    context=512,
    learning_rate=1e-3,
    warmup=100,
    evaluate_every=500,
    evaluation_window=512,
    evaluation_stride=256,
    unigram_vocabulary=1000,
)
_BOUNDARIES = {
    "vanilla": BoundaryConfig(kind="none"),
    "fixed-2": BoundaryConfig(kind="fixed", factor=2),
    "fixed-3": BoundaryConfig(kind="fixed", factor=3),
    "fixed-4": BoundaryConfig(kind="fixed", factor=4),
    "whitespace": BoundaryConfig(kind="whitespace"),
    "unigram": BoundaryConfig(kind="unigram", target_loss="double_sigmoid"),
    "entropy": BoundaryConfig(kind="entropy", target_loss="double_sigmoid"),
    "gumbel": BoundaryConfig(kind="gumbel"),
    "random": BoundaryConfig(kind="random"),
}

_ROUTING = BoundaryConfig(kind="routing", rate=0.2)
_OUTER = BoundaryConfig(kind="routing", rate=0.3)
_NESTED = BoundaryConfig(kind="routing", rate=0.5)


def _with_boundaries(base: TrainingConfig, boundaries: BoundaryConfig) -> TrainingConfig:
    return replace(base, model=replace(base.model, boundaries=boundaries))


def _with_routing(base: TrainingConfig, *, is_nested: bool = False) -> TrainingConfig:
    """A run with H-Net's parts, in one stage or two."""
    layers = base.model.shortened_layers // 2 if is_nested else 0
    model = replace(
        base.model,
        attention="rotary",
        norm="pre",
        attention_dropout=0.0,
        boundaries=_OUTER if is_nested else _ROUTING,
        residual="linear",
        part_norms=True,
        shortened_layers=base.model.shortened_layers - layers,
        nested_layers=layers,
        nested=_NESTED if is_nested else BoundaryConfig(kind="none"),
    )
    return replace(base, model=model, part_rates=(2.6, 1.4, 1.0) if is_nested else (2.2, 1.0, 1.0))


PRESETS = {
    **{f"text8-{name}": _with_boundaries(_PUBLISHED, b) for name, b in _BOUNDARIES.items()},
    **{f"cpu-{name}": _with_boundaries(_CPU, b) for name, b in _BOUNDARIES.items()},
    "cpu-gumbel": _with_boundaries(_CPU, replace(_BOUNDARIES["gumbel"], evaluation="calibrated")),
    "text8-routing": _with_routing(_PUBLISHED),
    "text8-routing-2": _with_routing(_PUBLISHED, is_nested=True),
    "cpu-routing": _with_routing(_CPU),
    "cpu-routing-2": _with_routing(_CPU, is_nested=True),
}


def get_preset(name: str) -> TrainingConfig:
    """The configuration of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}{nearest(name, PRESETS)}")
    return PRESETS[name]
