from __future__ import annotations

import pytest
import torch
from clip_models import ConfigError
from clip_models.devices import choose_device


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", local_rank=1) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("auto", local_rank=1) == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["abacus", "cuda:x"])
def test_a_device_that_cannot_be_used_is_named_with_its_setting(name: str) -> None:
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=f"train.device '{name}' cannot be used: .*; try cpu"):
        choose_device(name, setting="train.device")
