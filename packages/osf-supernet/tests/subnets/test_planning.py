from __future__ import annotations

import pytest
import torch
from osf_supernet import Supernet, count_parameters, sizes
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim = 4, 4
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        shape = (*x.shape[:2], self.num_heads, self.head_dim)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        return self.o(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.up, self.down = Attention(), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.down(F.gelu(self.up(x)))


class Sharing(nn.Module):
    """The first two blocks share their attention, the last two a linear layer."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.blocks[1].attention = self.blocks[0].attention
        self.blocks[3].up = self.blocks[2].up

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


@pytest.fixture(scope="module")
def sharing():
    torch.manual_seed(0)
    return Supernet(Sharing().double(), torch.randn(2, 5, 16, dtype=torch.float64))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 1, 3, 0], [3, 2, 0, 1]])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_what_blocks_share_is_there_while_one_of_them_is(sharing, order, depth):
    sharing.depth_orders = {"blocks": order}
    config = {name: 2 for name in sharing.largest if name.endswith("heads")}
    config["blocks.depth"] = depth
    assert count_parameters(sharing.extract(config)) == sharing.parameters_of(config)
    table = {name: torch.tensor([size, size]) for name, size in config.items()}
    assert sharing.parameters_of(table).tolist() == [sharing.parameters_of(config)] * 2


@pytest.mark.parametrize("count", ["parameters_of", "flops_of"])
def test_counts_refuse_what_active_refuses(sharing, count):
    count = getattr(sharing, count)
    with pytest.raises(KeyError, match="no group is called 'nonsense'"):
        count({"nonsense": 1})
    for size in (0, 5, 2.0, torch.tensor([1, 5]), torch.tensor([0, 1]), torch.tensor([1.0])):
        with pytest.raises(ValueError, match=r"blocks.depth must be 1\.\.4, got"):
            count({"blocks.depth": size})


def operations(module, inputs):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(inputs)
    return counter.get_total_flops()


class Hidden(nn.Module):
    """An operator that multiplies matrices inside, before an MLP."""

    def __init__(self, how):
        super().__init__()
        self.how, self.matrix = how, nn.Parameter(torch.randn(8, 8))
        self.vector = nn.Parameter(torch.randn(8))
        self.cell = nn.GRU(8, 8, batch_first=True) if how == "gru" else None
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x):
        if self.how == "gru":
            x = self.cell(x)[0]
        elif self.how == "ellipsis":
            x = torch.einsum("...d,de->...e", x, self.matrix)
        elif self.how == "three operands":
            x = torch.einsum("btd,de,bte->bte", x, self.matrix, x)
        elif self.how == "tensordot":
            x = torch.tensordot(x, self.matrix, dims=1)
        elif self.how == "matrix times vector":
            x = x * (x @ self.vector)[..., None]
        elif self.how == "vector times matrix":
            x = x * (self.vector @ self.matrix)
        elif self.how == "bilinear":
            x = F.bilinear(x, x, self.matrix.expand(8, 8, 8).contiguous())
        return self.down(F.gelu(self.up(x)))


PRODUCTS = "gru, ellipsis, three operands, tensordot, bilinear"


@pytest.mark.parametrize(
    "how", [*PRODUCTS.split(", "), "matrix times vector", "vector times matrix"]
)
def test_operations_are_those_that_torch_counts(how):
    torch.manual_seed(0)
    model, x = Hidden(how).double(), torch.randn(2, 5, 8, dtype=torch.float64)
    net = Supernet(model, x, {"mlp": sizes(8, 32)})
    assert net.flops_of({}) == operations(model, x)
    assert net.flops_of(net.smallest) == operations(net.extract(net.smallest), x)
