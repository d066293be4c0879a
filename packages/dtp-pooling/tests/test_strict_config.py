from __future__ import annotations

import dataclasses

import pytest
from dtp_pooling.language_config import BoundaryConfig, LanguageModelConfig
from dtp_pooling.strict_config import from_dict


def test_round_trip_through_plain_values():
    config = LanguageModelConfig(
        width=64, boundaries=BoundaryConfig(kind="fixed", factor=4, interval=(0.1, 0.3))
    )
    assert from_dict(LanguageModelConfig, dataclasses.asdict(config)) == config


def test_lists_from_json_become_tuples():
    assert from_dict(BoundaryConfig, {"interval": [0.1, 0.2]}).interval == (0.1, 0.2)


def test_unknown_keys_name_the_nearest():
    with pytest.raises(ValueError, match="no field 'widht'; did you mean 'width'"):
        from_dict(LanguageModelConfig, {"widht": 3})
    with pytest.raises(ValueError, match="BoundaryConfig has no field 'rates'"):
        from_dict(LanguageModelConfig, {"boundaries": {"rates": 0.1}})
    with pytest.raises(ValueError, match="known: "):
        from_dict(BoundaryConfig, {"zzz": 1})
