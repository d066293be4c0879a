from __future__ import annotations

import json

import pytest
import torch
from osf_supernet import load
from osf_supernet.cli import main
from torch import nn

MODULE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 3))
    return model, torch.randn(2, 6)
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    (tmp_path / "osf_cli_example.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "osf_cli_example:make"


def test_explain_in_words_json_and_dot(model, capsys):
    assert main(["explain", model]) == 0
    assert "mlp  mlp 32  [8, 16, 24, 32]" in capsys.readouterr().out
    main(["explain", model, "--format", "json"])
    assert json.loads(capsys.readouterr().out)["groups"][0]["name"]
    main(["explain", model, "--format", "dot"])
    assert capsys.readouterr().out.startswith("graph dimensions {")


def test_sample_extract_and_verify(model, capsys, tmp_path):
    main(["sample", model, "--max-params", "0.3"])
    config = json.loads(capsys.readouterr().out)
    assert config == {"mlp": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    folder = tmp_path / "small"
    main(["extract", model, "--config", str(tmp_path / "config.json"), "--output", str(folder)])
    assert "83 of 323 parameters (25.7%)" in capsys.readouterr().out
    full = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 3))
    assert load(folder, full)(torch.ones(1, 6)).shape == (1, 3)
    assert main(["verify", model, "--samples", "1"]) == 0
    assert capsys.readouterr().out.count("error") == 3


def test_a_model_must_say_where_it_comes_from():
    with pytest.raises(SystemExit, match="expected module:factory"):
        main(["explain", "resnet"])
