from __future__ import annotations

import pytest
import torch
from osf_supernet.subnets import Surgery, active, extract_module
from osf_supernet.subnets.surgery import active_for_training
from torch import nn

HIDDEN = Surgery(
    keep={"0.weight": (range(3), None), "0.bias": (range(3),), "2.weight": (None, range(3))},
    attributes={"0.out_features": 3, "2.in_features": 3},
)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 5)).double()


def by_hand(model, x, k=3):
    first, _, last = model
    hidden = nn.functional.gelu(x @ first.weight[:k].T + first.bias[:k])
    return hidden @ last.weight[:, :k].T + last.bias


def test_active_runs_the_prefix_on_the_same_memory_without_a_copy():
    model, x = mlp(), torch.randn(6, 4, dtype=torch.float64)
    with active(model, HIDDEN) as report:
        assert model[0].out_features == 3
        assert model[0].weight.data_ptr() == model[0].weight._base.data_ptr()
        result = model(x)
    assert report.copied_bytes == 0
    torch.testing.assert_close(result, by_hand(model, x), rtol=0, atol=1e-12)


def test_gradients_reach_the_full_parameter_and_only_the_kept_part():
    model, x = mlp(), torch.randn(6, 4, dtype=torch.float64)
    with active(model, HIDDEN):
        model(x).square().sum().backward()
    got = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    by_hand(model, x).square().sum().backward()
    for one, parameter in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=0, atol=1e-12)
    assert got[0][3:].abs().sum() == 0
    assert got[2][:, 3:].abs().sum() == 0


def test_state_is_restored_after_an_exception():
    model = mlp()
    before = {name: id(p) for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match="on purpose"), active(model, HIDDEN):
        raise RuntimeError("on purpose")
    assert {name: id(p) for name, p in model.named_parameters()} == before
    assert (model[0].out_features, model[2].in_features) == (8, 8)


def test_state_is_restored_when_the_surgery_itself_is_wrong():
    model = mlp()
    wrong = Surgery(keep=HIDDEN.keep, attributes={"0.out_features": 3, "0.no_such": 1})
    with pytest.raises(KeyError, match="no_such"), active(model, wrong):
        pass
    assert model[0].weight.shape == (8, 4)
    assert model[0].out_features == 8


def test_indices_that_are_no_run_are_copied_reported_and_differentiable():
    model = nn.Linear(4, 6, bias=False).double()
    with active(model, Surgery(keep={"weight": ((0, 2, 5), None)})) as report:
        model(torch.ones(1, 4, dtype=torch.float64)).sum().backward()
    assert report.copied_bytes == 3 * 4 * 8
    assert model.weight.grad.sum(1).tolist() == [4, 0, 4, 0, 0, 4]


@pytest.mark.parametrize("kept", [range(2), (0, 2)])
def test_running_statistics_are_written_through(kept):
    model = nn.BatchNorm1d(4, momentum=1.0).double().train()
    surgery = Surgery(
        keep=dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (kept,))
    )
    x = torch.randn(16, 2, dtype=torch.float64) + 3
    with active(model, surgery):
        model(x)
    torch.testing.assert_close(model.running_mean[list(kept)], x.mean(0))
    others = [i for i in range(4) if i not in kept]
    assert model.running_mean[others].abs().sum() == 0


def test_tied_tensors_are_cut_under_every_name():
    model = nn.ModuleDict({"a": nn.Linear(4, 6), "b": nn.Linear(4, 6)})
    model["b"].weight = model["a"].weight
    surgery = Surgery(keep={"a.weight": (range(2), None)})
    with active(model, surgery):
        assert model["b"].weight is model["a"].weight
        assert model["b"].weight.shape == (2, 4)
    small = extract_module(model, surgery)
    assert small["b"].weight is small["a"].weight
    assert isinstance(small["a"].weight, nn.Parameter)


def test_a_shortened_list_closes_up_and_comes_back():
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4))).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    surgery = Surgery(items={"": (0, 3)})
    with active(model, surgery):
        result = model(x)
        assert len(model) == 2
    assert len(model) == 4
    torch.testing.assert_close(result, model[3](model[0](x)), rtol=0, atol=0)
    small = extract_module(model, surgery)
    assert [name for name, _ in small.named_parameters()] == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    ]


