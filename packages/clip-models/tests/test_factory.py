"""Every way to make a model, its transforms, and other sizes of images and texts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from clip_models import (
    CLIP,
    CheckpointError,
    CLIPConfig,
    ConfigError,
    create_model,
    create_model_and_transforms,
    get_config,
    load_model,
    save_model,
)
from clip_models.config import (
    ModifiedResNetConfig,
    PreprocessConfig,
    TextConfig,
    ViTConfig,
    named_models,
)
from clip_models.converters import from_native
from clip_models.files import save_tensors
from PIL import Image
from torch import Tensor

TEXT = TextConfig(context_length=9, vocab_size=50, width=16, num_layers=2, num_heads=2)
VIT = ViTConfig(image_size=32, patch_size=8, width=64, num_layers=2, num_heads=1)
PLAIN = CLIPConfig(embed_dim=12, vision=VIT, text=TEXT)
PREPROCESS = PreprocessConfig(size=32, mean=(0.1, 0.2, 0.3), interpolation="bilinear")


def picture(width: int = 50, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def model_of(config: CLIPConfig) -> CLIP:
    torch.manual_seed(0)
    return CLIP(config).eval()


def tokens() -> Tensor:
    ids = torch.randint(1, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    ids[torch.arange(3), torch.tensor([3, 8, 5])] = 49
    return ids


@torch.no_grad()
def features(model: CLIP, size: int = 32) -> tuple[Tensor, Tensor]:
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    return model.encode_image(images), model.encode_text(tokens())


def assert_same(ours: CLIP, theirs: CLIP) -> None:
    for mine, other in zip(features(ours), features(theirs), strict=True):
        assert torch.equal(mine, other)


# --- by name, config, directory, file


def test_the_snippet_of_clipa_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usage that CLIPA's README shows, with its model small."""
    name = "ViT-H-14-CL32-GAP-BigVision"
    full = get_config(name)
    small = dataclasses.replace(
        full,
        embed_dim=12,
        vision=dataclasses.replace(full.vision, width=32, num_layers=2, num_heads=2),
        text=dataclasses.replace(full.text, width=16, num_layers=2, num_heads=2, vocab_size=50),
    )
    monkeypatch.setitem(named_models._CONFIGS, name, small)
    trained = model_of(small)
    path = tmp_path / "epoch_1.pt"
    state = {f"module.{key}": value for key, value in trained.state_dict().items()}
    torch.save({"epoch": 1, "name": "run", "state_dict": state}, path)

    model, _, preprocess = create_model_and_transforms(
        name,
        pretrained=path,
        force_image_size=336,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        interpolation="bilinear",
        square_resize_only=True,
    )
    image = preprocess(picture()).unsqueeze(0)
    text = torch.randint(1, 50, (3, 32))
    with torch.no_grad():
        image_features = F.normalize(model.encode_image(image), dim=-1)
        text_features = F.normalize(model.encode_text(text), dim=-1)
        text_probs = (100.0 * image_features @ text_features.T).softmax(dim=-1)

    assert text_probs.shape == (1, 3)
    assert torch.isclose(text_probs.sum(), torch.tensor(1.0))
    expected = open_clip.image_transform(
        (336, 336),
        is_train=False,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        interpolation="bilinear",
        resize_mode="squash",
    )(picture())
    assert torch.equal(image[0], expected)
    with torch.no_grad():
        assert torch.allclose(model.encode_image(image), trained.encode_image(image), atol=1e-5)
    assert model.config.vision.image_size == 336
    assert not model.training


def test_a_name_gives_new_weights_to_train() -> None:
    model = create_model("Compact-32")
    assert model.training
    assert model.config == get_config("Compact-32")
    assert create_model(model.config).config == model.config


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-B-32", PreprocessConfig()),
        ("ViT-B-16-SigLIP-256", {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}),
        ("ViT-L-14-CLIPA", {"mean": (0.485, 0.456, 0.406), "interpolation": "bilinear"}),
        ("CoreNet-ViT-B-16", {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
    ],
)
def test_named_models_know_their_transform(name: str, expected: Any) -> None:
    with torch.device("meta"):
        made = create_model_and_transforms(name)
    got = vars(made.evaluate.config)
    assert got["size"] == made.model.config.vision.image_size == made.train.config.size
    wanted = vars(expected) if isinstance(expected, PreprocessConfig) else expected
    assert {key: got[key] for key in wanted} == wanted


