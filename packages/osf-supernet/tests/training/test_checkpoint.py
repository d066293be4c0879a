from __future__ import annotations

import json

import pytest
import torch
from osf_supernet import Supernet, ratios, sizes
from osf_supernet.training import Classification, Sandwich, train
from safetensors.torch import save_model
from torch import nn

SPACE = {"channel": ratios(0.5, 1), "depth": sizes(1, 2)}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.back = nn.Conv1d(8, 4, 1)

    def forward(self, x):
        return x + self.back(self.norm(self.conv(x)).relu())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv1d(2, 4, 1), nn.Sequential(Block(), Block())
        self.drop, self.head = nn.Dropout(0.25), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.drop(self.blocks(self.stem(x)).mean(-1)))


def batch_of(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(6, 2, 5, generator=generator)
    return x, torch.randint(0, 3, (6,), generator=generator)


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
    "rprop": lambda p: torch.optim.Rprop(p, 1e-2),
    "adafactor": lambda p: torch.optim.Adafactor(p, 1e-2),
}


def run(folder, steps, optimizer="adamw"):
    torch.manual_seed(0)
    net = Supernet(Net(), torch.randn(2, 2, 5), SPACE)
    torch.manual_seed(5)
    made = OPTIMIZERS[optimizer](net.model.parameters())
    train(Sandwich(net, Classification()), batch_of, made, steps, folder=folder, save_every=2)
    return net.model.state_dict(), made.state_dict(), net


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_any_optimizer_goes_on_to_the_same_bits(optimizer, tmp_path):
    whole, state, _ = run(tmp_path / "whole", 4, optimizer)
    run(tmp_path / "part", 2, optimizer)
    part, found, _ = run(tmp_path / "part", 4, optimizer)
    assert all(torch.equal(whole[name], part[name]) for name in whole)
    assert found["param_groups"] == state["param_groups"]
    for index, values in state["state"].items():
        for name, value in values.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(found["state"][index][name]))


def test_a_checkpoint_of_an_earlier_release_goes_on_and_is_replaced(tmp_path):
    whole, _, _ = run(None, 4)
    torch.manual_seed(5)
    _, state, net = run(None, 2)
    made = tmp_path / "step-2"
    made.mkdir()
    save_model(net.model, str(made / "supernet.safetensors"))
    torch.save(
        {
            "optimizer": state,
            "step": 2,
            "random": [{"cpu": torch.get_rng_state()}],
            "orders": net.depth_orders,
        },
        made / "training.pt",
    )
    (tmp_path / "latest.json").write_text(json.dumps({"latest": "step-2"}))
    part, _, _ = run(tmp_path, 4)
    assert all(torch.equal(whole[name], part[name]) for name in whole)
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000004"]


class Payload:
    def __reduce__(self):
        return (print, ("code of a stranger",))


def test_a_checkpoint_of_an_earlier_release_runs_no_code(tmp_path, capsys):
    _, _, net = run(None, 1)
    (tmp_path / "step-2").mkdir()
    save_model(net.model, str(tmp_path / "step-2" / "supernet.safetensors"))
    torch.save({"optimizer": Payload()}, tmp_path / "step-2" / "training.pt")
    (tmp_path / "latest.json").write_text(json.dumps({"latest": "step-2"}))
    with pytest.raises(ValueError, match="cannot be read"):
        run(tmp_path, 4)
    assert "stranger" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model", "optimizer", "random"])
def test_a_flipped_bit_is_an_error(name, tmp_path):
    run(tmp_path, 2)
    file = tmp_path / "step-0000002" / f"{name}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.safetensors is damaged: its SHA-256"):
        run(tmp_path, 4)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run(tmp_path, 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))
    net = Supernet(model, torch.randn(2, 2, 5))
    with pytest.raises(ValueError, match="is of another model or optimizer"):
        train(
            Sandwich(net, Classification()),
            batch_of,
            torch.optim.AdamW(model.parameters()),
            4,
            folder=tmp_path,
        )
