"""Every way to make a model, the transforms that come with it, and sizes other than its own."""

from __future__ import annotations

import dataclasses
import json
import warnings
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
    save_pretrained,
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

with warnings.catch_warnings():  # what transformers imports warns of what is its own business
    warnings.simplefilter("ignore")
    from transformers import AutoImageProcessor, CLIPModel, SiglipModel

TEXT = TextConfig(context_length=9, vocab_size=50, width=16, num_layers=2, num_heads=2)
VIT = ViTConfig(image_size=32, patch_size=8, width=64, num_layers=2, num_heads=1)
PLAIN = CLIPConfig(embed_dim=12, vision=VIT, text=TEXT)
SIGLIP = CLIPConfig(
    embed_dim=64,
    vision=dataclasses.replace(
        VIT,
        patch_bias=True,
        class_token=False,
        pre_norm=False,
        readout="map",
        projection="none",
        layer_norm_eps=1e-6,
    ),
    text=dataclasses.replace(
        TEXT, causal=False, readout="last", projection="linear_bias", layer_norm_eps=1e-6
    ),
    init_logit_bias=-10.0,
)
OPEN_CLIP = (
    '{"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": %s}'
)
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


def test_sizes_are_single_integers() -> None:
    for name in ("force_image_size", "force_context_length"):
        with pytest.raises(ConfigError, match=rf"{name} must be one integer, got \(64, 64\)"):
            create_model(PLAIN, **{name: (64, 64)})


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


# --- directories of other libraries, and ours read by them


@pytest.mark.parametrize("config", [PLAIN, SIGLIP], ids=["clip", "siglip"])
def test_transformers_reads_what_we_write_and_we_what_it_writes(
    tmp_path: Path, config: CLIPConfig
) -> None:
    model = model_of(config)
    siglip = config is SIGLIP
    preprocess = dataclasses.replace(PREPROCESS, resize_mode="squash" if siglip else "shortest")
    save_pretrained(tmp_path / "ours", model, preprocess)
    theirs = (SiglipModel if siglip else CLIPModel).from_pretrained(tmp_path / "ours").eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = theirs.get_image_features(images), theirs.get_text_features(tokens())
    for ours, output in zip(features(model), outputs, strict=True):
        torch.testing.assert_close(
            ours, getattr(output, "pooler_output", output), atol=1e-5, rtol=0
        )
    processor = AutoImageProcessor.from_pretrained(tmp_path / "ours")
    pixels = processor(picture(), return_tensors="pt")["pixel_values"][0]
    evaluate = create_model_and_transforms(tmp_path / "ours").evaluate
    torch.testing.assert_close(pixels, evaluate(picture()), atol=2 / 255 / 0.26, rtol=0)

    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    processor.save_pretrained(tmp_path / "theirs")
    back = create_model_and_transforms(tmp_path / "theirs")
    assert_same(back.model, model)
    assert back.evaluate.config == preprocess


@pytest.mark.parametrize("projection", ["linear", "linear_bias", "none"])
def test_open_clip_reads_what_we_write_and_we_what_it_writes(
    tmp_path: Path, projection: Any
) -> None:
    text = dataclasses.replace(TEXT, projection=projection)
    model = model_of(CLIPConfig(embed_dim=TEXT.width, vision=VIT, text=text))
    save_pretrained(tmp_path / "ours", model, PREPROCESS)
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'ours'}")
    theirs.eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = theirs.encode_image(images), theirs.encode_text(tokens())
    for ours, other in zip(features(model), outputs, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=0)
    evaluate = create_model_and_transforms(tmp_path / "ours").evaluate
    assert torch.equal(transform(picture()), evaluate(picture()))

    written = json.loads((tmp_path / "ours" / "open_clip_config.json").read_text())
    other = tmp_path / "theirs"
    other.mkdir()
    (other / "open_clip_config.json").write_text(json.dumps(written))
    torch.save(theirs.state_dict(), other / "open_clip_pytorch_model.bin")
    back = create_model_and_transforms(other)
    assert_same(back.model, model)
    assert back.evaluate.config == PREPROCESS


