"""What is saved can be loaded: sizes are the module's, and other parts are refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_models import (
    CLIP,
    CheckpointError,
    CLIPConfig,
    create_model,
    load_model,
    save_model,
    save_pretrained,
)
from clip_models.config import ModifiedResNetConfig, PreprocessConfig, TextConfig, ViTConfig
from torch import Tensor, nn

SMALL: dict[str, Any] = {"width": 32, "num_layers": 2, "num_heads": 2}
CONFIG = CLIPConfig(
    embed_dim=16,
    vision=ViTConfig(image_size=32, patch_size=8, **SMALL),
    text=TextConfig(context_length=12, vocab_size=50, **SMALL),
)
RESNET = dataclasses.replace(
    CONFIG, vision=ModifiedResNetConfig(image_size=64, layers=(1, 1, 1, 1), width=8, num_heads=4)
)
PREPROCESS = PreprocessConfig(size=32)
TOKENS = torch.tensor([[1, 5, 49, 0, 0], [1, 2, 3, 4, 49]])


def small(config: CLIPConfig = CONFIG) -> CLIP:
    torch.manual_seed(0)
    return CLIP(config).eval()


def grow_vocabulary(model: CLIP) -> None:
    grown = nn.Embedding(57, 32)
    with torch.no_grad():
        grown.weight[:50] = model.token_embedding.weight
    model.token_embedding = grown


def lengthen_positions(model: CLIP) -> None:
    model.positional_embedding = nn.Parameter(
        torch.cat([model.positional_embedding.detach(), torch.randn(8, 32)])
    )


def change_embedding(model: CLIP) -> None:
    projections = (torch.randn(32, 24), torch.randn(32, 24))
    model.visual.proj, model.text_projection = map(nn.Parameter, projections)


def enlarge_images(model: CLIP) -> None:
    model.visual.positional_embedding = nn.Parameter(torch.randn(1 + 6 * 6, 32))


CHANGES = {
    grow_vocabulary: {"text": {"vocab_size": 57, "eot_token_id": 49}},
    lengthen_positions: {"text": {"context_length": 20}},
    change_embedding: {"embed_dim": 24},
    enlarge_images: {"vision": {"image_size": 48}},
}


@pytest.mark.parametrize("save", [save_model, save_pretrained])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_sizes_are_read_from_the_module(
    change: Callable[[CLIP], None], save: Callable[..., object], tmp_path: Path
) -> None:
    model = small()
    change(model)
    save(tmp_path, model, PREPROCESS)
    loaded, _ = load_model(tmp_path)
    for name, value in CHANGES[change].items():
        part = getattr(loaded.config, name)
        if isinstance(value, dict):
            assert {key: getattr(part, key) for key in value} == value
        else:
            assert part == value
    assert torch.equal(loaded.encode_text(TOKENS), model.encode_text(TOKENS))
    if change is not enlarge_images:  # whose tower still has the positions of its config
        images = torch.randn(2, 3, 32, 32)
        assert torch.equal(loaded.encode_image(images), model.encode_image(images))


def test_a_resnet_of_larger_images(tmp_path: Path) -> None:
    model = small(RESNET)
    model.visual.attnpool.positional_embedding = nn.Parameter(torch.randn(1 + 3 * 3, 256))
    save_model(tmp_path, model, PREPROCESS)
    assert load_model(tmp_path)[0].config.vision.image_size == 96


def test_added_tokens_are_no_end(tmp_path: Path) -> None:
    model = small()
    grow_vocabulary(model)
    save_model(tmp_path, model, PREPROCESS)
    loaded, _ = load_model(tmp_path)
    captions = torch.tensor([[1, 55, 2, 49], [1, 55, 3, 49]])
    assert not torch.allclose(*loaded.encode_text(captions), atol=1e-4)


class LoRA(nn.Module):
    """An adapter with the names of peft's."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.Linear(base_layer.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, base_layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


def first_mlp(model: CLIP) -> Any:
    return model.transformer.resblocks[0].mlp


def add_adapter(model: CLIP) -> None:
    first_mlp(model).c_fc = LoRA(first_mlp(model).c_fc)


def add_weight_norm(model: CLIP) -> None:
    nn.utils.parametrizations.weight_norm(first_mlp(model).c_fc)


def add_spectral_norm(model: CLIP) -> None:
    nn.utils.spectral_norm(first_mlp(model).c_proj)


def add_head(model: CLIP) -> None:
    model.visual.head = nn.Linear(32, 10)


def add_buffer(model: CLIP) -> None:
    model.register_buffer("mean", torch.zeros(3))


def replace_activation(model: CLIP) -> None:
    first_mlp(model).act = nn.ReLU()


def change_epsilon(model: CLIP) -> None:
    model.ln_final.eps = 1e-3


def change_gelu(model: CLIP) -> None:
    first_mlp(model).act.approximate = "tanh"


