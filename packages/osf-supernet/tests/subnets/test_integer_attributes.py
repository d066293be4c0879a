"""Integers of convolutions, decisions that do not pile up, and forwards that draw numbers."""

from __future__ import annotations

import pytest
import torch
from osf_supernet import Supernet, VerificationError, ratios
from osf_supernet.graph import build_graph
from osf_supernet.subnets.integer_attributes import AttributeTable
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64)
SMALL = {"channel": ratios(0.5, 1), "mlp": ratios(0.5, 1), "free": ratios(0.5, 1)}


class Decoder(nn.Module):
    """The forward reads an integer of a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(16, 256)
        self.one = nn.ConvTranspose2d(16, 32, 4, 2, 1)
        self.two = nn.ConvTranspose2d(32, 3, 4, 2, 1)

    def forward(self, x):
        return self.two(self.one(self.lift(x).view(-1, self.one.in_channels, 4, 4)).relu())


class Grouped(nn.Module):
    """A convolution of groups, and a forward that reads how many channels it takes."""

    def __init__(self, groups):
        super().__init__()
        self.one = nn.Conv2d(3, 16, 3, padding=1)
        self.two = nn.Conv2d(16, 32, 3, padding=1, groups=groups)
        self.out = nn.Conv2d(32, 2, 1)

    def forward(self, x):
        x = self.one(x).relu().unflatten(1, (self.two.in_channels, 1)).squeeze(2)
        return self.out(self.two(x).relu())


def agree(module):
    """Every convolution's integers are those of its weight."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.conv._ConvNd):
            one, two = layer.weight.shape[:2]
            whole, part = layer.out_channels, layer.in_channels
            if layer.transposed:
                whole, part = part, whole
            assert (whole, part) == (one, two * layer.groups), layer


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (Decoder, torch.randn(2, 16, dtype=torch.float64)),
        (lambda: Grouped(4), IMAGES),
        (lambda: Grouped(16), IMAGES),
        (
            lambda: nn.Sequential(
                *(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 32, 2, 2)),
                *(nn.ReLU(), nn.Conv2d(32, 4, 1)),
            ),
            IMAGES,
        ),
        (
            lambda: nn.Sequential(
                *(nn.Flatten(2), nn.Conv1d(3, 12, 1), nn.ConvTranspose1d(12, 20, 3)),
                *(nn.ReLU(), nn.Conv1d(20, 20, 3, groups=5), nn.Conv1d(20, 2, 1)),
            ),
            IMAGES,
        ),
    ],
    ids=["decoder", "groups", "depthwise", "transposed", "sequence"],
)
def test_the_integers_of_convolutions_are_those_of_their_weights(make, inputs):
    torch.manual_seed(0)
    net = Supernet(make().double().eval(), inputs)
    assert net.choices
    for config in (net.largest, net.smallest, net.sample(seed=1)):
        agree(net.extract(config))


def test_other_decisions_are_those_of_the_beginning():
    module = nn.Sequential(Decoder(), nn.Flatten())
    module.width = 32
    graph = build_graph(module.double(), torch.randn(2, 16, dtype=torch.float64))
    table = AttributeTable(module, graph)
    groups = {group.number for group in graph.elastic()}
    listed = list(table.alternatives(groups))
    assert listed
    tried = []
    for decisions in table.alternatives(groups):
        table.decisions = decisions  # as the prober does
        tried.append(decisions)
    assert tried == listed


class Noisy(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.up, self.down, self.noise = nn.Linear(6, 32), nn.Linear(32, 3), forward

    def forward(self, x):
        return self.down(self.noise(self.up(x)))


def keep_some(h):
    return h * (torch.rand(h.shape[0], 1, dtype=h.dtype) < 0.5)


@pytest.mark.parametrize("noise", [F.dropout, keep_some, lambda h: h + torch.randn_like(h)])
def test_a_forward_that_draws_numbers_is_said_to(noise):
    net = Supernet(Noisy(noise).double().eval(), torch.randn(8, 6, dtype=torch.float64))
    assert not net.choices
    assert "draws random numbers" in net.explain()
    with pytest.raises(VerificationError, match="draws random numbers"):
        net.extract({})
    quiet = Supernet(Noisy(torch.relu).double().eval(), torch.randn(8, 6, dtype=torch.float64))
    assert quiet.choices


@pytest.mark.filterwarnings("ignore")
def test_operations_of_a_clipa_tower_are_those_that_fused_kernels_hide():
    from open_clip.model import CLIP

    vision = {"image_size": 16, "patch_size": 8, "layers": 2, "width": 32, "head_width": 8}
    vision |= {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
    text = {"context_length": 10, "vocab_size": 50, "width": 24, "heads": 3, "layers": 2}
    text |= {"pool_type": "last", "no_causal_mask": True}
    model = CLIP(12, vision, text).eval()  # in float32, where kernels are fused
    inputs = torch.randn(2, 3, 16, 16), torch.randint(0, 50, (2, 10))
    net = Supernet(model, inputs)
    for config in (net.largest, net.smallest):
        small = net.extract(config)
        assert count_operations(small, inputs, fused=False) == net.flops_of(config)
        # newer versions of torch's counter see fused attention too
        assert count_operations(small, inputs, fused=True) <= net.flops_of(config)


def count_operations(model, inputs, *, fused):
    """By torch's counter, which sees nothing of fused attention."""
    kernels = [SDPBackend.MATH, *([SDPBackend.FLASH_ATTENTION] if fused else [])]
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fused)
    try:
        with sdpa_kernel(kernels), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    return counter.get_total_flops()
