from __future__ import annotations

import pytest
import torch
from osf_supernet import Supernet, count_parameters, sizes
from osf_supernet.graph import build_graph
from osf_supernet.graph.expressions import Atom, Compound
from osf_supernet.subnets.importance import METHODS, importance, permute, positions_of
from torch import nn


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 10), nn.Linear(5, 3)

    def forward(self, x):
        gate, value = self.up(x).chunk(2, -1)
        return self.down(gate.sigmoid() * value)


@pytest.fixture
def made():
    torch.manual_seed(0)
    model, x = Gated().double(), torch.randn(4, 6, dtype=torch.float64)
    return model, x, build_graph(model, x)


def only(scores):
    (score,) = scores.values()
    return score


def loss(output):
    return output.square().mean()


def test_magnitude_adds_every_coupled_slice(made):
    model, _, graph = made
    up, bias, down = model.up.weight, model.up.bias, model.down.weight
    expected = [
        sum(up[j].square().sum() + bias[j].square() for j in (i, i + 5)) + down[:, i].square().sum()
        for i in range(5)
    ]
    score = only(importance(model, graph, "magnitude"))
    torch.testing.assert_close(score, torch.stack(expected).detach())


@pytest.mark.parametrize("method", ["taylor", "fisher"])
def test_gradient_methods_agree_with_a_slow_loop(made, method):
    model, x, graph = made
    batches = [x, x * 2]
    totals = {}
    for batch in batches:
        model.zero_grad()
        loss(model(batch)).backward()
        for name, p in model.named_parameters():
            one = p.grad * p if method == "taylor" else p.grad**2
            totals[name] = totals.get(name, 0) + one.detach()
    expected = [
        sum(totals["up.weight"][j].abs().sum() + totals["up.bias"][j].abs() for j in (i, i + 5))
        + totals["down.weight"][:, i].abs().sum()
        for i in range(5)
    ]
    score = only(importance(model, graph, method, batches, loss))
    torch.testing.assert_close(score, torch.stack(expected))


@pytest.mark.parametrize("method", ["wanda", "activation"])
def test_feature_methods_agree_with_a_slow_loop(made, method):
    model, x, graph = made
    gate, value = model.up(x).chunk(2, -1)
    norm = (gate.sigmoid() * value).norm(dim=0)
    expected = norm * model.down.weight.abs().sum(0) if method == "wanda" else norm
    torch.testing.assert_close(only(importance(model, graph, method, [x])), expected.detach())


@pytest.mark.parametrize("method", METHODS)
def test_any_order_keeps_the_function(made, method):
    model, x, graph = made
    before = model(x)
    scores = importance(model, graph, method, [x], loss)
    order = {number: score.argsort(descending=True) for number, score in scores.items()}
    assert any(index.tolist() != sorted(index.tolist()) for index in order.values())
    weight = model.up.weight.detach().clone()
    permute(model, graph, order)
    assert not torch.equal(model.up.weight, weight)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)


def test_positions_in_a_product_inside_a_concatenation():
    axis = Compound("concat", (Atom(7, 2), Compound("product", (Atom(1, 2), Atom(2, 3)))))
    found = [
        (int(i), sorted(p.tolist()))
        for i, p in ((index[0], position) for index, position in positions_of(axis, 2))
    ]
    assert found == [(0, [2, 5]), (1, [3, 6]), (2, [4, 7])]


def test_unknown_methods_and_missing_losses_are_refused(made):
    model, _, graph = made
    with pytest.raises(ValueError, match="method must be one of activation, fisher"):
        importance(model, graph, "magic")
    with pytest.raises(ValueError, match="taylor needs a loss"):
        importance(model, graph, "taylor")


class Flat(nn.Module):
    """Its graph holds the batch size."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.down(self.up(x).sigmoid().reshape(x.shape[0], 4, 16)).mean(1)


def test_batches_of_a_shape_that_the_graph_cannot_run_are_refused():
    model, x = Flat(), torch.randn(2, 4, 6)
    graph = build_graph(model, x)
    with pytest.raises(ValueError, match=r"the traced shapes \(2, 4, 6\), got \(5, 4, 6\)"):
        importance(model, graph, "wanda", [torch.randn(5, 4, 6)])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(10, 16), nn.Linear(16, 10, bias=False)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head.weight.data = self.table.weight.data

    def forward(self, ids):
        x = self.table(ids)
        return self.head(x + self.down(torch.relu(self.up(x))))


def test_tensors_tied_by_their_memory_are_one_everywhere():
    torch.manual_seed(0)
    model, ids = Tied().double(), torch.arange(10).view(2, 5)  # .double() unties
    model.head.weight.data = model.table.weight.data
    graph = build_graph(model, ids)
    assert graph.tensors["head.weight"] == graph.tensors["table.weight"]
    before = model(ids).detach()
    net = Supernet(model, ids, {"mlp": sizes(8, 16)})
    for method in METHODS:
        net.reorder(method, loss=loss)
        torch.testing.assert_close(model(ids).detach(), before, rtol=0, atol=1e-12)
    config = {name: max(1, size // 2) for name, size in net.largest.items()}
    small = net.extract(config)
    assert count_parameters(small) == net.parameters_of(config)
    assert small.head.weight is small.table.weight
    one, two = Tied().double(), Tied().double()
    for copy in (one, two):
        copy.head.weight.data = copy.table.weight.data
        copy.load_state_dict(model.state_dict())
    two.head.weight = two.table.weight
    for method in ("magnitude", "taylor", "fisher"):
        scores = [importance(m, build_graph(m, ids), method, [ids], loss) for m in (one, two)]
        for number in scores[0]:
            torch.testing.assert_close(scores[0][number], scores[1][number])


@pytest.mark.parametrize("method", ["taylor", "fisher"])
def test_batches_of_inputs_and_targets_with_an_ordinary_loss(made, method):
    model, x, graph = made
    targets = torch.tensor([0, 2, 1, 1])
    smuggled = importance(
        model, graph, method, [x], lambda out: nn.functional.cross_entropy(out, targets)
    )
    for loss_of_pairs in (nn.functional.cross_entropy, nn.CrossEntropyLoss()):
        found = importance(model, graph, method, [(x, targets)], loss_of_pairs)
        torch.testing.assert_close(only(found), only(smuggled))
    with pytest.raises(ValueError, match=r"needs batches \(inputs, targets\), got a Tensor"):
        importance(model, graph, method, [x], nn.functional.cross_entropy)


def test_methods_without_gradients_leave_the_targets_alone(made):
    model, x, graph = made
    pairs = [(x, torch.tensor([0, 2, 1, 1]))]
    found = importance(model, graph, "wanda", pairs, nn.functional.cross_entropy)
    torch.testing.assert_close(only(found), only(importance(model, graph, "wanda", [x])))
