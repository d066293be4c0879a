"""Model FLOPs utilization of steps with known captions and times."""

from __future__ import annotations

from types import SimpleNamespace

import clip_train.logs.utilization
import pytest
import torch
from clip_models import CLIPConfig
from clip_models.config import TextConfig, ViTConfig
from clip_train.config.run import Config, LogConfig
from clip_train.config.training import TrainConfig
from clip_train.cost.flops import pair_cost
from clip_train.distributed.single import SingleBackend
from clip_train.logs.utilization import Utilization
from clip_train.objectives.batch import StepInputs
from clip_train.objectives.candidates import separate_candidates

SMALL = CLIPConfig(
    embed_dim=16,
    vision=ViTConfig(image_size=32, patch_size=4, width=32, num_layers=3, num_heads=2),
    text=TextConfig(width=16, num_layers=2, num_heads=2, context_length=20, vocab_size=64),
)


@pytest.mark.parametrize("compiled", [False, True])
def test_utilization_leaves_out_padding(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two captions of 8 and 12 tokens, four images: 5 tokens a pair, or twice the context of 20."""
    clock = SimpleNamespace(perf_counter=iter((0.0, 1.0)).__next__)
    monkeypatch.setattr(clip_train.logs.utilization, "time", clock)
    backend = SingleBackend(torch.device("cpu"))
    config = Config(
        log=LogConfig(peak_tflops=1.0), train=TrainConfig(compile="inductor" if compiled else "")
    )
    captions = torch.zeros(2, 20, dtype=torch.long)
    captions[0, :8] = captions[1, :12] = 7
    candidates = separate_candidates(torch.tensor([0, 1, 1, 1]), backend)
    inputs = StepInputs(torch.zeros(4, 3, 32, 32), captions, *torch.zeros(2, 4), candidates)
    found = Utilization(config, SMALL, backend)
    found.add(inputs, captions, 4)
    cost = pair_cost(SMALL, image_size=32, caption_tokens=10 if compiled else 5)
    assert found.read()["mfu"] * 1e12 == pytest.approx(4 * cost.training_flops, rel=0.01)