def test_the_only_weight_file_may_have_any_name(tmp_path: Path) -> None:
    model = model_of(PLAIN)
    save_pretrained(tmp_path, model, PREPROCESS)
    (tmp_path / "open_clip_model.safetensors").unlink()
    (tmp_path / "model.safetensors").rename(tmp_path / "epoch_32.safetensors")
    assert_same(create_model(tmp_path), model)
    (tmp_path / "epoch_31.pt").touch()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        create_model(tmp_path)


def test_what_is_written(tmp_path: Path) -> None:
    model = model_of(PLAIN)
    (tmp_path / "vocab.txt").write_text("words")
    written = save_pretrained(
        tmp_path / "out",
        model,
        PREPROCESS,
        files=[tmp_path / "vocab.txt"],
        license="mit",
        description="Trained on shapes.",
    )
    assert sorted(path.name for path in written) == sorted(
        path.name for path in (tmp_path / "out").iterdir()
    )
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("license: mit", "Trained on shapes.", "library_name: open_clip", "32 px"):
        assert words in card
    with pytest.raises(
        CheckpointError, match=r"already has clip_config\.json, .*nothing was written"
    ):
        save_pretrained(tmp_path / "out", model, PREPROCESS)
    save_pretrained(tmp_path / "out", model, PREPROCESS, overwrite=True)


def test_no_file_of_the_replaced_model_stays(tmp_path: Path) -> None:
    """open_clip and transformers, which lack the new model, would go on loading the old one."""
    save_pretrained(tmp_path, model_of(PLAIN), PREPROCESS)
    (tmp_path / "vocab.txt").write_text("words")
    other = model_of(dataclasses.replace(PLAIN, vision=dataclasses.replace(VIT, readout="average")))
    save_pretrained(tmp_path, other, PREPROCESS, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "clip_config.json",
        "model.safetensors",
        "vocab.txt",
    ]
    assert_same(create_model(tmp_path), other)


def test_models_that_others_lack_are_written_for_this_package_only(tmp_path: Path) -> None:
    vision = dataclasses.replace(VIT, readout="average", norm_after_readout=True)
    model = model_of(dataclasses.replace(PLAIN, vision=vision))
    save_pretrained(tmp_path, model, PREPROCESS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "clip_config.json",
        "model.safetensors",
    ]
    assert_same(create_model(tmp_path), model)
    assert "open_clip" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("open_clip_config.json", "[]", "open_clip_config.json cannot be read: it is a list"),
        ("open_clip_config.json", "{", "open_clip_config.json cannot be read"),
        ("open_clip_config.json", '{"model_cfg": {"vision": 3}}', "cannot be read: unknown key"),
        ("config.json", '{"model_type": "bert"}', "model_type must be 'clip' or 'siglip'"),
        ("config.json", "[" * 100_000, "config.json cannot be read"),
        ("clip_config.json", "[" * 100_000, "clip_config.json cannot be read"),
        ("open_clip_config.json", OPEN_CLIP % "[1]", "open_clip_config.json cannot be read"),
    ],
)
def test_damaged_foreign_configs(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=words):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rescale_factor": 1.0}, "rescale_factor must be 1/255"),
        ({"resample": 5}, "resample must be one of"),
        ({"image_mean": [1, 2]}, "mean must have 3 entries, got 2"),
        ({"size": {"shortest_edge": 40}}, "size is 40 and crop_size 32; they must be equal"),
        ({"size": {"height": 32, "width": 40}}, "size must be one number or equal sides"),
        ({"resample": []}, "cannot be read"),
    ],
)
def test_transforms_that_cannot_be_described(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    save_pretrained(tmp_path, model_of(PLAIN), PREPROCESS)
    for name in ("clip_config.json", "open_clip_config.json"):
        (tmp_path / name).unlink()
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=words):
        load_model(tmp_path)
