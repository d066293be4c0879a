from __future__ import annotations

import warnings

import pytest
import torch
from osf_supernet import Supernet, VerificationError, sizes
from osf_supernet.subnets.comparison import difference
from osf_supernet.subnets.oracle import masked_outputs
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.testing._internal.two_tensor import TwoTensor


class Attention(nn.Module):
    """Freshly initialized, so that its softmax is nearly uniform; the scale is read off a shape."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim = 4, 8
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        for layer in (self.q, self.k, self.v, self.o):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        shape = (*x.shape[:2], self.num_heads, self.head_dim)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.attention = nn.Linear(6, 32), nn.LayerNorm(32), Attention()
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 3)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(self.norm(x))
        return self.head(x + self.down(F.gelu(self.up(x)))).mean(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_scale_that_follows_the_head_size_is_found_in_every_precision(dtype):
    torch.manual_seed(0)
    net = Supernet(Net().to(dtype), torch.randn(2, 5, 6).to(dtype), backend="class")
    kinds = {group.kind: group.frozen for group in net.graph.groups.values()}
    assert "differs from the oracle" in kinds["head_dim"]
    assert kinds["heads"] is kinds["mlp"] is kinds["embed"] is None
    net.reorder("magnitude")
    assert net.extract(net.smallest).osf_record["certificate"]["notes"] == ()


class SinglePrecision(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        if x.dtype == torch.float64:
            raise TypeError("no kernel for Double")
        return self.down(F.relu(self.up(x)))


def test_a_module_that_has_no_float64_is_probed_in_its_own_and_says_so():
    torch.manual_seed(0)
    net = Supernet(SinglePrecision(), torch.randn(2, 6), {"mlp": sizes(8, 16)})
    (note,) = net.extract({"mlp": 8}).osf_record["certificate"]["notes"]
    assert note == "probed in float32 only: the module refuses it (no kernel for Double)"


class Auxiliary(nn.Module):
    """A second head, in training only, that reads the hidden features or the input."""

    def __init__(self, reads):
        super().__init__()
        self.reads, self.up, self.down = reads, nn.Linear(6, 16), nn.Linear(16, 3)
        self.norm, self.aux = nn.BatchNorm1d(16), nn.Linear(16 if reads == "hidden" else 6, 3)

    def forward(self, x):
        hidden = F.relu(self.norm(self.up(x)))
        if not self.training:
            return self.down(hidden)
        return self.down(hidden) + self.aux(hidden if self.reads == "hidden" else x)


def test_what_only_training_uses_is_tried_there():
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    net = Supernet(Auxiliary("hidden"), x)
    assert net.choices == {}
    assert "in training mode: " in net.explain()
    state = torch.get_rng_state()
    model = Auxiliary("input")
    torch.set_rng_state(state)
    net = Supernet(model, x, {"channel": sizes(8, 16)})
    assert torch.equal(torch.get_rng_state(), state)
    assert model.norm.num_batches_tracked == 0
    assert net.extract({"channel": 8}).train()(x).shape == (4, 3)


def test_training_that_cannot_be_tried_is_noted():
    torch.manual_seed(0)
    net = Supernet(Auxiliary("input"), torch.randn(1, 6), {"channel": sizes(8, 16)})
    (note,) = net.verify({"channel": 8}).notes
    assert note.startswith("training mode, which may use aux.weight, aux.bias, was not tried")


def test_what_is_not_finite_gets_no_certificate():
    torch.manual_seed(0)
    model = SinglePrecision()
    net = Supernet(model, torch.randn(2, 6), {"mlp": sizes(8, 16)})
    with torch.no_grad():
        model.down.bias.fill_(float("nan"))
    with pytest.raises(VerificationError, match="has NaN; give example inputs and weights on"):
        net.verify({"mlp": 8})
    assert "has NaN" in Supernet(model, torch.randn(2, 6)).explain()
    with torch.no_grad():
        model.down.bias.fill_(float("-inf"))
    with pytest.raises(VerificationError, match="no finite entry"):
        net.verify({"mlp": 8})


@pytest.mark.parametrize("other", ["inf", "-inf", "nan"])
def test_infinities_and_nan_differ(other):
    reference = torch.tensor([1.0, float("inf")])
    assert difference([torch.tensor([1.0, float("inf")])], [reference]) == 0
    if other != "inf":
        assert difference([torch.tensor([1.0, float(other)])], [reference]) == float("inf")
    assert difference([torch.tensor([float(other), float("inf")])], [reference]) == float("inf")


def test_a_subnet_that_runs_is_not_extracted_from():
    torch.manual_seed(0)
    net = Supernet(SinglePrecision(), torch.randn(2, 6), {"mlp": sizes(8, 16)})
    with net.active({"mlp": 8}):
        for call in (net.extract, net.verify):
            with pytest.raises(RuntimeError, match="runs as a smaller network already"):
                call({"mlp": 8})
        with pytest.raises(RuntimeError, match="runs as a smaller network already"):
            net.reorder()
    net.extract({"mlp": 8})


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_tensors_that_cannot_be_cut_are_refused():
    x = torch.randn(2, 6)
    with pytest.raises(ValueError, match=r"up\.weight is on the meta device.*load them first"):
        Supernet(SinglePrecision().to("meta"), x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer releases of torch advise against TorchScript
        traced = torch.jit.trace(SinglePrecision(), x)
    with pytest.raises(ValueError, match="TorchScript module cannot be followed"):
        Supernet(traced, x)
    odd = SinglePrecision()
    odd.up.weight = nn.Parameter(TwoTensor(odd.up.weight.data, odd.up.weight.data))
    with pytest.raises(ValueError, match=r"up\.weight must be a plain tensor, got TwoTensor"):
        Supernet(odd, x)
    odd = SinglePrecision()
    odd.up = torch.ao.nn.quantized.dynamic.Linear(6, 16)
    with pytest.raises(ValueError, match=r"up is quantized \(Linear\): build the supernet of the"):
        Supernet(odd, x)


class Normed(nn.Module):
    """Holds a weight that is computed before every forward, and an activation after it."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 16), nn.Linear(16, 3)
        prune.l1_unstructured(self.up, "weight", 0.3)

    def forward(self, x):
        self.last = F.relu(self.up(x))
        return self.down(self.last)


def test_a_module_that_deepcopy_refuses_is_a_supernet_too():
    torch.manual_seed(0)
    model, x = Normed().double(), torch.randn(2, 6, dtype=torch.float64)
    model(x)
    net = Supernet(model, x, {"mlp": sizes(8, 16)})
    with net.active({"mlp": 8}):
        expected = model(x)
    torch.testing.assert_close(net.extract({"mlp": 8})(x), expected)


class Positions(SinglePrecision):
    """Makes tensors in its forward, one of them from a literal."""

    def forward(self, x):
        places = torch.arange(x.shape[1], device=x.device)
        return super().forward(x + places * torch.tensor([0.5]).to(x))


def test_the_graph_follows_the_model_to_another_device_but_not_to_another_precision():
    torch.manual_seed(0)
    model = Positions()
    net = Supernet(model, torch.randn(2, 6), {"mlp": sizes(8, 16)})
    model.bfloat16()
    for call in (net.extract, net.verify):
        with pytest.raises(RuntimeError, match=r"in torch\.float32, now it is in torch\.bfloat16"):
            call({"mlp": 8})
    with pytest.raises(RuntimeError, match="convert it back, or make another Supernet"):
        net.reorder()
    model.float().to("meta")
    net._references.follow_model()
    (output,) = masked_outputs(model, net.graph, {}, {}, net.inputs)
    assert output.is_meta
    assert output.shape == (2, 3)
