from __future__ import annotations

import math

import pytest
import torch
from dtp_pooling.pooling.losses import binomial_prior, boundary_bce, interval_loss, ratio_loss


def ones(counts: list[int], length: int) -> torch.Tensor:
    return torch.stack([(torch.arange(length) < k).float() for k in counts])


def test_binomial_prior_equals_the_probability_mass():
    n, rate = 20, 0.2
    for k in (0, 1, 4, 20):
        mass = math.comb(n, k) * rate**k * (1 - rate) ** (n - k)
        got = binomial_prior(ones([k], n), rate)
        assert got.item() == pytest.approx(-math.log(mass) / n, abs=1e-6)


def test_float64_stays_float64():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, dtype=torch.float64, generator=generator).requires_grad_()
    n, k, lengths = 7, 3, torch.tensor([7, 5])
    mass = math.comb(n, k) * 0.2**k * 0.8 ** (n - k)
    got = binomial_prior(ones([k], n).double(), 0.2)
    assert got.item() == pytest.approx(-math.log(mass) / n, abs=1e-14)
    soft = ones([3, 2], 7).double()
    for loss in (
        lambda z: ratio_loss(soft, z, 4.0, lengths),
        lambda z: boundary_bce(z, soft, "double_sigmoid", lengths),
        lambda z: binomial_prior(z.sigmoid(), 0.3, lengths),
    ):
        assert torch.autograd.gradcheck(loss, logits)


def test_binomial_prior_gradient_is_the_digamma_form():
    n, rate, k = 50, 0.3, 20
    b = ones([k], n).requires_grad_()
    binomial_prior(b, rate).backward()
    digamma = torch.special.digamma
    slope = math.log(rate / (1 - rate)) - digamma(torch.tensor(k + 1.0))
    slope += digamma(torch.tensor(n - k + 1.0))
    torch.testing.assert_close(b.grad, (-slope / n).expand(1, n), atol=1e-6, rtol=1e-5)


def test_binomial_prior_is_least_near_its_rate():
    losses = [binomial_prior(ones([k], 100), 0.2).item() for k in range(101)]
    assert losses.index(min(losses)) == 20


def test_ratio_loss_is_one_at_its_target_and_pushes_towards_it():
    n, ratio = 60, 6.0
    logit = math.log((1 / ratio) / (1 - 1 / ratio))
    at_target = ratio_loss(ones([10], n), torch.full((1, n), logit), ratio)
    assert at_target.item() == pytest.approx(1.0, abs=1e-6)
    for k, sign in ((40, 1), (2, -1)):  # too many boundaries: raise the loss of probability
        logits = torch.zeros(1, n, requires_grad=True)
        ratio_loss(ones([k], n), logits, ratio).backward()
        assert (logits.grad * sign > 0).all()


def test_ratio_loss_gives_boundaries_no_gradient():
    b = ones([3], 8).requires_grad_()
    logits = torch.zeros(1, 8, requires_grad=True)
    ratio_loss(b, logits, 2.0).backward()
    assert b.grad is None


def test_interval_loss_is_flat_inside_and_linear_outside():
    rates = [0, 2, 3, 5]
    got = [interval_loss(ones([k], 10), 0.2, 0.3).item() for k in rates]
    assert got == pytest.approx([0.2, 0.0, 0.0, 0.2], abs=1e-6)


def test_bce_forms():
    logits = torch.tensor([[2.0, -1.0]])
    targets = torch.tensor([[1.0, 0.0]])

    def cross_entropy(x: float, y: float) -> float:
        p = 1 / (1 + math.exp(-x))
        return -(y * math.log(p) + (1 - y) * math.log(1 - p))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    plain = (cross_entropy(2, 1) + cross_entropy(-1, 0)) / 2
    double = (cross_entropy(sigmoid(2), 1) + cross_entropy(sigmoid(-1), 0)) / 2
    assert boundary_bce(logits, targets).item() == pytest.approx(plain, abs=1e-6)
    got = boundary_bce(logits, targets, "double_sigmoid").item()
    assert got == pytest.approx(double, abs=1e-6)


def test_double_sigmoid_calls_a_boundary_only_above_sigmoid_of_one_half():
    for frequency, mode, called in (
        (0.58, "logits", True),
        (0.58, "double_sigmoid", False),
        (0.66, "double_sigmoid", True),
    ):
        targets = (torch.arange(100) < 100 * frequency).float()[None]
        grid = torch.linspace(-3, 3, 601)
        losses = [boundary_bce(x.expand(1, 100), targets, mode).item() for x in grid]
        best = grid[losses.index(min(losses))].item()
        assert (best > 0) == called


@pytest.mark.parametrize(
    "loss",
    [
        lambda b, n: binomial_prior(b, 0.2, n),
        lambda b, n: ratio_loss(b, b * 4 - 2, 3.0, n),
        lambda b, n: interval_loss(b, 0.1, 0.2, n),
        lambda b, n: boundary_bce(b * 4 - 2, b, lengths=n),
    ],
)
def test_loss_is_the_mean_of_rows_alone(loss):
    b = (torch.rand(3, 12, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    lengths = torch.tensor([12, 5, 8])
    alone = [loss(b[i : i + 1, :n], None) for i, n in enumerate(lengths.tolist())]
    torch.testing.assert_close(loss(b, lengths), torch.stack(alone).mean())
    assert loss(b, torch.tensor([12, 0, 8])).isfinite()


def test_wrong_arguments_say_what_was_expected():
    b = torch.zeros(1, 4)
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\), got 1"):
        binomial_prior(b, 1.0)
    with pytest.raises(ValueError, match="ratio must be above 1"):
        ratio_loss(b, b, 1.0)
    with pytest.raises(ValueError, match="0 <= low <= high <= 1"):
        interval_loss(b, 0.3, 0.2)
    with pytest.raises(ValueError, match="mode must be one of"):
        boundary_bce(b, b, "upstream")
