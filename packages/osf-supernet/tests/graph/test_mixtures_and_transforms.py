"""Mixtures of experts, gated cells, transforms and norms: elastic, and exactly right."""

from __future__ import annotations

import pytest
import torch
from osf_supernet import Supernet, count_parameters
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm

ROWS = torch.randn(2, 6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class GatedCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.given, self.kept, self.head = nn.Linear(12, 128), nn.Linear(32, 128), nn.Linear(32, 5)

    def forward(self, x):
        hidden = state = x.new_zeros(len(x), 32)
        for step in range(x.shape[1]):
            gates = self.given(x[:, step]) + self.kept(hidden)
            enter, forget, value, leave = gates.chunk(4, dim=-1)
            state = forget.sigmoid() * state + enter.sigmoid() * value.tanh()
            hidden = leave.sigmoid() * state.tanh()
        return self.head(hidden)


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(12, 16), nn.Linear(12, 24)
        self.join, self.head = nn.Bilinear(16, 24, 40), nn.Linear(40, 5)

    def forward(self, x):
        return self.head(self.join(self.one(x).relu(), self.two(x).relu()).relu())


class Spectral(nn.Module):
    """A Fourier layer: channels are mixed at the lowest frequencies."""

    def __init__(self):
        super().__init__()
        self.lift, self.head = nn.Conv1d(6, 32, 1), nn.Conv1d(32, 1, 1)
        self.mix = nn.Parameter(torch.randn(32, 32, 4, dtype=torch.complex128) / 32)

    def forward(self, x):
        x = self.lift(x)
        frequencies = torch.fft.rfft(x)
        mixed = torch.zeros_like(frequencies)
        mixed[:, :, :4] = torch.einsum("bik,iok->bok", frequencies[:, :, :4], self.mix)
        return self.head(F.gelu(torch.fft.irfft(mixed, n=x.shape[-1]) + x))


class SoftMixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.head = nn.Linear(12, 4), nn.Linear(12, 5)
        self.up = nn.Parameter(torch.randn(4, 12, 32) / 4)
        self.down = nn.Parameter(torch.randn(4, 32, 12) / 6)

    def forward(self, x):
        hidden = F.gelu(torch.einsum("btd,edh->bteh", x, self.up))
        each = torch.einsum("bteh,ehd->bted", hidden, self.down)
        return self.head(x + torch.einsum("bted,bte->btd", each, self.gate(x).softmax(-1)))


class FunctionalNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 48, 3, padding=1)
        self.scale, self.head = nn.Parameter(torch.rand(32) + 1), nn.Linear(48, 5)
        self.register_buffer("mean", torch.randn(32))
        self.register_buffer("variance", torch.rand(32) + 1)

    def forward(self, x):
        x = F.batch_norm(self.first(x), self.mean, self.variance, self.scale, None, self.training)
        return self.head(self.second(x.relu()).relu().mean((2, 3)))


def normed(norm):
    layers = norm(nn.Conv2d(3, 32, 3, 2, 1)), norm(nn.Conv2d(32, 48, 3, 2, 1)), nn.Linear(192, 1)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), nn.Flatten(), layers[2])


class ResidualBlock(nn.Module):
    """As of diffusion models: group norms around convolutions, the time step added between."""

    def __init__(self, given, width):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, given), nn.Conv2d(given, width, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        self.time, self.short = nn.Linear(16, width), nn.Conv2d(given, width, 1)

    def forward(self, x, time):
        hidden = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        return self.short(x) + self.conv2(F.silu(self.norm2(hidden)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.time, self.stem = nn.Linear(12, 16), nn.Conv2d(3, 16, 3, padding=1)
        self.down, self.middle = ResidualBlock(16, 32), ResidualBlock(32, 32)
        self.up, self.out = ResidualBlock(48, 16), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x, time):
        time, first = F.silu(self.time(time)), self.stem(x)
        x = self.middle(self.down(F.avg_pool2d(first, 2), time), time)
        return self.out(self.up(torch.cat([F.interpolate(x, scale_factor=2.0), first], 1), time))


MODELS = {
    "gated_cell": (GatedCell, ROWS),
    "bilinear": (Bilinear, ROWS),
    "spectral": (Spectral, ROWS),
    "soft_mixture": (SoftMixture, ROWS),
    "functional_norm": (FunctionalNorm, IMAGES),
    "spectral_norm": (lambda: normed(parametrizations.spectral_norm), IMAGES),
    "old_spectral_norm": (lambda: normed(spectral_norm), IMAGES),
    "unet": (UNet, (IMAGES, ROWS[:, 0])),
}


@pytest.mark.parametrize("name", MODELS)
def test_at_least_a_third_can_be_left_out_of(name):
    torch.manual_seed(0)
    build, inputs = MODELS[name]
    model = build().double().eval()
    net = Supernet(model, inputs)
    assert net.parameters_of(net.smallest) < 0.67 * count_parameters(model)
    for config in (net.smallest, net.sample(seed=1)):
        small = net.extract(config)
        assert small.osf_record["certificate"]["max_error"] < 1e-9
        assert count_parameters(small) == net.parameters_of(config)


def test_experts_with_a_soft_gate_are_elastic():
    torch.manual_seed(0)
    model = SoftMixture().double().eval()
    net = Supernet(model, ROWS)
    (experts,) = (group.name for group in net.graph.elastic() if group.kind == "experts")
    small = net.extract({experts: 3})
    hidden = F.gelu(torch.einsum("btd,edh->bteh", ROWS, model.up[:3]))
    each = torch.einsum("bteh,ehd->bted", hidden, model.down[:3])
    weights = model.gate(ROWS)[..., :3].softmax(-1)
    expected = model.head(ROWS + (weights[..., None] * each).sum(-2))
    torch.testing.assert_close(small(ROWS), expected, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_experts_that_tokens_are_sorted_to_become_narrower(kind):
    import transformers

    sizes = {
        "vocab_size": 30,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "num_local_experts": 4,
        "max_position_embeddings": 32,
    }
    name = {"mixtral": "Mixtral", "gpt_oss": "GptOss"}[kind]
    config = getattr(transformers, f"{name}Config")(**sizes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    ids = torch.arange(12).view(2, 6)
    net = Supernet(model, {"input_ids": ids, "use_cache": False})
    widths = [group for group in net.graph.elastic() if "experts" in group.name]
    assert [(group.kind, group.size) for group in widths] == [("mlp", 32)]
    small = net.extract({widths[0].name: 16})  # the product of torch has no float64
    assert type(small) is type(model)
    assert small.osf_record["certificate"]["max_error"] < 1e-5
    assert net.parameters_of(net.smallest) < 0.6 * count_parameters(model)
