"""The examples of the README run in order, print what their comments say, and show every name."""

from __future__ import annotations

import re
from pathlib import Path

import dtp_pooling
import dtp_pooling.pooling
import pytest
import torch
from dtp_pooling import DynamicPoolingLM, LanguageModelConfig
from dtp_pooling.language_model.hourglass_checkpoint import _LAYER, _PLAIN, _PREDICTOR, _STAGES

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")


def write_published_checkpoint(path: Path) -> None:
    """Random weights under the names of the reference implementation."""
    config = LanguageModelConfig(
        width=16, num_heads=2, head_dim=8, feedforward=32, attention="relative", norm="post"
    )
    theirs = {ours: name for name, ours in _PLAIN.items()}
    layers = {ours: name for name, ours in _LAYER.items()}
    predictor = {ours: name for name, ours in _PREDICTOR.items()}
    state = {}
    for name, tensor in DynamicPoolingLM(config).state_dict().items():
        stage, _, rest = name.partition(".")
        if stage in _STAGES:
            layer, _, part = rest.partition(".")
            part, _, kind = part.rpartition(".")
            renamed = f"layers.{_STAGES.index(stage)}.{layer}.{layers[part]}.{kind}"
        elif name.startswith("segmenter.scores."):
            part, _, kind = name.removeprefix("segmenter.scores.").partition(".")
            renamed = f"boundary_predictor.boundary_predictor.{predictor[part]}.{kind}"
        else:
            renamed = theirs[name]
        state[renamed] = tensor
    torch.save({"model_state": state}, path)


def test_examples_run_and_print_what_their_comments_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_published_checkpoint(tmp_path / "checkpoint.pt")
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
        expected = [
            line.split("#", 1)[1].strip()
            for line in block.splitlines()
            if line.startswith("print(") and "#" in line
        ]
        assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize("part", [dtp_pooling, dtp_pooling.pooling], ids=lambda part: part.__name__)
def test_every_public_name_is_shown_in_an_example(part):
    examples = "".join(re.findall(r"```python\n(.*?)```", TEXT, re.S))
    missing = [name for name in part.__all__ if not re.search(rf"\b{name}\b", examples)]
    assert missing == []
