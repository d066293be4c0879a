"""Extracted models of transformers in the folders of their library."""

from __future__ import annotations

import copy

import pytest
import torch
from osf_supernet import Supernet, load_subnet, save_subnet
from torch.utils import _pytree as pytree


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("hf_vit", "mlp"),
        ("hf_bert", "depth"),
        ("hf_clip", "mlp"),  # two configs in one
        ("hf_llama", ""),  # heads, with a size of their own in the config
        ("hf_swin", "depth"),  # a list in the config
        ("hf_mamba", ""),
    ],
)
def test_what_the_config_can_say_is_saved_and_loaded_by_the_library(build, name, part, tmp_path):
    model, inputs = build(name)
    before = copy.deepcopy(model.config.to_dict())
    net = Supernet(model, inputs)
    small = net.extract({n: v for n, v in net.smallest.items() if part in n})
    small.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=torch.float64).eval()
    arguments = inputs if isinstance(inputs, dict) else {"pixel_values": inputs}
    with torch.no_grad():
        found, expected = (pytree.tree_leaves(m(**arguments)) for m in (again, small))
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    assert model.config.to_dict() == before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        ("hf_vit", lambda net: net.smallest, "ViTConfig cannot say the sizes: .*attention"),
        (
            "hf_vit",
            lambda net: {next(n for n in net.choices if n.endswith("mlp")): 8},
            r"one size for all layers, but .*\.\*.* has the shapes \[8, 24\], \[40, 24\]: choose",
        ),
    ],
)
def test_what_it_cannot_say_is_refused_with_the_reason(build, name, config, reason, tmp_path):
    model, inputs = build(name)
    net = Supernet(model, inputs)
    small = net.extract(config(net))
    with pytest.raises(ValueError, match=rf"{reason}.*; save it with osf_supernet.save_subnet"):
        small.save_pretrained(tmp_path / "library")
    with pytest.raises(ValueError, match="save_subnet"):
        copy.deepcopy(small).save_pretrained(tmp_path / "library")
    assert not (tmp_path / "library").exists()
    save_subnet(small, tmp_path / "ours")
    again = load_subnet(tmp_path / "ours", model)
    assert torch.equal(again(**inputs).logits, small(**inputs).logits)
