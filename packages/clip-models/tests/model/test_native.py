"""Images of their own shape: as one image at a time, as squares, and as timm's NaFlexVit."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from clip_models import (
    CLIP,
    CLIPConfig,
    ConfigError,
    NativeImages,
    convert_to_native,
    get_config,
    load_model,
    save_model,
)
from clip_models.config import (
    CompactResNetConfig,
    PatchReductionConfig,
    PreprocessConfig,
    TextConfig,
    ViTConfig,
)
from clip_models.native_images import cut_patches
from torch import Tensor, nn

SMALL = {"width": 16, "num_layers": 2, "num_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "openai": {},
    "open_clip, average after the norm": {"readout": "patch_average", "norm_after_readout": True},
    "average with the class token": {"readout": "average", "patch_bias": True},
    "clipa": {"readout": "patch_average", "position": "sin_cos", "class_position": False},
    "no class token": {"class_token": False, "readout": "patch_average", "pre_norm": False},
    "siglip": {
        "class_token": False,
        "readout": "map",
        "pre_norm": False,
        "projection": "none",
        "patch_bias": True,
        "position_interpolation": "bilinear",
    },
    "corenet": {
        "stem": "conv",
        "patch_size": 16,
        "image_size": 64,
        "position_interpolation": "flattened",
        "class_position": False,
    },
    "layer scale": {"layer_scale_init": 0.1, "image_size": (24, 40)},
}
GRIDS = [(4, 4), (1, 7), (5, 2), (3, 3), (5, 2), (6, 1), (1, 1)]


def build(family: str, **changes: Any) -> CLIP:
    torch.manual_seed(0)
    values = {"image_size": 32, "patch_size": 8, **SMALL, **FAMILIES[family], **changes}
    config = CLIPConfig(
        embed_dim=16,
        vision=ViTConfig(**values),
        text=TextConfig(context_length=8, vocab_size=20, **SMALL),
    )
    model = CLIP(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return convert_to_native(model).eval()


def draw(model: CLIP, grids: list[tuple[int, int]]) -> list[Tensor]:
    """Images (3, H, W) of the grids."""
    side = model.config.vision.patch_size
    return [torch.randn(3, rows * side, columns * side).double() for rows, columns in grids]


def stack(model: CLIP, images: list[Tensor]) -> NativeImages:
    return NativeImages.from_images(images, model.config.vision.patch_size)


def gradients(model: nn.Module, features: Tensor, weights: Tensor) -> list[Tensor]:
    given = [parameter for name, parameter in model.named_parameters() if "visual" in name]
    return list(torch.autograd.grad((features * weights).sum(), given, allow_unused=False))


def assert_close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_one_image_at_a_time(family: str) -> None:
    model = build(family)
    images, weights = draw(model, GRIDS), torch.randn(len(GRIDS), 16).double()
    alone = torch.cat([model.encode_image(image[None]) for image in images])  # rectangles
    batch = model.encode_image(stack(model, images))
    assert_close(batch, alone)
    assert_close(gradients(model, batch, weights), gradients(model, alone, weights))
    for image, expected in zip(images, alone, strict=True):
        assert_close(model.encode_image(stack(model, [image]))[0], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_the_trained_size_have_the_features_of_the_square_model(family: str) -> None:
    model = build(family).float()
    height, width = model.config.vision.image_sides
    images = torch.randn(3, 3, height, width)
    native = NativeImages.from_images(images, model.config.vision.patch_size)
    expected = model.encode_image(images)
    torch.testing.assert_close(model.encode_image(native), expected, atol=1e-6, rtol=1e-6)


def test_named_models_of_every_family_are_converted() -> None:
    names = ["ViT-B-32", "ViT-B-16-SigLIP", "ViT-L-14-CL32-GAP-BigVision", "CoreNet-ViT-B-16"]
    for name in names:
        config = get_config(name)
        small = replace(config.vision, width=16, num_layers=1, num_heads=2, projection="linear")
        torch.manual_seed(0)
        text = TextConfig(context_length=8, vocab_size=20, **SMALL)
        model = CLIP(replace(config, vision=small, text=text)).eval()
        native = convert_to_native(model)
        assert native.config.vision.native
        assert not model.config.vision.native
        images = torch.randn(2, 3, *small.image_sides)
        found = native.encode_image(NativeImages.from_images(images, small.patch_size))
        torch.testing.assert_close(found, model.encode_image(images), atol=1e-6, rtol=1e-6)


def test_batch_mates_and_padding_change_no_feature() -> None:
    model = build("siglip")
    images = draw(model, GRIDS)
    batch = stack(model, images)
    expected = model.encode_image(batch)
    other = batch.patches.clone()
    other[~batch.mask] = torch.nan
    assert_close(model.encode_image(NativeImages(other, batch.grids)), expected)
    other = torch.cat([other, torch.randn(7, 9, other.shape[2])], dim=1)
    assert_close(model.encode_image(NativeImages(other, batch.grids)), expected)
    order = [3, 0, 6]
    mates = stack(model, [images[place] for place in order] + draw(model, [(9, 9)]))
    assert_close(model.encode_image(mates)[:3], expected[order])


@pytest.mark.parametrize("kind", ["random", "grid", "block"])
@pytest.mark.parametrize("family", ["openai", "siglip"])
def test_each_image_keeps_patches_of_its_own_grid(kind: str, family: str) -> None:
    reduction = PatchReductionConfig(kind=kind, keep_ratio=0.5)
    model = build(family, patch_reduction=reduction).train()
    images, keys = draw(model, GRIDS), torch.randint(-(2**63), 2**63 - 1, (len(GRIDS),))
    alone = torch.cat(
        [
            model.encode_image(image[None], generator=key[None])
            for image, key in zip(images, keys, strict=True)
        ]
    )
    batch = model.encode_image(stack(model, images), generator=keys)
    assert_close(batch, alone)
    weights = torch.randn(len(GRIDS), 16).double()
    assert_close(gradients(model, batch, weights), gradients(model, alone, weights))
    drawn = [model.encode_image(stack(model, images), generator=seed(3)) for _ in range(2)]
    assert torch.equal(*drawn)
    assert not torch.allclose(drawn[0], model.eval().encode_image(stack(model, images)))


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def test_batch_statistics_see_no_padding() -> None:
    """The convolutional stem's norms, in training, count patches and nothing else."""
    model = build("corenet").train()
    images = torch.randn(4, 3, 64, 64).double()
    batch = NativeImages.from_images(images, 16)
    padded = torch.cat([batch.patches, torch.randn(4, 5, 768).double()], dim=1)
    expected = model.encode_image(images)
    assert_close(model.encode_image(NativeImages(padded, batch.grids)), expected)


