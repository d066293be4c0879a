"""Named training runs.

`text8-*` are the settings of Nawrot et al. 2023 on text8: Transformer-XL attention, post-norm,
200,000 steps (`random` is ours). Deviation: bfloat16 instead of float16 autocast. `cpu-*` are small
ones for a laptop, too short for a sure predictor: `cpu-gumbel` calibrates its threshold.
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


def _with_boundaries(base: TrainingConfig, boundaries: BoundaryConfig) -> TrainingConfig:
    return replace(base, model=replace(base.model, boundaries=boundaries))


PRESETS = {
    **{f"text8-{name}": _with_boundaries(_PUBLISHED, b) for name, b in _BOUNDARIES.items()},
    **{f"cpu-{name}": _with_boundaries(_CPU, b) for name, b in _BOUNDARIES.items()},
    "cpu-gumbel": _with_boundaries(_CPU, replace(_BOUNDARIES["gumbel"], evaluation="calibrated")),
}


def get_preset(name: str) -> TrainingConfig:
    """The configuration of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}{nearest(name, PRESETS)}")
    return PRESETS[name]
