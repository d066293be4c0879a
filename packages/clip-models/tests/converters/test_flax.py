"""Flax weights: CLIPA's towers, computed in numpy from the names of its arrays; layouts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_models import CLIP, CheckpointError, CLIPConfig, get_config
from clip_models.converters import from_native, to_native
from clip_models.files import build_model, read_weights
from torch import Tensor


def small(name: str, **vision: Any) -> CLIPConfig:
    """The registered model in all but its sizes."""
    config = get_config(name)
    sizes = {"width": 24, "num_layers": 2, "num_heads": 3, "mlp_ratio": 4.0}
    sizes |= {"image_size": 32, "patch_size": 8}
    text = {"context_length": 9, "vocab_size": 50, "width": 16, "num_layers": 2, "num_heads": 2}
    return dataclasses.replace(
        config,
        embed_dim=24,
        vision=dataclasses.replace(config.vision, **sizes, **vision),
        text=dataclasses.replace(config.text, mlp_ratio=4.0, **text),
    )


CLIPA = small("ViT-L-14-CL32-GAP-BigVision")
SIGLIP = small("ViT-B-16-SigLIP")


def state_of(config: CLIPConfig) -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = CLIP(config).state_dict()
    return {key: value + torch.rand_like(value) * 0.2 for key, value in state.items()}


def same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype
        for key in theirs
    )


# --- CLIPA's files and towers


def clipa_s_arrays() -> dict[str, Any]:
    """What CLIPA's training saves of a model of these sizes: no positions of the image."""
    shapes: dict[str, tuple[int, ...]] = {
        "img/embedding/kernel": (8, 8, 3, 24),
        "img/cls": (1, 1, 24),
        "img/head/kernel": (24, 24),
        "txt/Embed_0/embedding": (50, 16),
        "txt/pos_embedding": (1, 9, 16),
        "txt/head/kernel": (16, 24),
        "t": (1,),
    }
    for tower, width, heads in (("img", 24, 3), ("txt", 16, 2)):
        norms = [f"{tower}/encoder_norm"]
        for index in range(2):
            block = f"{tower}/Transformer/encoderblock_{index}"
            attention, mlp = f"{block}/MultiHeadDotProductAttention_0", f"{block}/MlpBlock_0"
            norms += [f"{block}/LayerNorm_0", f"{block}/LayerNorm_1"]
            for part in ("query", "key", "value"):
                shapes[f"{attention}/{part}/kernel"] = (width, heads, width // heads)
                shapes[f"{attention}/{part}/bias"] = (heads, width // heads)
            shapes[f"{attention}/out/kernel"] = (heads, width // heads, width)
            for dense, inside, out in (("0", width, 4 * width), ("1", 4 * width, width)):
                shapes[f"{mlp}/Dense_{dense}/kernel"] = (inside, out)
                shapes[f"{mlp}/Dense_{dense}/bias"] = (out,)
            shapes[f"{attention}/out/bias"] = (width,)
        shapes |= {f"{norm}/{part}": (width,) for norm in norms for part in ("scale", "bias")}
    draw = np.random.default_rng(0)
    arrays = {key: 0.3 * draw.standard_normal(shape) for key, shape in shapes.items()}
    return {
        f"params/{key}": (array + key.endswith("scale")).astype(np.float32)
        for key, array in arrays.items()
    }


def positions(side: int, width: int) -> Any:
    """big_vision's `posemb_sincos_2d` behind a row of zeros for the class token."""
    row, column = np.mgrid[:side, :side]
    frequencies = 10_000.0 ** -(np.arange(width // 4) / (width // 4 - 1))
    angles = [np.outer(place.flatten(), frequencies) for place in (column, row)]
    table = np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1)
    return np.concatenate([np.zeros((1, width)), table])[None]


def norm(x: Any, p: dict[str, Any], name: str) -> Any:
    """With the epsilon of the registered model, which is that of CLIPA's torch code."""
    x = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((x**2).mean(-1, keepdims=True) + CLIPA.vision.layer_norm_eps)
    return x / scale * p[f"{name}/scale"] + p[f"{name}/bias"]


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def encoder(x: Any, p: dict[str, Any], name: str, depth: int) -> Any:
    for index in range(depth):
        block = f"{name}/encoderblock_{index}"
        attention = f"{block}/MultiHeadDotProductAttention_0"
        y = norm(x, p, f"{block}/LayerNorm_0")
        query, key, value = (
            np.einsum("bld,dhk->bhlk", y, p[f"{attention}/{part}/kernel"])
            + p[f"{attention}/{part}/bias"][None, :, None]
            for part in ("query", "key", "value")
        )
        scores = np.exp(query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1]))
        mixed = scores / scores.sum(-1, keepdims=True) @ value
        x = x + np.einsum("bhlk,hkd->bld", mixed, p[f"{attention}/out/kernel"])
        x = x + p[f"{attention}/out/bias"]
        y, mlp = norm(x, p, f"{block}/LayerNorm_1"), f"{block}/MlpBlock_0"
        y = gelu(y @ p[f"{mlp}/Dense_0/kernel"] + p[f"{mlp}/Dense_0/bias"])
        x = x + y @ p[f"{mlp}/Dense_1/kernel"] + p[f"{mlp}/Dense_1/bias"]
    return x


def assert_close(ours: Tensor, theirs: Any) -> None:
    assert theirs.std() > 1e-3
    scale = np.linalg.norm(theirs, axis=-1, keepdims=True).clip(min=1)
    np.testing.assert_allclose(ours.numpy() / scale, theirs / scale, atol=1e-5, rtol=0)


def test_clipa_towers(tmp_path: Path) -> None:
    arrays = clipa_s_arrays()
    np.savez(tmp_path / "w.npz", **arrays)
    ours = build_model(read_weights(tmp_path / "w.npz"), CLIPA)
    p = {key.removeprefix("params/"): value.astype(np.float64) for key, value in arrays.items()}
    images, tokens = torch.randn(4, 3, 32, 32), torch.randint(0, 50, (4, 9))
    pixels = images.double().numpy().transpose(0, 2, 3, 1).reshape(4, 4, 8, 4, 8, 3)
    patches = np.einsum("brpcqx,pqxd->brcd", pixels, p["img/embedding/kernel"]).reshape(4, 16, 24)
    x = np.concatenate([np.broadcast_to(p["img/cls"], (4, 1, 24)), patches], axis=1)
    x = encoder(x + positions(4, 24), p, "img/Transformer", 2)
    image = norm(x[:, 1:].mean(1), p, "img/encoder_norm") @ p["img/head/kernel"]
    x = p["txt/Embed_0/embedding"][tokens.numpy()] + p["txt/pos_embedding"]
    x = norm(encoder(x, p, "txt/Transformer", 2), p, "txt/encoder_norm")
    text = x[:, -1] @ p["txt/head/kernel"]
    with torch.no_grad():
        assert_close(ours.encode_image(images), image)
        assert_close(ours.encode_text(tokens), text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_computed_positions_are_not_written(dtype: torch.dtype) -> None:
    arrays = clipa_s_arrays()
    plain = {key.removeprefix("params/"): torch.from_numpy(arrays[key]).to(dtype) for key in arrays}
    native = to_native(plain, CLIPA)
    assert native["visual.positional_embedding"].dtype == dtype
    assert same_bits(from_native(native, CLIPA, "clipa"), plain)
    native["visual.positional_embedding"] = native["visual.positional_embedding"] + 1
    written = from_native(native, CLIPA, "clipa")
    assert set(written) - set(plain) == {"img/pos_embedding"}
    assert same_bits(to_native(written, CLIPA), native)


def test_learned_positions_must_be_there() -> None:
    foreign = from_native(state_of(SIGLIP), SIGLIP, "clipa")
    del foreign["img/pos_embedding"]
    with pytest.raises(CheckpointError, match=r"missing visual\.positional_embedding"):
        build_model(foreign, SIGLIP)


# --- other layouts


def test_the_map_readout_may_have_other_heads() -> None:
    config = small("ViT-B-16-SigLIP", map_num_heads=1, map_mlp_width=10)
    state = state_of(config)
    foreign = from_native(state, config, "clipa")
    query = "img/MAPHead_0/MultiHeadDotProductAttention_0/query/kernel"
    assert foreign[query].shape == (24, 1, 24)
    assert same_bits(to_native(foreign, config), state)


def test_scanned_layers() -> None:
    """Flax may stack the arrays of all layers."""
    state = state_of(CLIPA)
    foreign = from_native(state, CLIPA, "clipa")
    stacked: dict[str, Tensor] = {}
    for key, value in foreign.items():
        if "encoderblock_0/" in key:
            both = [value, foreign[key.replace("encoderblock_0", "encoderblock_1")]]
            stacked[key.replace("encoderblock_0", "encoderblock")] = torch.stack(both)
        elif "encoderblock_1/" not in key:
            stacked[key] = value
    assert same_bits(to_native(stacked, CLIPA), state)


def test_heads_must_be_those_of_the_config() -> None:
    foreign = from_native(state_of(CLIPA), CLIPA, "clipa")
    vision = dataclasses.replace(CLIPA.vision, num_heads=2)
    with pytest.raises(CheckpointError, match="it has 3 heads, the config 2"):
        to_native(foreign, dataclasses.replace(CLIPA, vision=vision))
