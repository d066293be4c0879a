"""Every dialect there and back: the same bits, and the same features as in its library."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from clip_models import CLIP, CheckpointError, CLIPConfig, ConfigError, get_config
from clip_models.config import ModifiedResNetConfig, TextConfig, ViTConfig
from clip_models.converters import DIALECTS, Dialect, detect_dialect, from_native, to_native
from clip_models.converters.openai import infer_config
from clip_models.files import build_model, read_weights
from open_clip.model import CustomTextCLIP
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

TEXT = TextConfig(context_length=9, vocab_size=50, width=16, num_layers=2, num_heads=2)
VIT = ViTConfig(image_size=32, patch_size=8, width=24, num_layers=2, num_heads=3)
CONFIGS = {
    "clip": CLIPConfig(embed_dim=12, vision=VIT, text=TEXT),
    "openai": CLIPConfig(
        embed_dim=12,
        vision=dataclasses.replace(VIT, width=128, num_heads=2, activation="quick_gelu"),
        text=dataclasses.replace(TEXT, width=64, num_heads=1, activation="quick_gelu"),
    ),
    "openai resnet": CLIPConfig(
        embed_dim=12,
        vision=ModifiedResNetConfig(image_size=64, layers=(1, 2, 1, 1), width=8, num_heads=4),
        text=dataclasses.replace(TEXT, width=64, num_heads=1, activation="quick_gelu"),
    ),
    "siglip": CLIPConfig(
        embed_dim=24,
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
    ),
    "clipa": CLIPConfig(
        embed_dim=12,
        vision=dataclasses.replace(
            VIT,
            pre_norm=False,
            readout="patch_average",
            norm_after_readout=True,
            activation="gelu_tanh",
            layer_norm_eps=1e-6,
        ),
        text=dataclasses.replace(
            TEXT, causal=False, readout="last", activation="gelu_tanh", layer_norm_eps=1e-6
        ),
    ),
    "corenet": CLIPConfig(
        embed_dim=12,
        vision=dataclasses.replace(
            VIT,
            width=128,
            num_heads=4,
            patch_size=16,
            image_size=64,
            stem="conv",
            class_position=False,
            pre_norm=False,
            position_interpolation="flattened",
            layer_norm_eps=1e-6,
        ),
        text=TEXT,
    ),
}
SPEAKS: dict[str, tuple[Dialect, ...]] = {
    "clip": ("clip-models", "open-clip", "hugging-face"),
    "openai": ("clip-models", "openai", "open-clip", "hugging-face"),
    "openai resnet": ("clip-models", "openai", "open-clip"),
    "siglip": ("clip-models", "open-clip", "hugging-face", "clipa"),
    "clipa": ("clip-models", "open-clip", "clipa"),
    "corenet": ("clip-models", "corenet"),
}


def make(name: str) -> CLIP:
    torch.manual_seed(0)
    model = CLIP(CONFIGS[name]).eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.2)
    return model


def inputs(config: CLIPConfig) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    size, text = config.vision.image_size, config.text
    tokens = torch.randint(1, 40, (4, text.context_length), generator=generator)
    tokens[torch.arange(4), torch.tensor([2, 5, 8, 3])] = text.vocab_size - 1
    return torch.randn(4, 3, size, size, generator=generator), tokens


def same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype
        for key in theirs
    )


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 1e-3
    scale = theirs.norm(dim=-1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(ours / scale, theirs / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "dialect"), [(name, dialect) for name, spoken in SPEAKS.items() for dialect in spoken]
)
def test_there_and_back_is_bit_exact(name: str, dialect: Dialect, dtype: torch.dtype) -> None:
    model = make(name).to(dtype)
    native = model.state_dict()
    foreign = from_native(native, model.config, dialect)
    assert same_bits(to_native(foreign, model.config), native)
    assert same_bits(to_native(foreign, model.config, dialect=dialect), native)
    again = from_native(to_native(foreign, model.config), model.config, dialect)
    assert same_bits(again, foreign)


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        (name, d)
        for name, spoken in SPEAKS.items()
        for d in DIALECTS
        if d not in (*spoken, "open-clip")
    ],
)
def test_models_that_a_dialect_lacks_are_refused(name: str, dialect: Dialect) -> None:
    model = make(name)
    with pytest.raises(ConfigError):
        from_native(model.state_dict(), model.config, dialect)


def test_each_dialect_is_detected() -> None:
    for name, dialect in (
        ("openai", "openai"),
        ("siglip", "open-clip"),
        ("siglip", "hugging-face"),
        ("siglip", "clipa"),
        ("clipa", "clipa"),
        ("corenet", "corenet"),
        ("clip", "clip-models"),
    ):
        model = make(name)
        assert detect_dialect(from_native(model.state_dict(), model.config, dialect)) == dialect
    with pytest.raises(CheckpointError, match=r"not weights of a known CLIP: layer\.weight"):
        detect_dialect({"layer.weight": torch.zeros(1)})


# --- OpenAI: archives read by open_clip's own reader


def archive(path: Path, state: dict[str, Tensor]) -> None:
    """A TorchScript archive whose modules hold the tensors of a state dict."""
    root = nn.Module()
    for name, value in state.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        module.register_buffer(leaf, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; its files stay
        torch.jit.script(root).save(str(path))


@pytest.mark.parametrize("name", ["openai", "openai resnet"])
def test_openai_archive(name: str, tmp_path: Path) -> None:
    model = make(name)
    half = {
        key: value.half() if value.ndim > 1 else value.half().to(value.dtype)
        for key, value in model.state_dict().items()
    }
    archive(tmp_path / "w.pt", from_native(half, model.config, "openai"))
    found = read_weights(tmp_path / "w.pt")
    assert detect_dialect(found) == "openai"
    config = infer_config(found)
    assert config == model.config
    native = to_native(found, config)
    assert same_bits(native, half)
    ours = CLIP(config).eval()
    ours.load_state_dict(native)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = open_clip.load_openai_model(str(tmp_path / "w.pt"), precision="fp32", device="cpu")
    images, tokens = inputs(config)
    ours, theirs, images = ours.double(), theirs.double(), images.double()
    with torch.no_grad():
        assert_close(ours.encode_image(images), theirs.encode_image(images))
        assert_close(ours.encode_text(tokens), theirs.encode_text(tokens))


@pytest.mark.parametrize("name", ["openai", "openai resnet"])
def test_build_model_infers_the_config_from_the_shapes(name: str) -> None:
    state = {key: value.double() for key, value in make(name).state_dict().items()}
    with_numbers = from_native(state, make(name).config, "openai")
    theirs = open_clip.openai.build_model_from_openai_state_dict(
        dict(with_numbers), cast_dtype=torch.float32
    ).double()
    theirs.load_state_dict(state)  # which its builder has rounded to float16
    for given, activation in ((state, "quick_gelu"), (with_numbers, None)):
        kept = dict(given)
        ours = build_model(given, activation=activation, dtype=None)
        assert given.keys() == kept.keys()
        assert all(given[key] is kept[key] for key in kept)
        assert not ours.training
        images, tokens = inputs(ours.config)
        with torch.no_grad():
            assert_close(ours.encode_image(images.double()), theirs.encode_image(images.double()))
            assert_close(ours.encode_text(tokens), theirs.encode_text(tokens))
    assert build_model(with_numbers).text_projection.dtype == torch.float32


def test_build_model_never_guesses_the_activation() -> None:
    """A state dict in memory knows it, OpenAI's archives have OpenAI's; others are asked for."""
    for activation in ("gelu", "quick_gelu", "gelu_tanh"):
        config = make("openai").config
        config = dataclasses.replace(
            config,
            vision=dataclasses.replace(config.vision, activation=activation),
            text=dataclasses.replace(config.text, activation=activation),
        )
        model = CLIP(config).eval()
        again = build_model(model.state_dict())
        assert again.config == config
        wrapped = build_model(model.state_dict(), config)
        images, tokens = inputs(config)
        assert torch.equal(again.encode_image(images), wrapped.encode_image(images))
        with pytest.raises(CheckpointError, match="do not say their activation"):
            build_model(dict(model.state_dict()))
        said = build_model(dict(model.state_dict()), activation=activation)
        assert torch.equal(said.encode_text(tokens), model.encode_text(tokens))
    mixed = dataclasses.replace(config, text=dataclasses.replace(config.text, activation="gelu"))
    with pytest.raises(CheckpointError, match="do not say their activation"):
        build_model(CLIP(mixed).state_dict())
    with pytest.raises(ConfigError, match="the config says the activation"):
        build_model(model.state_dict(), config, activation="gelu")


def test_the_reference_model_of_cifar_is_itself_after_build_model() -> None:
    """OpenAI's builder, which the reference uses, and its QuickGELU."""
    torch.manual_seed(0)
    config = get_config("CIFAR-RN")
    small = dataclasses.replace(config.text, width=64, num_heads=1, num_layers=2, vocab_size=200)
    model = CLIP(dataclasses.replace(config, text=small)).eval()
    assert config.text.activation == "quick_gelu"
    tokens = torch.tensor([[198, 5, 199]])
    for state in (model.state_dict(), from_native(model.state_dict(), model.config, "openai")):
        built = build_model(state)
        assert torch.equal(built.encode_text(tokens), model.encode_text(tokens))


