"""Whole graphs: torch.compile without breaks, torch.export and ONNX with any batch size."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import onnxruntime
import pytest
import torch
from clip_models import CLIP, CLIPConfig
from clip_models.config import (
    CompactResNetConfig,
    ModifiedResNetConfig,
    PatchReductionConfig,
    TextConfig,
    ViTConfig,
    WhitenedCNNConfig,
)
from clip_models.graphs import ImageEncoder, TextEncoder
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, vmap

SMALL = {"width": 16, "num_layers": 2, "num_heads": 2}
CAUSAL = TextConfig(context_length=8, vocab_size=20, **SMALL)
LAST = dataclasses.replace(CAUSAL, causal=False, readout="last", projection="linear_bias")
VIT = ViTConfig(image_size=32, patch_size=8, **SMALL)
MAP = dataclasses.replace(VIT, class_token=False, readout="map", projection="none", pre_norm=False)
CONFIGS = {
    "vit": CLIPConfig(embed_dim=8, vision=VIT, text=CAUSAL),
    "siglip": CLIPConfig(embed_dim=16, vision=MAP, text=LAST, init_logit_bias=-10.0),
    "clipa": CLIPConfig(
        embed_dim=8, vision=dataclasses.replace(VIT, readout="patch_average"), text=LAST
    ),
    "conv_stem": CLIPConfig(
        embed_dim=8,
        vision=dataclasses.replace(VIT, patch_size=16, stem="conv", class_position=False),
        text=CAUSAL,
    ),
    "modified_resnet": CLIPConfig(
        embed_dim=8,
        vision=ModifiedResNetConfig(image_size=32, layers=(1, 1, 1, 1), width=8, num_heads=4),
        text=CAUSAL,
    ),
    "compact": CLIPConfig(
        embed_dim=8, vision=CompactResNetConfig(image_size=32, widths=(4, 8)), text=CAUSAL
    ),
    "whitened": CLIPConfig(
        embed_dim=8, vision=WhitenedCNNConfig(image_size=32, widths=(4, 8)), text=CAUSAL
    ),
}
NAMES = [name if name == "vit" else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
TOKENS = torch.tensor([[1, 2, 3, 19, 0, 0, 0, 0], [1, 4, 19, 0, 0, 0, 0, 0]] * 2)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


def small(name: str) -> tuple[CLIP, Tensor]:
    torch.manual_seed(0)
    return CLIP(CONFIGS[name]).eval(), torch.randn(4, 3, 32, 32)


@pytest.mark.parametrize("size", [pytest.param(32, marks=pytest.mark.slow), 48])
@pytest.mark.parametrize("name", NAMES)
def test_forward_compiles_as_one_graph(name: str, size: int) -> None:
    model, _ = small(name)
    images = torch.randn(4, 3, size, size)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(compiled(images, TOKENS)[:2], model(images, TOKENS)[:2], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_training_step_compiles_as_one_graph(checkpointing: bool) -> None:
    reduction = PatchReductionConfig(keep_ratio=0.5)
    config = dataclasses.replace(
        CONFIGS["vit"], vision=dataclasses.replace(VIT, patch_reduction=reduction)
    )
    torch.manual_seed(0)
    model, images, keys = CLIP(config).train(), torch.randn(4, 3, 32, 32), torch.arange(4)
    model.set_gradient_checkpointing(checkpointing)
    gradients = []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        output = run(images, TOKENS, generator=keys)
        logits = output.logit_scale * output.image_features @ output.text_features.T
        nn.functional.cross_entropy(logits, torch.arange(4)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for eager, compiled in zip(*gradients, strict=True):
        assert torch.allclose(eager, compiled, rtol=1e-4, atol=1e-5 * eager.abs().max().item())


def test_trimmed_captions_give_the_same_features_in_few_shapes() -> None:
    model, _ = small("vit")
    whole = torch.zeros(3, 8, dtype=torch.long)
    for row, length in enumerate((2, 3, 5)):
        whole[row, length - 1] = 19
    for multiple, width in ((1, 5), (4, 8), (8, 8), (3, 6)):
        trimmed = model.trim_tokens(whole, multiple=multiple)
        assert trimmed.shape == (3, width)
        assert torch.allclose(model.encode_text(trimmed), model.encode_text(whole), atol=1e-6)
    assert model.trim_tokens(whole[:0]).shape == (0, 8)
    with pytest.raises(ValueError, match="multiple must be positive, got 0"):
        model.trim_tokens(whole, multiple=0)
    last, _ = small("siglip")
    assert last.trim_tokens(whole, multiple=1) is whole


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch's attention in vmap
def test_gradients_of_each_row_by_vmap() -> None:
    model, images = small("vit")
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], image: Tensor, tokens: Tensor) -> Tensor:
        output = functional_call(model, parameters, (image[None], tokens[None]))
        return (output.image_features * output.text_features).sum()

    rows = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, TOKENS)
    for row in range(2):
        alone = grad(loss)(parameters, images[row], TOKENS[row])
        assert all(torch.allclose(rows[key][row], alone[key], atol=1e-5) for key in alone)


def test_shapes_without_numbers() -> None:
    with FakeTensorMode():
        output = CLIP(CONFIGS["vit"])(torch.empty(4, 3, 32, 32), torch.ones(4, 8, dtype=torch.long))
        assert output.text_features.shape == (4, 8)


class Features(nn.Module):
    """Both features as a tuple, as exporters want them."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(images, tokens)
        return output.image_features, output.text_features


