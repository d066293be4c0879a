"""CLIPs whose towers pool tokens, and parameters without entries."""

from __future__ import annotations

import pytest
import torch
from clip_models import CLIP, CLIPConfig
from clip_models.config import PoolingConfig, TextConfig, ViTConfig
from osf_supernet import Supernet
from osf_supernet.subnets.comparison import difference
from torch import nn


def pooled_clip(kind):
    pooling = PoolingConfig(name="dynamic", after_layer=1, args={"kind": kind})
    torch.manual_seed(0)
    sizes = {"context_length": 10, "vocab_size": 50, "width": 24, "num_layers": 2, "num_heads": 3}
    vit = {"image_size": 16, "patch_size": 4, "width": 32, "num_layers": 2, "num_heads": 4}
    config = CLIPConfig(
        embed_dim=12,
        text=TextConfig(**sizes, pooling=pooling),
        vision=ViTConfig(**vit),
    )
    ids = torch.randint(0, 49, (2, 10))
    ids[:, -1] = 49
    return CLIP(config).eval(), (torch.randn(2, 3, 16, 16), ids)


def test_a_clip_with_a_pooled_text_tower_is_a_supernet():
    model, inputs = pooled_clip("gumbel")
    net = Supernet(model, inputs)
    kinds = {group.kind for group in net.graph.elastic()}
    assert {"mlp", "heads"} <= kinds, net.explain()
    for config in (net.largest, net.smallest):
        net.extract(config)
    assert net.parameters_of(net.smallest) < 0.9 * net.parameters_of({})


def test_counts_are_compared_without_the_zeros_behind():
    one, two = torch.tensor([[2, 1]]), torch.tensor([[2, 1, 0]])
    assert difference([one], [two]) == difference([two], [one]) == 0
    assert difference([one], [torch.tensor([[2, 1, 3]])]) > 0
    assert difference([one.double()], [two.double()]) > 0


class Registers(nn.Module):
    """As DINOv3: none of the tokens that there could be."""

    def __init__(self, count):
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, count, 12))
        self.up, self.down = nn.Linear(12, 32), nn.Linear(32, 3)

    def forward(self, x):
        x = torch.cat([self.tokens.expand(x.shape[0], -1, -1), x], 1)
        return self.down(torch.relu(self.up(x)))


@pytest.mark.parametrize("count", [0, 2])
def test_a_parameter_without_entries(count):
    net = Supernet(Registers(count).double().eval(), torch.randn(2, 5, 12, dtype=torch.float64))
    assert "mlp" in net.choices
    net.extract(net.smallest)