def test_build_model_with_a_config_takes_every_dialect() -> None:
    model = make("clip").eval()
    state = from_native(model.state_dict(), model.config, "hugging-face")
    built = build_model(state, model.config)
    assert same_bits(built.state_dict(), model.state_dict())
    with pytest.raises(CheckpointError, match="have hugging-face's; pass config="):
        build_model(state)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text_projection": None}, "not weights of OpenAI's CLIP: 'text_projection'"),
        (
            {"visual.positional_embedding": torch.zeros(16, 128)},
            "expected a square of positions and one more, got 16",
        ),
        (
            {"visual.conv1.weight": torch.zeros(3)},
            "not weights of OpenAI's CLIP: not enough values",
        ),
    ],
)
def test_other_shapes_than_openai_clip_are_refused(
    changes: dict[str, Tensor | None], words: str
) -> None:
    state = {**make("openai").state_dict(), **changes}
    with pytest.raises(CheckpointError, match=words):
        infer_config({key: value for key, value in state.items() if value is not None})


# --- open_clip with a timm trunk and a separate text tower, and big_vision's files


def their_siglip(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """open_clip's own model over a small timm trunk."""

    def small(name: str, **settings: Any) -> VisionTransformer:
        del settings["pretrained"], name
        return VisionTransformer(
            img_size=32,
            patch_size=8,
            embed_dim=24,
            depth=2,
            num_heads=3,
            class_token=False,
            **settings,
        )

    monkeypatch.setattr(open_clip.timm_model.timm, "create_model", small)
    torch.manual_seed(1)
    model = CustomTextCLIP(
        embed_dim=24,
        vision_cfg={
            "image_size": 32,
            "timm_model_name": "x",
            "timm_pool": "map",
            "timm_proj": "none",
        },
        text_cfg={
            "context_length": 9,
            "vocab_size": 50,
            "width": 16,
            "heads": 2,
            "layers": 2,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        },
        init_logit_bias=-10,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def test_load_state_dict_takes_open_clip_names(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = their_siglip(monkeypatch)
    ours = CLIP(CONFIGS["siglip"]).eval()
    ours.load_state_dict(theirs.state_dict())
    images, tokens = inputs(ours.config)
    with torch.no_grad():
        assert_close(ours.encode_image(images), theirs.encode_image(images))
        assert_close(ours.encode_text(tokens), theirs.encode_text(tokens))
    assert same_bits(from_native(ours.state_dict(), ours.config, "open-clip"), theirs.state_dict())
    wrapped = nn.ModuleDict({"model": CLIP(CONFIGS["siglip"])})
    wrapped.load_state_dict({f"model.{k}": v for k, v in theirs.state_dict().items()})
    assert same_bits(wrapped["model"].state_dict(), ours.state_dict())


def test_load_state_dict_takes_openai_archives() -> None:
    model = make("openai")
    state = from_native(model.state_dict(), model.config, "openai")
    other = CLIP(model.config)
    other.load_state_dict(state)
    assert same_bits(other.state_dict(), model.state_dict())
    text = dataclasses.replace(model.config.text, activation="gelu")
    plain = CLIP(dataclasses.replace(model.config, text=text))
    with pytest.raises(CheckpointError, match=r"quick_gelu, .* take the model's name with -quick"):
        plain.load_state_dict(state)


def test_load_state_dict_takes_a_separate_text_tower_and_scales_of_one_entry() -> None:
    model = make("clip")
    state = {
        key if key.startswith(("visual.", "logit")) else f"text.{key}": value
        for key, value in model.state_dict().items()
    }
    state["logit_scale"] = state["logit_scale"][None]
    other = CLIP(model.config)
    other.load_state_dict(state)
    assert same_bits(other.state_dict(), model.state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*text\.what"):
        other.load_state_dict({**state, "text.what": torch.zeros(1)})


def test_big_vision_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What we write, open_clip's reader of big_vision's `.npz` loads into the same model."""
    ours = make("siglip")
    foreign = from_native(ours.state_dict(), ours.config, "clipa")
    np.savez(tmp_path / "w.npz", **{f"params/{k}": v.numpy() for k, v in foreign.items()})
    theirs = their_siglip(monkeypatch)
    open_clip.convert.load_big_vision_weights(theirs, str(tmp_path / "w.npz"))
    assert same_bits(from_native(ours.state_dict(), ours.config, "open-clip"), theirs.state_dict())
    assert same_bits(to_native(read_weights(tmp_path / "w.npz"), ours.config), ours.state_dict())


# --- CoreNet's towers, computed here from the names of its tensors


def corenet_encoder(x: Tensor, p: dict[str, Tensor], name: str, heads: int, eps: float) -> Tensor:
    causal = name.startswith("text")
    for index in range(2):
        mha, ffn = (
            f"{name}.transformer.{index}.pre_norm_mha",
            f"{name}.transformer.{index}.pre_norm_ffn",
        )
        width = (x.shape[-1],)
        y = F.layer_norm(x, width, p[f"{mha}.0.weight"], p[f"{mha}.0.bias"], eps)
        y = F.linear(y, p[f"{mha}.1.qkv_proj.weight"], p[f"{mha}.1.qkv_proj.bias"])
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in y.chunk(3, dim=-1)
        )
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        if causal:
            scores = scores + torch.full_like(scores, -torch.inf).triu(1)
        y = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = x + F.linear(y, p[f"{mha}.1.out_proj.weight"], p[f"{mha}.1.out_proj.bias"])
        y = F.layer_norm(x, width, p[f"{ffn}.0.weight"], p[f"{ffn}.0.bias"], eps)
        y = F.gelu(F.linear(y, p[f"{ffn}.1.weight"], p[f"{ffn}.1.bias"]))
        x = x + F.linear(y, p[f"{ffn}.4.weight"], p[f"{ffn}.4.bias"])
    return x


@pytest.mark.parametrize("size", [64, 96])
def test_corenet_towers(size: int) -> None:
    ours = make("corenet").double()
    p = from_native(ours.state_dict(), ours.config, "corenet")
    _, tokens = inputs(ours.config)
    images = torch.randn(4, 3, size, size, dtype=torch.float64)
    x, stem = images, "image_encoder.patch_emb"
    for index, stride in enumerate((4, 2)):
        x = F.conv2d(x, p[f"{stem}.{index}.block.conv.weight"], stride=stride)
        parts = ("running_mean", "running_var", "weight", "bias")
        x = F.gelu(F.batch_norm(x, *(p[f"{stem}.{index}.block.norm.{part}"] for part in parts)))
    x = F.conv2d(x, p[f"{stem}.2.block.conv.weight"], p[f"{stem}.2.block.conv.bias"], stride=2)
    x = x.flatten(2).transpose(1, 2)
    table = p["image_encoder.pos_embed.pos_embed.pos_embed"]
    x = x + F.interpolate(table, size=(x.shape[1], 128), mode="bilinear")[0]
    x = torch.cat([p["image_encoder.cls_token"].expand(4, 1, 128), x], dim=1)
    x = corenet_encoder(x, p, "image_encoder", 4, 1e-6)
    post = "image_encoder.post_transformer_norm"
    x = F.layer_norm(x, (128,), p[f"{post}.weight"], p[f"{post}.bias"], 1e-6)
    image = x[:, 0] @ p["image_encoder.classifier.proj"]
    x = F.embedding(tokens, p["text_encoder.embedding_layer.weight"])
    x = x + p["text_encoder.positional_embedding.pos_embed.pos_embed"][0]
    x = corenet_encoder(x, p, "text_encoder", 2, 1e-5)
    last = "text_encoder.final_layer_norm"
    x = F.layer_norm(x, (16,), p[f"{last}.weight"], p[f"{last}.bias"])
    text = x[torch.arange(4), tokens.argmax(-1)] @ p["text_encoder.projection_layer"]
    with torch.no_grad():
        assert_close(ours.encode_image(images), image)
        assert_close(ours.encode_text(tokens), text)


def test_the_augmentor_of_corenet_is_dropped() -> None:
    ours = make("corenet")
    foreign = from_native(ours.state_dict(), ours.config, "corenet")
    foreign["image_encoder.neural_augmentor.brightness._low"] = torch.tensor(0.5)
    assert same_bits(to_native(foreign, ours.config), ours.state_dict())


# --- what does not convert


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "img/cls",
            torch.zeros(24),
            r"img/cls cannot be converted: its shape is \(24,\), expected 2 leading",
        ),
        ("img/head/extra", torch.zeros(1), "unknown tensors: img/head/extra"),
        ("img/embedding/kernel", torch.zeros(3, 3), "img/embedding/kernel cannot be converted"),
    ],
)
def test_misshapen_tensors_are_named(key: str, value: Tensor, words: str) -> None:
    ours = make("clipa")
    foreign = from_native(ours.state_dict(), ours.config, "clipa")
    with pytest.raises(CheckpointError, match=words):
        to_native({**foreign, key: value}, ours.config)


def test_joined_parts_must_divide() -> None:
    ours = make("clip")
    state = dict(ours.state_dict())
    state["transformer.resblocks.0.attn.in_proj_weight"] = torch.zeros(47, 16)
    with pytest.raises(ConfigError, match="47 rows, which 3 does not divide"):
        from_native(state, ours.config, "hugging-face")
