from __future__ import annotations

import dataclasses

import pytest
from dtp_pooling.language_model.config import BoundaryConfig, LanguageModelConfig
from dtp_pooling.strict_config import from_dict
from dtp_pooling.training.config import TrainingConfig


def test_round_trip_through_plain_values():
    config = LanguageModelConfig(
        width=64, boundaries=BoundaryConfig(kind="fixed", factor=4, interval=(0.1, 0.3))
    )
    assert from_dict(LanguageModelConfig, dataclasses.asdict(config)) == config


def test_lists_from_json_become_tuples():
    assert from_dict(BoundaryConfig, {"interval": [0.1, 0.2]}).interval == (0.1, 0.2)


def test_unknown_keys_name_the_nearest():
    with pytest.raises(ValueError, match=r"unknown key 'widht'; did you mean 'width'\?"):
        from_dict(LanguageModelConfig, {"widht": 3})
    with pytest.raises(ValueError, match=r"'boundaries.rates'; did you mean 'boundaries.rate'\?"):
        from_dict(LanguageModelConfig, {"boundaries": {"rates": 0.1}})
    with pytest.raises(ValueError, match="known: "):
        from_dict(BoundaryConfig, {"zzz": 1})


def test_values_out_of_range_name_the_whole_path():
    with pytest.raises(ValueError, match=r"^model\.boundaries\.factor must be at least 1, got 0$"):
        from_dict(TrainingConfig, {"model": {"boundaries": {"factor": 0}}})


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (LanguageModelConfig, {"width": 16.5}, r"width must be int, got 16\.5"),
        (LanguageModelConfig, {"width": True}, "width must be int, got True"),
        (LanguageModelConfig, {"boundaries": 3}, "boundaries must be BoundaryConfig, got 3"),
        (BoundaryConfig, {"rate": "much"}, "rate must be float, got 'much'"),
        (BoundaryConfig, {"hidden": "4"}, r"hidden must be int \| None, got '4'"),
        (BoundaryConfig, {"interval": [0.1]}, r"interval must be tuple\[float, float\], got"),
    ],
)
def test_values_of_another_type_are_refused(cls, values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(cls, values)
    assert from_dict(BoundaryConfig, {"hidden": None, "weight": 2}).weight == 2