def test_a_directory_gives_its_weights_and_transform(tmp_path: Path) -> None:
    model = model_of(PLAIN)
    save_model(tmp_path, model, PREPROCESS)
    made = create_model_and_transforms(tmp_path)
    assert_same(made.model, model)
    assert made.evaluate.config == made.train.config == PREPROCESS
    assert not made.model.training
    changed = create_model_and_transforms(
        str(tmp_path), square_resize_only=True, image_std=(1, 1, 1)
    )
    assert changed.evaluate.config == dataclasses.replace(
        PREPROCESS, resize_mode="squash", std=(1.0, 1.0, 1.0)
    )


@pytest.mark.parametrize("kind", ["file", "directory", "dialect"])
def test_pretrained_is_a_file_or_a_directory_in_any_dialect(tmp_path: Path, kind: str) -> None:
    model = model_of(PLAIN)
    if kind == "file":
        path = tmp_path / "w.safetensors"
        save_tensors(path, model.state_dict())
    elif kind == "directory":
        path = tmp_path
        save_model(path, model, PREPROCESS)
    else:
        path = tmp_path / "w.bin"
        torch.save(from_native(model.state_dict(), PLAIN, "hugging-face"), path)
    made = create_model_and_transforms(PLAIN, path)
    assert_same(made.model, model)
    assert made.evaluate.config == (
        PREPROCESS if kind == "directory" else PreprocessConfig(size=32)
    )


def test_half_precision_becomes_float32_and_may_stay(tmp_path: Path) -> None:
    model = model_of(PLAIN).half()
    save_model(tmp_path, model, PREPROCESS)
    for loaded in (create_model(tmp_path), load_model(tmp_path)[0]):
        for key, value in loaded.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, model.state_dict()[key].float()), key
    kept = load_model(tmp_path, dtype=None)[0]
    assert {parameter.dtype for parameter in kept.parameters()} == {torch.float16}


def test_loaded_parameters_are_their_own_memory(tmp_path: Path) -> None:
    """Weights that are views in a file, such as parts of one matrix, become plain parameters."""
    model = model_of(PLAIN)
    torch.save(from_native(model.state_dict(), PLAIN, "hugging-face"), tmp_path / "w.pt")
    loaded = create_model(PLAIN, tmp_path / "w.pt")
    for parameter in loaded.parameters():
        assert parameter.is_contiguous()
        assert parameter.untyped_storage().nbytes() == parameter.nbytes
        assert parameter.requires_grad


@pytest.mark.parametrize(
    ("source", "pretrained", "error", "words"),
    [
        ("ViT-B-33", None, ConfigError, "unknown model 'ViT-B-33'; did you mean 'ViT-B-32'"),
        (
            "ViT-B-32",
            "absent",
            CheckpointError,
            "'absent' must be a file, a directory or 'hf-hub:",
        ),
        ("{folder}/w.pt", None, ConfigError, r"w\.pt is a file; name its model"),
        ("{folder}", "x", ConfigError, "comes with weights; remove pretrained=x"),
        ("hf-hub:what", None, CheckpointError, "'hf-hub:what' names no repository"),
        ("hf-hub:../etc/passwd", None, CheckpointError, "names no repository"),
    ],
)
def test_impossible_requests(
    tmp_path: Path, source: str, pretrained: Any, error: type[Exception], words: str
) -> None:
    save_model(tmp_path, model_of(PLAIN), PREPROCESS)
    (tmp_path / "w.pt").touch()
    with pytest.raises(error, match=words):
        create_model(source.format(folder=tmp_path), pretrained)


def test_a_context_length_is_one_integer_and_an_image_size_one_or_two() -> None:
    with pytest.raises(ConfigError, match=r"force_context_length must be one integer, got \(64, 6"):
        create_model(PLAIN, force_context_length=(64, 64))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"image_size must be a positive .*got \(64, 64, 64\)"):
        create_model(PLAIN, force_image_size=(64, 64, 64))  # type: ignore[arg-type]