def test_gradient_checkpointing_and_autocast_run() -> None:
    model = build("openai").float()
    batch = stack(model, [image.float() for image in draw(model, GRIDS)])
    expected = model.encode_image(batch)
    model.set_gradient_checkpointing(True)
    torch.testing.assert_close(model.encode_image(batch), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.encode_image(batch, normalize=True)
    cosine = (half.float() * nn.functional.normalize(expected, dim=-1)).sum(-1)
    assert cosine.min() > 0.99


def test_rows_of_a_batch() -> None:
    model = build("openai")
    images = draw(model, GRIDS)
    batch = stack(model, images)
    assert len(batch) == len(GRIDS)
    assert batch.counts == (16, 7, 10, 9, 10, 6, 1)
    assert batch.patches.shape == (7, 16, 192)
    part = batch[1:3]
    assert part.patches.shape == (2, 10, 192)
    assert part.grids == ((1, 7), (5, 2))
    again = NativeImages.stack(list(batch))
    assert torch.equal(again.patches[again.mask], batch.patches[batch.mask])
    assert batch.to(torch.float32).patches.dtype == torch.float32
    assert batch.device.type == "cpu"


def test_a_patch_is_its_pixels_row_by_row() -> None:
    image = torch.arange(3 * 4 * 6).view(3, 4, 6)
    patches, grid = cut_patches(image, 2)
    assert grid == (2, 3)
    for place in range(6):
        row, column = divmod(place, 3)
        cell = image[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(patches[place], cell.permute(1, 2, 0).flatten())


def test_a_native_model_is_saved_as_one(tmp_path: Any) -> None:
    model = build("siglip").float()
    save_model(tmp_path / "native", model, PreprocessConfig(size=32))
    again, _ = load_model(tmp_path / "native")
    assert again.config == model.config
    batch = stack(model, [image.float() for image in draw(model, GRIDS)])
    torch.testing.assert_close(again.encode_image(batch), model.encode_image(batch))


def test_faults_are_named() -> None:
    model = build("openai")
    patches = torch.zeros(2, 6, 192)
    with pytest.raises(ValueError, match="a grid for each image"):
        NativeImages(patches, ((2, 3),))
    with pytest.raises(ValueError, match=r"from 1 to 6 patches.*got 2 x 4"):
        NativeImages(patches, ((2, 3), (2, 4)))
    with pytest.raises(ValueError, match="must not be empty"):
        NativeImages.stack([])
    mask = torch.tensor([[1, 1, 0], [1, 0, 1]])
    with pytest.raises(ValueError, match="true for the first rows"):
        NativeImages.from_padded(torch.zeros(2, 3, 192), mask, torch.tensor([[1, 2], [2, 1]]))
    with pytest.raises(ValueError, match="8 x 8 x 3 = 192 numbers, got 48"):
        model.encode_image(NativeImages(torch.zeros(1, 2, 48), ((1, 2),)))
    with pytest.raises(ValueError, match="normalized"):
        model.encode_image(NativeImages(patches.to(torch.uint8), ((2, 3), (1, 1))))
    small = CLIPConfig(
        embed_dim=16,
        vision=CompactResNetConfig(widths=(4, 8)),
        text=TextConfig(context_length=8, vocab_size=20, **SMALL),
    )
    resnet = CLIP(small)
    with pytest.raises(ConfigError, match="need a vision transformer, got 'compact_resnet'"):
        convert_to_native(resnet)
    with pytest.raises(ValueError, match="only vision transformers"):
        resnet.encode_image(NativeImages(torch.zeros(1, 2, 192), ((1, 2),)))


TIMM_NAMES = {
    "blocks": "transformer.resblocks",
    "norm1": "ln_1",
    "attn.qkv.": "attn.in_proj_",
    "attn.proj": "attn.out_proj",
    "norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def as_timm(model: CLIP) -> nn.Module:
    """timm's NaFlexVit with the weights of our image tower."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
    vision, state = model.config.vision, model.visual.state_dict()
    is_map = vision.readout == "map"
    config = NaFlexVitCfg(
        patch_size=vision.patch_size,
        embed_dim=vision.width,
        depth=vision.num_layers,
        num_heads=2,
        class_token=vision.class_token,
        pos_embed_grid_size=vision.grid,
        pos_embed_interp_mode=vision.position_interpolation,
        global_pool="map" if is_map else "avg",
        fc_norm=False,
        norm_layer="layernorm",
    )
    theirs = NaFlexVit(config, num_classes=0).double().eval()
    table = state["positional_embedding"].view(1, *vision.grid, -1)
    renamed = {
        "embeds.proj.weight": state["conv1.weight"].permute(0, 2, 3, 1).flatten(1),
        "embeds.proj.bias": state["conv1.bias"],
        "embeds.pos_embed": table,
        "norm.weight": state["ln_post.weight"],
        "norm.bias": state["ln_post.bias"],
    }
    for name in theirs.state_dict():
        if name.startswith("blocks."):
            ours = name
            for their_part, our_part in TIMM_NAMES.items():
                ours = ours.replace(their_part, our_part)
            renamed[name] = state[ours]
        elif name.startswith("attn_pool."):
            ours = name.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
            renamed[name] = state[ours]
    theirs.load_state_dict(renamed)
    return theirs


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("family", ["siglip", "no class token"])
def test_features_are_those_of_timm(family: str, interpolation: str) -> None:
    changes = {"position_interpolation": interpolation, "patch_bias": True, "projection": "none"}
    model = build(family, layer_norm_eps=1e-6, **changes)
    theirs = as_timm(model)
    batch = stack(model, draw(model, GRIDS))
    rows = torch.cat([torch.cartesian_prod(torch.arange(h), torch.arange(w)) for h, w in GRIDS])
    coordinates = rows.new_zeros(len(batch), batch.patches.shape[1], 2)
    coordinates[batch.mask] = rows
    inputs = {"patches": batch.patches, "patch_coord": coordinates, "patch_valid": batch.mask}
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(batch), theirs(inputs), atol=1e-5, rtol=1e-5)
