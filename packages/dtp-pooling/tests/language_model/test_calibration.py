"""Thresholds that give the rate of training."""

from __future__ import annotations

import pytest
import torch
from dtp_pooling import BoundaryConfig, DynamicPoolingLM, LanguageModelConfig, generate
from dtp_pooling.language_model.bits_per_character import bits_per_character
from dtp_pooling.language_model.calibration import calibrate_threshold, explain_rate


def unsure(rate: float, scores: str = "mlp") -> DynamicPoolingLM:
    torch.manual_seed(0)
    boundaries = BoundaryConfig(rate=rate, evaluation="calibrated", scores=scores)
    config = LanguageModelConfig(
        width=16, num_heads=2, head_dim=8, feedforward=16, dropout=0.0, boundaries=boundaries
    )
    return DynamicPoolingLM(config).eval()


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("scores", ["mlp", "cosine"])
def test_the_share_of_boundaries_is_the_rate(rate, scores):
    model = unsure(rate, scores)
    text = torch.randint(0, 27, (4096,), generator=torch.Generator().manual_seed(1))
    before = bits_per_character(model, text, window=64, stride=64)
    threshold = calibrate_threshold(model, text, window=64)
    assert 0 < threshold < 1
    after = bits_per_character(model, text, window=64, stride=64)
    assert 1 / after.shortening == pytest.approx(rate, rel=0.02)
    assert abs(1 / before.shortening - rate) > abs(1 / after.shortening - rate)


def test_the_threshold_is_saved_and_used_when_text_is_generated(tmp_path):
    model = unsure(0.2)
    text = torch.randint(0, 27, (2048,), generator=torch.Generator().manual_seed(1))
    calibrate_threshold(model, text, window=64)
    model.save(tmp_path)
    loaded = DynamicPoolingLM.load(tmp_path)
    assert loaded.config.boundaries.threshold == model.config.boundaries.threshold != 0.5
    prompt = text[None, :40]
    greedy = generate(loaded, prompt, 8, temperature=0.0)
    whole = torch.cat([prompt, greedy], 1)
    want = loaded(whole).logits[0, 39:-1].argmax(-1)
    assert torch.equal(greedy[0], want)  # cached decoding cuts where the whole pass cuts
    assert torch.equal(loaded(prompt).boundaries, model(prompt).boundaries)


def test_only_a_rate_that_is_far_off_is_explained():
    config = BoundaryConfig(rate=0.2)
    assert explain_rate(config, 4.0) is None
    assert explain_rate(config, 10.0) is None
    assert "2,080.0 characters in evaluation, 5.0 were aimed at" in explain_rate(config, 2080.0)
    assert explain_rate(config, 1.1) is not None
    assert explain_rate(BoundaryConfig(kind="fixed"), 2080.0) is None