def test_operate_gives_an_independent_plain_module():
    model, x = mlp(), torch.randn(6, 4, dtype=torch.float64)
    small = extract_module(model, HIDDEN)
    expected = by_hand(model, x).detach()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert type(small) is nn.Sequential
    assert small[0].out_features == 3
    assert small[0].weight.is_contiguous()
    torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("surgery", "error", "message"),
    [
        (Surgery(keep={"weight": (range(2),)}), ValueError, "expected 2, got 1"),
        (Surgery(keep={"weight": (range(9), None)}), ValueError, "0..5"),
        (Surgery(keep={"wieght": (None, None)}), KeyError, "wieght"),
        (Surgery(items={"": (0,)}), ValueError, "ModuleList or Sequential"),
    ],
)
def test_a_surgery_that_does_not_fit_is_refused(surgery, error, message):
    with pytest.raises(error, match=message), active(nn.Linear(4, 6), surgery):
        pass


def test_list_positions_must_ascend():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with pytest.raises(ValueError, match="ascend"), active(model, Surgery(items={"": (1, 0)})):
        pass


@pytest.mark.parametrize("second", [active, active_for_training, extract_module])
def test_blocks_neither_nest_nor_interleave(second):
    """What two threads do at worst: the inner block would keep the outer one's cut tensors."""
    model = mlp()
    first = active(model, HIDDEN)
    first.__enter__()
    with pytest.raises(RuntimeError, match="runs as a smaller network already: leave that"):
        second(model, Surgery()).__enter__()
    first.__exit__(None, None, None)
    assert type(model[0].weight) is nn.Parameter
    assert model[0].weight.shape == (8, 4)
    with active(model, HIDDEN):
        pass


@pytest.mark.parametrize("context", [active, active_for_training])
def test_gradients_arrive_when_backward_comes_after_the_block(context):
    model, x = mlp(), torch.randn(6, 4, dtype=torch.float64)
    for _ in range(2):
        with context(model, HIDDEN):
            loss = model(x).square().sum()
        loss.backward()
    got = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    (2 * by_hand(model, x).square().sum()).backward()
    for one, parameter in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=0, atol=1e-12)


def test_tensors_that_share_their_memory_are_tied():
    model = nn.ModuleDict({"a": nn.Linear(4, 6), "b": nn.Linear(4, 6), "c": nn.Linear(4, 6)})
    model["b"].weight.data = model["a"].weight.data
    model["c"].bias.data = model["b"].bias.data
    surgery = Surgery(keep={"a.weight": (range(2), None)})
    with active(model, surgery):
        assert model["b"].weight.shape == (2, 4)
    small = extract_module(model, surgery)
    assert small["b"].weight is small["a"].weight
    assert small["c"].bias is small["b"].bias
    assert small["c"].weight is not small["a"].weight


class Remembering(nn.Module):
    """Keeps an activation and replaces a buffer in its forward."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        self.last = [self.up(x)]
        self.mean = (self.mean + self.last[0].detach().mean(0)) / 2
        return self.down(self.last[0] - self.mean)


def test_a_module_that_holds_what_autograd_computed_is_copied():
    model = Remembering()
    model(torch.randn(2, 4))
    small = extract_module(model, Surgery())
    assert not small.last[0].requires_grad
    torch.testing.assert_close(small.last[0], model.last[0].detach())


@pytest.mark.parametrize("kept", [range(3), (0, 2, 5)])
def test_a_buffer_that_the_forward_assigns_is_written_through(kept):
    model, x = Remembering(), torch.ones(2, 4)
    surgery = Surgery(
        keep={"up.weight": (kept, None), "up.bias": (kept,), "mean": (kept,)}
        | {"down.weight": (None, kept)}
    )
    expected = torch.zeros(6)
    expected[list(kept)] = model.up(x).detach().mean(0)[list(kept)] / 2
    mean = model.mean
    with active(model, surgery):
        model(x)
    assert model.mean is mean
    torch.testing.assert_close(mean, expected)
