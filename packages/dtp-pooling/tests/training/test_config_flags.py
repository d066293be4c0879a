from __future__ import annotations

import pytest
from dtp_pooling.training.config_flags import apply_settings, config_keys, split_config_flags
from dtp_pooling.training.presets import PRESETS


def test_keys_are_those_of_all_sections():
    keys = config_keys()
    assert {"steps", "model.width", "model.boundaries.kind"} <= keys.keys()
    assert not {"model", "model.boundaries"} & keys.keys()


def test_flags_of_keys_are_taken_wherever_they_stand():
    words = ["train", "--steps", "-7", "text", "--batch-size=4", "--out", "x", "--model.width", "8"]
    settings, rest = split_config_flags(words)
    assert settings == {"steps": "-7", "batch_size": "4", "model.width": "8"}
    assert rest == ["train", "text", "--out", "x"]
    with pytest.raises(
        ValueError, match=r"unknown key 'model.widht'; did you mean 'model.width'\?"
    ):
        split_config_flags(["--model.widht", "8"])
    with pytest.raises(ValueError, match="--steps needs a value"):
        split_config_flags(["--steps"])


def test_settings_replace_values_by_their_types():
    base = PRESETS["cpu-gumbel"]
    settings = {
        "model.boundaries.kind": "random",
        "model.boundaries.interval": "[0.1, 0.2]",
        "model.boundaries.hidden": "null",
        "model.dropout": "0",
        "steps": "7",
        "teacher": "12",  # a directory of that name
        "quantize": "none",
    }
    config = apply_settings(base, settings)
    boundaries = config.model.boundaries
    assert (boundaries.kind, boundaries.interval, boundaries.hidden) == ("random", (0.1, 0.2), None)
    assert (config.steps, config.teacher, config.quantize) == (7, "12", "none")
    assert config.model.width == base.model.width
    assert apply_settings(config, {"teacher": "none"}).teacher is None
    with pytest.raises(ValueError, match="did you mean 'steps'"):
        apply_settings(config, {"step": "3"})
    with pytest.raises(ValueError, match=r"steps must be int, got '3\.x'"):
        apply_settings(config, {"steps": "3.x"})
    with pytest.raises(ValueError, match="kind must be one of"):
        apply_settings(config, {"model.boundaries.kind": "gumble"})