def test_the_wrong_activation_is_refused(tmp_path: Path) -> None:
    """Features with the other GELU look plausible and are wrong."""
    quick = dataclasses.replace(
        PLAIN,
        vision=dataclasses.replace(VIT, activation="quick_gelu"),
        text=dataclasses.replace(TEXT, width=64, num_heads=1, activation="quick_gelu"),
    )
    plain = dataclasses.replace(
        quick, vision=VIT, text=dataclasses.replace(quick.text, activation="gelu")
    )
    model = model_of(quick)
    save_model(tmp_path, model, PREPROCESS)
    openai = tmp_path / "openai.pt"
    torch.save(from_native(model.state_dict(), quick, "openai"), openai)
    for weights in (tmp_path, openai):
        with pytest.raises(
            (ConfigError, CheckpointError), match=r"quick_gelu, .*with.* -quickgelu"
        ):
            create_model(plain, weights)
        assert_same(create_model(quick, weights), model)


# --- other sizes


@pytest.mark.parametrize("size", [16, 32, 48, 40])
def test_forced_image_size_sees_what_the_model_sees(tmp_path: Path, size: int) -> None:
    """Interpolating once at loading equals interpolating at every call."""
    model = model_of(PLAIN)
    save_model(tmp_path, model, PREPROCESS)
    forced = create_model(tmp_path, force_image_size=size)
    assert forced.visual.positional_embedding.shape == ((size // 8) ** 2 + 1, 64)
    for ours, theirs in zip(features(forced, size), features(model, size), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["resnet", "sin_cos", "flattened"])
def test_forced_image_size_of_other_towers(tmp_path: Path, kind: str) -> None:
    vision: Any = ModifiedResNetConfig(image_size=64, layers=(1, 1, 1, 1), width=8, num_heads=4)
    if kind != "resnet":
        change = {"sin_cos": {"position": "sin_cos"}}.get(
            kind, {"position_interpolation": "flattened", "class_position": False}
        )
        vision = dataclasses.replace(VIT, image_size=64, **change)
    model = model_of(dataclasses.replace(PLAIN, vision=vision))
    save_model(tmp_path, model, PreprocessConfig(size=64))
    forced = create_model(tmp_path, force_image_size=96)
    for ours, theirs in zip(features(forced, 96), features(model, 96), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_a_longer_context_is_interpolated_as_by_open_clip(tmp_path: Path) -> None:
    model = model_of(PLAIN)
    save_model(tmp_path, model, PREPROCESS)
    longer = create_model(tmp_path, force_context_length=14)
    state = {"positional_embedding": model.positional_embedding.detach().clone()}

    class Peer:
        positional_embedding = torch.empty(14, 16)

    open_clip.model.resize_text_pos_embed(state, Peer())
    torch.testing.assert_close(
        longer.positional_embedding.detach(), state["positional_embedding"], atol=1e-6, rtol=0
    )


def test_positions_of_weights_for_another_size_are_interpolated(tmp_path: Path) -> None:
    """As in CLIPA: trained with few tokens at a small size, loaded into the full model."""
    small = dataclasses.replace(
        PLAIN,
        vision=dataclasses.replace(VIT, image_size=16),
        text=dataclasses.replace(TEXT, context_length=5),
    )
    save_tensors(tmp_path / "w.safetensors", model_of(small).state_dict())
    model = create_model(PLAIN, tmp_path / "w.safetensors")
    assert model.positional_embedding.shape == (9, 16)
    assert model.visual.positional_embedding.shape == (17, 64)


def test_the_weights_of_a_directory_must_fit_its_config(tmp_path: Path) -> None:
    model = model_of(PLAIN)
    save_model(tmp_path, model, PREPROCESS)
    state = {**model.state_dict(), "positional_embedding": torch.zeros(5, 16)}
    save_tensors(tmp_path / "model.safetensors", state)
    with pytest.raises(
        CheckpointError, match=r"positional_embedding is \(5, 16\), expected \(9, 16"
    ):
        create_model(tmp_path)
