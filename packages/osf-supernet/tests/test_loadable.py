"""Subnets that the libraries of their models load, with their own config."""

from __future__ import annotations

import json

import pytest
import torch
from osf_supernet import Space, Supernet, load_supernet, loadable_space, ratios, save_supernet
from osf_supernet.cli import main
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore")  # what other libraries warn of


def test_layers_of_a_uniform_space_have_one_size(build, tmp_path):
    model, inputs = build("hf_vit")
    net = Supernet(model, inputs, Space({"mlp": ratios(0.5, 1)}, uniform=True))
    (first,) = net.choices
    names = [group.name for group in net.graph.elastic() if group.kind == "mlp"]
    assert (first, net.ties) == (names[0], {names[0]: names})
    assert net.canonical(net.smallest) == dict.fromkeys(names, 20)
    small = net.extract(net.smallest)
    assert net.parameters_of(net.smallest) == sum(p.numel() for p in small.parameters())
    assert net.parameters_of({first: torch.tensor([20, 40])})[0] == net.parameters_of(net.smallest)
    with pytest.raises(ValueError, match="uniform must be true or false"):
        Space.from_dict(net.space.to_dict() | {"uniform": 1})
    save_supernet(net, tmp_path / "net")
    assert load_supernet(tmp_path / "net", model, inputs).ties == net.ties


@pytest.mark.parametrize(
    ("name", "kinds"), [("hf_vit", {"mlp", "depth"}), ("hf_clip", {"mlp", "depth"})]
)
def test_any_subnet_is_one_that_transformers_loads(build, name, kinds, tmp_path):
    model, inputs = build(name)
    net = Supernet(model, inputs)
    before = net.space
    space = loadable_space(net)
    assert net.space is before
    net.space = space
    assert {choice.rpartition(".")[2] for choice in net.choices} == kinds
    for seed in range(3):
        small = net.extract(net.sample(seed=seed))
        small.save_pretrained(tmp_path / str(seed))
        again = type(model).from_pretrained(tmp_path / str(seed), dtype=torch.float64).eval()
        arguments = inputs if isinstance(inputs, dict) else {"pixel_values": inputs}
        with torch.no_grad():
            found, expected = (m(**arguments)[0] for m in (again, small))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_model_without_a_config_is_refused():
    net = Supernet(nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)), torch.ones(2, 6))
    with pytest.raises(ValueError, match="Sequential has no config and save_pretrained"):
        loadable_space(net)
    with pytest.raises(ValueError, match="can say no smaller size"):
        loadable_space(net, ("heads",))


def test_a_repository_of_open_clip(tmp_path, capsys):
    import open_clip

    vision = {"image_size": 16, "patch_size": 8, "layers": 3, "width": 32, "head_width": 8}
    text = {"context_length": 10, "vocab_size": 100, "width": 16, "heads": 2, "layers": 2}
    settings = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "Tiny-to-load.json").write_text(json.dumps(settings))
    open_clip.add_model_config(tmp_path / "Tiny-to-load.json")
    words = ["extract", "open_clip:Tiny-to-load", "--max-params", "75%", "--quiet", "--seed", "3"]
    small = tmp_path / "small"
    assert main([*words, "--loadable", "--out", str(small)]) == 0
    assert f"create_model('local-dir:{small}') takes it" in capsys.readouterr().out
    model = open_clip.create_model(f"local-dir:{small}", pretrained=str(small)).eval()
    torch.manual_seed(3)
    full = open_clip.create_model("Tiny-to-load").eval()
    count = sum(p.numel() for p in full.parameters())
    assert sum(p.numel() for p in model.parameters()) <= 0.75 * count
    record = json.loads((small / "subnet.json").read_text())
    net = Supernet(full, (torch.randn(2, 3, 16, 16), torch.randint(0, 99, (2, 10))))
    net.reorder("magnitude")
    images = torch.randn(2, 3, 16, 16)
    with net.active(record["config"]):
        expected = full.encode_image(images)
    torch.testing.assert_close(model.encode_image(images), expected)
    assert main([*words, "--out", str(tmp_path / "other")]) == 0
    assert "no folder of open_clip" in capsys.readouterr().out
    assert main(["sample", "torchvision:resnet18", "--loadable"]) == 2
    assert "--loadable is for models of transformers, open_clip" in capsys.readouterr().err
