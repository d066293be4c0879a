"""CLIPs whose towers pool tokens, and parameters without entries."""

from __future__ import annotations

import pytest
import torch
from clip_models import CLIP, CLIPConfig, load_model, save_model
from clip_models.config import PoolingConfig, PreprocessConfig, TextConfig, ViTConfig
from osf_supernet import Supernet
from osf_supernet.subnets.comparison import difference
from torch import nn


def pooled_clip(text=None, vision=None):
    pooled = {
        kind: PoolingConfig(name="dynamic", after_layer=1, args={"kind": kind})
        for kind in (text, vision)
        if kind
    }
    torch.manual_seed(0)
    sizes = {"context_length": 10, "vocab_size": 50, "width": 24, "num_layers": 2, "num_heads": 3}
    vit = {"image_size": 16, "patch_size": 4, "width": 32, "num_layers": 2, "num_heads": 4}
    config = CLIPConfig(
        embed_dim=12,
        text=TextConfig(**sizes, pooling=pooled.get(text)),
        vision=ViTConfig(**vit, pooling=pooled.get(vision)),
    )
    ids = torch.randint(0, 49, (2, 10))
    ids[:, -1] = 49
    return CLIP(config).eval(), (torch.randn(2, 3, 16, 16), ids)


@pytest.mark.parametrize(
    ("text", "vision"), [("gumbel", None), (None, "top_k"), ("gumbel", "gumbel")]
)
def test_a_clip_with_pooled_towers_is_a_supernet(text, vision):
    model, inputs = pooled_clip(text, vision)
    net = Supernet(model, inputs)
    kinds = {group.kind for group in net.graph.elastic()}
    assert {"mlp", "heads"} <= kinds, net.explain()
    tied = [name for name in net.choices if name.startswith("visual") and "pool" not in name]
    assert len(tied) == 4 or not vision, net.explain()
    for config in (net.largest, net.smallest):
        net.extract(config)
    assert net.parameters_of(net.smallest) < 0.9 * net.parameters_of({})


def test_a_pruned_pooled_clip_is_a_model_directory(tmp_path):
    model, inputs = pooled_clip("gumbel", "top_k")
    net = Supernet(model, inputs)
    small = net.extract({name: net.smallest[name] for name in net.choices if "mlp" in name})
    save_model(tmp_path, small, PreprocessConfig(size=16))
    again, _ = load_model(tmp_path)
    assert again.config.vision.pooling.args["hidden"] < 4 * 32
    for one, two in zip(again.eval()(*inputs)[:2], small(*inputs)[:2], strict=True):
        torch.testing.assert_close(one, two)


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
