from __future__ import annotations

import json

import pytest
import torch
from osf_supernet import (
    Supernet,
    load_subnet,
    load_supernet,
    ratios,
    save_subnet,
    save_supernet,
    sizes,
)
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Tagger(nn.Module):
    """Tied embeddings, a buffer that no state dict has, and blocks."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("shift", torch.randn(6), persistent=False)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, ids):
        x = self.table(ids) + self.shift
        for block in self.blocks:
            x = block(x)
        return self.head(x)


IDS = torch.arange(8).view(2, 4)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = Tagger().double()
    space = {"mlp": ratios(0.5, 1), "embed": sizes(4, 6), "depth": sizes(2, 3)}
    return Supernet(model, IDS, space).extract({"blocks.1.mlp": 4, "embed": 4, "blocks.depth": 2})


def test_round_trip_without_the_supernet(small, tmp_path):
    save_subnet(small, tmp_path)
    again = load_subnet(tmp_path, Tagger().double())
    assert type(again) is Tagger
    torch.testing.assert_close(again(IDS), small(IDS), rtol=0, atol=0)
    assert again.head.weight is again.table.weight
    assert [block.up.out_features for block in again.blocks] == [8, 4]
    assert again.osf_record == json.loads(json.dumps(small.osf_record))


def test_weights_are_as_readable_as_the_record(small, tmp_path):
    save_subnet(small, tmp_path)
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes["model.safetensors"] == modes["osf.json"]


def test_a_model_on_the_meta_device_will_do(small, tmp_path):
    save_subnet(small, tmp_path)
    with torch.device("meta"):
        full = Tagger().double()
    again = load_subnet(tmp_path, full)
    torch.testing.assert_close(again(IDS), small(IDS), rtol=0, atol=0)


def test_a_saved_subnet_can_be_loaded_and_saved_again(small, tmp_path):
    save_subnet(small, tmp_path / "one")
    again = load_subnet(tmp_path / "one", Tagger().double())
    save_subnet(again, tmp_path / "two")
    for name in ("osf.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_does_not_fit_is_refused(small, tmp_path):
    save_subnet(small, tmp_path)
    with pytest.raises(ValueError, match="of class Tagger, got Linear"):
        load_subnet(tmp_path, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="osf_record is missing"):
        save_subnet(nn.Linear(2, 2), tmp_path)
    record = json.loads((tmp_path / "osf.json").read_text())
    for change, message in (
        ({"format": 2}, "format 1, got 2"),
        ({"items": {}}, "does not fit the module, tensors differ: blocks.2"),
        ({"attributes": {"blocks.0.up.out_features": "os"}}, "must be integers"),
    ):
        (tmp_path / "osf.json").write_text(json.dumps(record | change))
        with pytest.raises(ValueError, match=message):
            load_subnet(tmp_path, Tagger().double())


class Heads(nn.Module):
    def __init__(self, width=8, num_heads=4):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, 8 // num_heads
        self.up, self.mix = nn.Linear(width, 16), nn.Linear(width, 8)
        self.down, self.out = nn.Linear(16, width), nn.Linear(8, width)

    def forward(self, x):
        y = self.mix(x).view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
        y = F.scaled_dot_product_attention(y, y, y, scale=0.5).transpose(1, 2).flatten(2)
        return self.down(F.gelu(self.up(x))) + self.out(y)


def test_a_full_module_of_another_size_is_refused(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    net = Supernet(Heads().double(), x, {"mlp": sizes(4, 16)})
    save_subnet(net.extract({"mlp": 4}), tmp_path)
    with pytest.raises(ValueError, match=r"down\.bias has shape \[8\], got \[9\]"):
        load_subnet(tmp_path, Heads(width=9))
    with pytest.raises(ValueError, match=r"head_dim has \[2\], got \[4\]"):
        load_subnet(tmp_path, Heads(num_heads=2))
    record = json.loads((tmp_path / "osf.json").read_text())
    del record["full"]  # as earlier versions wrote it
    (tmp_path / "osf.json").write_text(json.dumps(record))
    assert load_subnet(tmp_path, Heads().double()).up.out_features == 4


def test_an_extracted_module_can_be_exported_and_compiled(small):
    expected = small(IDS)
    exported = torch.export.export(small, (IDS,)).module()
    torch.testing.assert_close(exported(IDS), expected)
    compiled = torch.compile(small, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IDS), expected)


def flip_last_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_a_flipped_bit_is_an_error(small, tmp_path):
    save_subnet(small, tmp_path / "subnet")
    save_supernet(Supernet(Tagger().double(), IDS), tmp_path / "net")
    for folder in ("subnet", "net"):
        flip_last_bit(tmp_path / folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"is damaged: its SHA-256 is not the one in osf\.json"):
        load_subnet(tmp_path / "subnet", Tagger().double())
    with pytest.raises(ValueError, match="is damaged: its SHA-256 is not the one in osf_supernet"):
        load_supernet(tmp_path / "net", Tagger().double(), IDS)


def test_folders_of_earlier_releases_have_no_digest(small, tmp_path):
    save_subnet(small, tmp_path)
    record = json.loads((tmp_path / "osf.json").read_text())
    del record["sha256"]
    (tmp_path / "osf.json").write_text(json.dumps(record))
    flip_last_bit(tmp_path / "model.safetensors")
    load_subnet(tmp_path, Tagger().double())
