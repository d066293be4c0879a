from __future__ import annotations

import dataclasses

from dtp_pooling import BoundaryConfig
from dtp_pooling.training.presets import PRESETS


def test_published_presets_hold_the_published_settings():
    config = PRESETS["text8-gumbel"]
    assert (config.steps, config.batch_size, config.context) == (200_000, 8, 2048)
    assert (config.learning_rate, config.warmup, config.clip) == (2.5e-4, 4000, 0.25)
    model = config.model
    assert (model.width, model.num_heads, model.head_dim, model.feedforward) == (512, 8, 64, 2048)
    assert (model.pre_layers, model.shortened_layers, model.post_layers) == (2, 8, 2)
    assert (model.dropout, model.attention_dropout) == (0.1, 0.1)
    assert (model.attention, model.norm) == ("relative", "post")
    assert (model.boundaries.rate, model.boundaries.temperature) == (0.2, 0.5)
    assert PRESETS["text8-entropy"].model.boundaries.target_loss == "double_sigmoid"
    same = {dataclasses.replace(c.model, boundaries=BoundaryConfig()) for c in PRESETS.values()}
    assert len(same) == 2  # the published sizes and the small ones