def remove_bias(model: CLIP) -> None:
    first_mlp(model).c_fc.bias = None


def change_one_projection(model: CLIP) -> None:
    model.text_projection = nn.Parameter(torch.randn(32, 24))


def make_rectangle(model: CLIP) -> None:
    model.visual.positional_embedding = nn.Parameter(torch.randn(1 + 4 * 6, 32))


def forget_numbers(model: CLIP) -> None:
    model.to("meta")


def compile_tower(model: CLIP) -> None:
    model.visual = torch.compile(model.visual)  # type: ignore[assignment]


def make_sparse(model: CLIP) -> None:
    model.text_projection = nn.Parameter(model.text_projection.detach().to_sparse())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (add_adapter, r"c_fc\.lora_A\.weight is in no config.*merge_and_unload"),
        (add_weight_norm, r"parametrizations\.weight\.original0 is in.*remove_parametrizations"),
        (add_spectral_norm, r"c_proj\.weight_orig is in no config.*make the weights plain"),
        (add_head, r"visual\.head\.weight is in no config.*file of their own"),
        (add_buffer, r"mean is in no config"),
        (replace_activation, r"resblocks\.0\.mlp\.act is a ReLU, expected GELU"),
        (change_epsilon, r"ln_final has eps 0\.001, expected 1e-05"),
        (change_gelu, r"mlp\.act has approximate tanh, expected none"),
        (remove_bias, r"c_fc\.bias is missing"),
        (change_one_projection, r"text_projection is \(32, 24\), expected \(32, 16\)"),
        (make_rectangle, r"visual\.positional_embedding is \(25, 32\), expected \(17, 32\)"),
        (forget_numbers, r"positional_embedding has no numbers, it is on the meta device"),
        (compile_tower, r"visual\._orig_mod\..* is in no config.*that were compiled instead"),
        (make_sparse, r"text_projection is no plain tensor"),
    ],
)
def test_what_a_config_cannot_say_is_refused_by_name(
    change: Callable[[CLIP], None], words: str, tmp_path: Path
) -> None:
    save_model(tmp_path / "before", small(), PREPROCESS)
    before = {path.name: path.read_bytes() for path in (tmp_path / "before").iterdir()}
    model = small()
    change(model)
    for save in (save_model, save_pretrained):
        with pytest.raises(CheckpointError, match=f"the model cannot be saved: .*{words}"):
            save(tmp_path / "new", model, PREPROCESS)
        with pytest.raises(CheckpointError):
            save(tmp_path / "before", model, PREPROCESS)
    assert not (tmp_path / "new").exists()
    assert {path.name: path.read_bytes() for path in (tmp_path / "before").iterdir()} == before


def test_what_changes_no_feature_is_saved(tmp_path: Path) -> None:
    """Batch norms over processes, frozen and half-precision weights, a subclass of a layer."""

    class Observed(nn.LayerNorm):
        pass

    model = small(RESNET)
    model.visual = nn.SyncBatchNorm.convert_sync_batchnorm(model.visual)
    model.ln_final.__class__ = Observed
    model.requires_grad_(False)
    save_model(tmp_path, model.half(), PREPROCESS)
    loaded, _ = load_model(tmp_path)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded.encode_image(images), model.float().encode_image(images))


def test_weights_with_adapters_are_named(tmp_path: Path) -> None:
    model = small()
    add_adapter(model)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    message = r"weights\.pt holds adapters, such as .*c_fc\.base_layer.*merge_and_unload"
    with pytest.raises(CheckpointError, match=message):
        create_model(CONFIG, pretrained=tmp_path / "weights.pt")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds an adapter of peft, not a model"):
        load_model(tmp_path)


@pytest.mark.slow  # importing peft takes seconds
def test_adapters_of_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(small(), peft.LoraConfig(target_modules=["c_fc"], r=2))
    nn.init.normal_(first_mlp(adapted.base_model.model).c_fc.lora_B["default"].weight)
    adapted.save_pretrained(tmp_path / "adapter")
    torch.save(adapted.state_dict(), tmp_path / "whole.pt")
    for file in (tmp_path / "adapter" / "adapter_model.safetensors", tmp_path / "whole.pt"):
        with pytest.raises(CheckpointError, match=r"holds adapters, .*merge_and_unload"):
            create_model(CONFIG, pretrained=file)
    with pytest.raises(CheckpointError, match="an adapter of peft"):
        load_model(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=r"lora_A.* is in no config.*merge_and_unload"):
        save_model(tmp_path / "new", adapted.base_model.model, PREPROCESS)
    expected = adapted.encode_text(TOKENS)
    assert not torch.allclose(expected, small().encode_text(TOKENS), atol=1e-3)
    save_model(tmp_path / "merged", adapted.merge_and_unload(), PREPROCESS)
    loaded, _ = load_model(tmp_path / "merged")
    assert torch.allclose(loaded.encode_text(TOKENS), expected, atol=1e-5)
