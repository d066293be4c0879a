from __future__ import annotations

import copy
import warnings

import pytest
import torch
from osf_supernet import Supernet, count_parameters, load_subnet, prune, save_subnet
from osf_supernet.subnets.batch_losses import batch_loss, takes_targets
from osf_supernet.training import recalibrate
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(8, width, 3, 1, 1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, 8, 3, 1, 1), nn.BatchNorm2d(8)

    def forward(self, x):
        return x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))


class Net(nn.Module):
    """The last block has most of the parameters."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.blocks = nn.Sequential(*(Block(width) for width in (8, 8, 64)))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


PATTERNS = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def pairs(count=2, batch=32, seed=0):
    """Images of five noisy patterns."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        labels = torch.randint(5, (batch,), generator=generator)
        noise = torch.randn(batch, 3, 8, 8, generator=generator)
        made.append((PATTERNS[labels] + noise, labels))
    return made


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for images, labels in pairs(40, seed=1):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture
def model(trained):
    return copy.deepcopy(trained)


EXAMPLE = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize("keep", [1, 0.7, 0.5, 0.3, 0.15])
def test_one_call_keeps_the_share_and_leaves_the_model_alone(model, keep):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = prune(model, EXAMPLE, keep, batches=pairs(), loss=F.cross_entropy, quiet=True)
    share = count_parameters(small) / count_parameters(model)
    assert 0.9 * keep <= share <= keep  # the budget is used
    assert type(small) is Net
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    certificate = small.osf_record["certificate"]
    assert certificate["max_error"] <= certificate["tolerance"]


def test_norms_are_those_of_the_batches(model):
    small = prune(model, EXAMPLE, batches=pairs(), loss=F.cross_entropy, quiet=True)
    again = prune(model, EXAMPLE, batches=pairs(), loss=F.cross_entropy, quiet=True)
    recalibrate(again, [x for x, _ in pairs()])
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], tensor, msg=name)
    with pytest.warns(UserWarning, match="keep the statistics of the full one"):
        prune(model, EXAMPLE, quiet=True)


def test_a_subset_of_blocks_is_left_out_by_worth_per_parameter(model):
    """The block with most of the parameters does nothing: it goes, and the others stay whole."""
    with torch.no_grad():
        model.blocks[2].norm2.weight.mul_(1e-3)
        model.blocks[2].norm2.bias.zero_()
    small = prune(model, EXAMPLE, 0.3, batches=pairs(), loss=F.cross_entropy, quiet=True)
    assert len(small.blocks) == 2
    assert [block.conv1.out_channels for block in small.blocks] == [8, 8]
    images = pairs()[0][0]
    recalibrate(model, [x for x, _ in pairs()])
    torch.testing.assert_close(small(images), model(images), rtol=0, atol=0.2)


def test_the_result_is_saved_trained_and_loaded(model, tmp_path):
    small = prune(model, EXAMPLE, batches=pairs(), loss=F.cross_entropy, quiet=True).train()
    optimizer = torch.optim.SGD(small.parameters(), 0.01)
    images, labels = pairs()[0]
    F.cross_entropy(small(images), labels).backward()
    optimizer.step()
    save_subnet(small, tmp_path)
    again = load_subnet(tmp_path, Net()).eval()
    torch.testing.assert_close(again(images), small.eval()(images))


def test_loaders_generators_and_other_losses(model):
    images, labels = (torch.cat(parts) for parts in zip(*pairs(), strict=True))
    loader = DataLoader(TensorDataset(images, labels), 16)
    expected = prune(model, EXAMPLE, batches=pairs(), loss=F.cross_entropy, quiet=True)
    for batches, loss in (
        (loader, nn.CrossEntropyLoss()),
        ((pair for pair in pairs()), lambda outputs, labels: F.cross_entropy(outputs, labels)),
    ):
        found = prune(model, EXAMPLE, batches=batches, loss=loss, quiet=True)
        assert found.osf_record["config"] == expected.osf_record["config"]
    inputs = [x for x, _ in pairs()]
    prune(model, EXAMPLE, batches=inputs, quiet=True)
    prune(model, EXAMPLE, batches=inputs, loss=lambda outputs: outputs.square().mean(), quiet=True)


def test_what_does_not_go_together_is_refused(model):
    for arguments, message in (
        ({"keep": 1.5}, r"keep must be in \(0, 1\], got 1.5"),
        ({"keep": 0.001}, "cannot be reached: the smallest subnet has"),
        ({"cost": "watts"}, "cost must be one of params, flops"),
        ({"batches": pairs()}, "got batches of tuple: pass the loss"),
        ({"loss": F.cross_entropy}, "a loss needs batches"),
        ({"loss": F.cross_entropy, "batches": [EXAMPLE]}, r"needs batches \(inputs, targets\)"),
        ({"loss": lambda o: o, "batches": [EXAMPLE]}, r"tensor of one number, got shape \(2, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            prune(model, EXAMPLE, **arguments, quiet=True)


def test_a_share_of_the_operations(model):
    net = Supernet(model, EXAMPLE)
    small = prune(model, EXAMPLE, 0.5, batches=pairs(), loss=F.cross_entropy, cost="flops", quiet=1)
    config = small.osf_record["config"]
    assert 0.45 <= net.flops_of(config) / net.flops_of({}) <= 0.5


def test_progress_and_summary_go_to_standard_error(model, capsys):
    prune(model, EXAMPLE, 0.5, batches=pairs(), loss=F.cross_entropy)
    out, err = capsys.readouterr()
    assert not out
    for text in ("measuring what each part is worth", "parameters (", "verified: differs"):
        assert text in err


def test_a_language_model_with_keywords_and_its_own_loss(build):
    model, inputs = build("hf_bert")
    model = model.float()
    batches = [(inputs, torch.tensor([0, 1]))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = prune(model, inputs, 0.6, batches=batches, loss=F.cross_entropy, quiet=True)
    assert count_parameters(small) <= 0.6 * count_parameters(model)
    assert small(**inputs).logits.shape == (2, 5)


def test_what_a_loss_takes():
    class Own(nn.Module):
        def forward(self, outputs, targets):
            return (outputs - targets).mean()

    assert takes_targets(F.cross_entropy)
    assert takes_targets(nn.MSELoss())
    assert takes_targets(Own())
    assert not takes_targets(lambda outputs, scale=1: outputs.mean())
    assert not takes_targets(torch.mean)
    assert not takes_targets(None)
    model = nn.Linear(2, 2)
    x, y = torch.ones(3, 2), torch.zeros(3, 2)
    expected = F.mse_loss(model(x), y)
    torch.testing.assert_close(batch_loss(model, (x, y), F.mse_loss), expected)
    torch.testing.assert_close(batch_loss(model, [x, y], nn.MSELoss()), expected)
