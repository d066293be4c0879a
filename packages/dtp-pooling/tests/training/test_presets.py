from __future__ import annotations

import dataclasses

import pytest
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
    same = {
        dataclasses.replace(config.model, boundaries=BoundaryConfig())
        for name, config in PRESETS.items()
        if "routing" not in name
    }
    assert len(same) == 2  # the published sizes and the small ones


@pytest.mark.parametrize("size", ["text8", "cpu"])
def test_routing_presets_have_the_sizes_of_the_others_and_the_parts_of_h_net(size):
    plain = PRESETS[f"{size}-gumbel"].model
    one, two = PRESETS[f"{size}-routing"].model, PRESETS[f"{size}-routing-2"].model
    for model in (one, two):
        assert (model.width, model.feedforward) == (plain.width, plain.feedforward)
        assert model.shortened_layers + model.nested_layers == plain.shortened_layers
        assert (model.norm, model.residual, model.part_norms) == ("pre", "linear", True)
        boundaries = model.boundaries.resolve()
        assert (boundaries.rate_loss, boundaries.weight) == ("ratio", 0.03)
        assert boundaries.smooth
        assert boundaries.confidence
    assert two.boundaries.rate * two.nested.rate == pytest.approx(0.15)
    assert list(PRESETS[f"{size}-routing-2"].part_rates) == sorted(
        PRESETS[f"{size}-routing-2"].part_rates, reverse=True
    )
