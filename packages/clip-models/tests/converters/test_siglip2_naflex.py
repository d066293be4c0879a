"""SigLIP 2's NaFlex of transformers: the same pixels, features and bits, both ways."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_models import (
    CLIP,
    ConfigError,
    NativeImages,
    Preprocess,
    convert_to_native,
    from_pretrained,
    save_pretrained,
)
from clip_models.config import PreprocessConfig
from clip_models.converters.dialects import detect_dialect, from_native, to_native
from clip_models.converters.hugging_face_config import (
    from_hugging_face_config,
    to_hugging_face_config,
)
from clip_models.converters.preprocess_config import (
    from_hugging_face_preprocess,
    to_hugging_face_preprocess,
)
from PIL import Image
from torch import Tensor, nn

with warnings.catch_warnings():  # of the modules that transformers imports
    warnings.simplefilter("ignore")
    from transformers import Siglip2Config, Siglip2Model
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

TINY: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 24,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_patches": 36,
        "patch_size": 8,
    },
    "text_config": {
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 50,
        "max_position_embeddings": 9,
        "projection_size": 24,
        "bos_token_id": 48,
        "eos_token_id": 49,
    },
}
SIZES = [(64, 48), (17, 90), (33, 33), (200, 30), (8, 8), (9, 700)]


def build(dtype: torch.dtype = torch.float64) -> Siglip2Model:
    torch.manual_seed(0)
    return randomized(Siglip2Model(Siglip2Config(**TINY))).to(dtype)


def randomized(model: nn.Module) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def pictures() -> list[Image.Image]:
    numbers = np.random.default_rng(0)
    return [
        Image.fromarray(numbers.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in SIZES
    ]


def assert_same_outputs(model: CLIP, theirs: Siglip2Model) -> None:
    dtype = model.logit_scale.dtype
    processed = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=40)(
        pictures(), return_tensors="pt"
    )
    tokens = torch.randint(0, 50, (len(SIZES), 9))
    images = NativeImages.from_padded(
        processed["pixel_values"].to(dtype),
        processed["pixel_attention_mask"],
        processed["spatial_shapes"],
    )
    with torch.no_grad():
        out = model.eval()(images, tokens)
        expected = theirs(
            input_ids=tokens,
            pixel_values=images.patches,
            pixel_attention_mask=processed["pixel_attention_mask"],
            spatial_shapes=processed["spatial_shapes"],
        )
        pooled = model.encode_image(images)
    for found, other in (
        (pooled, expected.vision_model_output.pooler_output),
        (out.image_features, expected.image_embeds),
        (out.text_features, expected.text_embeds),
        (
            out.logit_scale * out.image_features @ out.text_features.T + out.logit_bias,
            expected.logits_per_image,
        ),
    ):
        torch.testing.assert_close(found, other, atol=1e-5, rtol=1e-5)


def same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_of_read_models_are_equal(dtype: torch.dtype) -> None:
    theirs = build(dtype)
    assert detect_dialect(theirs.state_dict()) == "hugging-face"
    config = from_hugging_face_config(theirs.config.to_dict())
    assert config.vision.native
    assert config.vision.grid == (6, 6)
    model = CLIP(config).to(dtype)
    native = to_native(theirs.state_dict(), config)
    model.load_state_dict(native)
    assert_same_outputs(model, theirs)
    assert same_bits(from_native(native, config, "hugging-face"), theirs.state_dict())


def test_features_of_written_models_are_equal() -> None:
    config = from_hugging_face_config({"model_type": "siglip2", **TINY})
    torch.manual_seed(1)
    model = randomized(CLIP(config))
    written = to_hugging_face_config(config)
    assert written["architectures"] == ["Siglip2Model"]
    theirs = Siglip2Model(Siglip2Config(**written)).eval()
    foreign = from_native(model.state_dict(), config, "hugging-face")
    theirs.load_state_dict(foreign)
    assert_same_outputs(model, theirs)
    assert same_bits(to_native(foreign, config), model.state_dict())
    assert from_hugging_face_config(written) == config


def test_gradients_are_equal() -> None:
    theirs = build()
    config = from_hugging_face_config(theirs.config.to_dict())
    model = CLIP(config).double()
    model.load_state_dict(to_native(theirs.state_dict(), config))
    shapes, grids = torch.tensor([[2, 3], [4, 1]]), ((2, 3), (4, 1))
    images = NativeImages(torch.randn(2, 6, 192).double(), grids)
    inputs = {"pixel_attention_mask": images.mask, "spatial_shapes": shapes}
    found = model.encode_image(images)
    expected = theirs.vision_model(images.patches, **inputs).pooler_output
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    ours = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    other = {name: value.grad for name, value in theirs.named_parameters()}
    renamed = from_native(ours, config, "hugging-face")
    assert "vision_model.embeddings.position_embedding.weight" in renamed
    for name, gradient in renamed.items():
        torch.testing.assert_close(gradient, other[name], atol=1e-6, rtol=1e-5)


def test_directories_are_read_and_written(tmp_path: Path) -> None:
    theirs = build(torch.float32)
    theirs.save_pretrained(tmp_path / "theirs")
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=40).save_pretrained(tmp_path / "theirs")
    model, preprocess = from_pretrained(tmp_path / "theirs")
    assert preprocess == PreprocessConfig(
        size=48,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bilinear",
        resize_mode="native",
        patch_size=8,
        max_tokens=40,
    )
    assert_same_outputs(model, theirs)
    written = save_pretrained(tmp_path / "ours", model, preprocess)
    assert "preprocessor_config.json" in {path.name for path in written}
    again = Siglip2Model.from_pretrained(tmp_path / "ours")
    assert same_bits(again.state_dict(), theirs.state_dict())
    processor = Siglip2ImageProcessorPil.from_pretrained(tmp_path / "ours")
    assert (processor.patch_size, processor.max_num_patches) == (8, 40)


def test_pixels_are_those_of_the_image_processor() -> None:
    config = from_hugging_face_preprocess(
        {"image_processor_type": "Siglip2ImageProcessorFast", "patch_size": 8}, 48
    )
    assert config.max_tokens == 256
    preprocess = Preprocess(config)
    expected = Siglip2ImageProcessorPil(patch_size=8)(pictures(), return_tensors="pt")
    found = preprocess.normalize(
        NativeImages.from_images([preprocess(picture) for picture in pictures()], 8)
    )
    assert torch.tensor(found.grids).equal(expected["spatial_shapes"].long())
    length = found.patches.shape[1]
    pixels = expected["pixel_values"][:, :length][found.mask]
    torch.testing.assert_close(found.patches[found.mask], pixels, atol=1e-6, rtol=0)


def test_what_transformers_lacks_is_refused() -> None:
    config = from_hugging_face_config({"model_type": "siglip2", **TINY})
    siglip = from_hugging_face_config({"model_type": "siglip", **TINY})
    native = convert_to_native(CLIP(siglip)).config
    with pytest.raises(ConfigError, match=r"position_interpolation is bicubic, not bilinear"):
        to_hugging_face_config(native)
    odd = {**TINY, "vision_config": {**TINY["vision_config"], "num_patches": 30}}
    with pytest.raises(ConfigError, match="num_patches must be a square number, got 30"):
        from_hugging_face_config({"model_type": "siglip2", **odd})
    squash = PreprocessConfig(size=48, resize_mode="squash")
    with pytest.raises(ConfigError, match="of a siglip2 model cannot be 'squash'"):
        to_hugging_face_preprocess(squash, kind="siglip2")
    kept = PreprocessConfig(size=48, resize_mode="native", patch_size=8, max_tokens=9)
    with pytest.raises(ConfigError, match="of a clip model cannot be 'native'"):
        to_hugging_face_preprocess(kept, kind="clip")
    state = from_native(CLIP(config).state_dict(), config, "hugging-face")
    name = "vision_model.embeddings.patch_embedding.weight"
    with pytest.raises(Exception, match=r"expected \(D, p \* p \* 3\)"):
        to_native({**state, name: state[name][:, :100]}, config)