@functools.cache
def exported(name: str) -> tuple[CLIP, torch.export.ExportedProgram]:
    model, images = small(name)
    batch = torch.export.Dim("batch", min=1)
    shapes = {"images": {0: batch}, "tokens": {0: batch}}
    return model, torch.export.export(
        Features(model), (images, TOKENS), dynamic_shapes=shapes, strict=True
    )


@pytest.mark.parametrize("name", NAMES)
def test_export_takes_any_batch(name: str) -> None:
    model, program = exported(name)
    for batch in (1, 3, 4):
        images, tokens = torch.randn(batch, 3, 32, 32), TOKENS[:batch]
        for ours, theirs in zip(
            program.module()(images, tokens), model(images, tokens)[:2], strict=True
        ):
            assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_onnx_takes_any_batch(name: str, tmp_path: Path) -> None:
    model, program = exported(name)
    path = tmp_path / "clip.onnx"
    torch.onnx.export(program, f=path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    for batch in (1, 3):
        images, tokens = torch.randn(batch, 3, 32, 32), TOKENS[:batch]
        named = {"images": images.numpy(), "tokens": tokens.numpy()}
        results = session.run(None, named)
        for ours, theirs in zip(results, model(images, tokens)[:2], strict=True):
            assert torch.allclose(torch.from_numpy(ours), theirs, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_a_graph_from_one_image_takes_other_sizes() -> None:
    model, _ = small("vit")
    encoder = ImageEncoder(model)
    traced = torch.jit.trace(encoder, torch.randn(1, 3, 32, 32))
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(encoder, (torch.randn(2, 3, 32, 32),), dynamic_shapes=(sizes,))
    for shape in ((1, 3, 32, 32), (3, 3, 48, 32), (2, 3, 40, 64)):
        images = torch.randn(shape)
        for graph in (traced, program.module()):
            assert torch.allclose(graph(images), encoder(images), atol=1e-5)


def test_a_text_graph_takes_other_lengths() -> None:
    model, _ = small("vit")
    encoder = TextEncoder(model)
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(encoder, (TOKENS,), dynamic_shapes=(sizes,))
    for tokens in (TOKENS[:1], TOKENS[:3, :4], TOKENS[:, :6]):
        assert torch.allclose(program.module()(tokens), encoder(tokens), atol=1e-5)


def test_an_encoder_has_the_mode_of_its_model() -> None:
    """The older ONNX exporter restores the mode of the whole and with it batch statistics."""
    assert not ImageEncoder(CLIP(CONFIGS["modified_resnet"]).eval()).training
    assert TextEncoder(CLIP(CONFIGS["vit"])).training
