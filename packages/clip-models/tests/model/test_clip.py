"""The model: shapes, known parameter counts, and what padding may not change."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from clip_models import CLIP, CLIPConfig, ConfigError, create_model, get_config, list_models
from clip_models.config import (
    CompactResNetConfig,
    ModifiedResNetConfig,
    TextConfig,
    ViTConfig,
    WhitenedCNNConfig,
)

TEXT = TextConfig(context_length=12, vocab_size=40, width=16, num_layers=2, num_heads=2)
TOWERS = {
    "vit": ViTConfig(image_size=32, patch_size=8, width=16, num_layers=2, num_heads=2),
    "modified_resnet": ModifiedResNetConfig(
        image_size=64, layers=(1, 1, 1, 1), width=8, num_heads=4
    ),
    "compact_max": CompactResNetConfig(image_size=32, widths=(4, 8, 8)),
    "compact_flatten": CompactResNetConfig(image_size=32, widths=(4, 8), pooling="flatten"),
    "whitened": WhitenedCNNConfig(image_size=32, widths=(4, 8, 8)),
}


def tiny(tower: str, **changes: object) -> CLIP:
    torch.manual_seed(0)
    config = CLIPConfig(embed_dim=8, vision=TOWERS[tower], text=TEXT)
    return CLIP(dataclasses.replace(config, **changes)).eval()


def tokens(*lengths: int) -> torch.Tensor:
    """Random rows that end with the end token (39) after `lengths` positions."""
    ids = torch.zeros(len(lengths), TEXT.context_length, dtype=torch.long)
    for row, length in zip(ids, lengths, strict=True):
        row[: length - 1] = torch.randint(1, 39, (length - 1,))
        row[length - 1] = 39
    return ids


@pytest.mark.parametrize("tower", TOWERS)
def test_features_have_the_embedding_width(tower: str) -> None:
    model = tiny(tower)
    size = model.config.vision.image_size
    output = model(torch.randn(3, 3, size, size), tokens(3, 5, 12))
    assert output.image_features.shape == output.text_features.shape == (3, 8)
    for features in (output.image_features, output.text_features):
        assert torch.allclose(features.norm(dim=1), torch.ones(3))
    assert output.logit_scale.item() == pytest.approx(1 / 0.07)
    assert output.logit_bias is None


@pytest.mark.parametrize("tower", TOWERS)
def test_every_parameter_gets_a_gradient(tower: str) -> None:
    model = tiny(tower).train()
    if tower == "modified_resnet":  # its blocks start as identities: wake the zeroed norms
        for name, parameter in model.named_parameters():
            if name.endswith("bn3.weight"):
                torch.nn.init.ones_(parameter)
    size = model.config.vision.image_size
    output = model(torch.randn(4, 3, size, size), tokens(3, 5, 12, 12))
    scores = output.logit_scale * output.image_features @ output.text_features.T
    (scores * torch.randn(4, 4)).sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    without = [name for name, p in trained.items() if p.grad is None or not p.grad.abs().sum() > 0]
    # A constant added to all keys cancels in the softmax: their bias alone may have none.
    assert without in ([], ["visual.attnpool.k_proj.bias"])


def test_padding_and_batch_mates_do_not_change_a_text_feature() -> None:
    model = tiny("vit").double()
    ids = tokens(3, 7, 12)
    together = model.encode_text(ids)
    for row, alone in zip(ids, together, strict=True):
        assert torch.allclose(model.encode_text(row[None]), alone[None], atol=1e-12)
    padded_otherwise = ids.clone()
    padded_otherwise[0, 3:] = 17
    assert torch.allclose(model.encode_text(padded_otherwise)[0], together[0], atol=1e-12)


def test_only_positions_up_to_each_end_token_are_computed() -> None:
    model = tiny("vit")
    seen: list[tuple[int, ...]] = []
    for block in model.transformer.resblocks:
        block.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    model.encode_text(tokens(3, 5))
    assert seen == [(8, 16), (2, 16)]  # the last layer computes the end tokens only


def test_text_feature_is_read_at_the_first_end_token() -> None:
    model = tiny("vit").double()
    once, twice = tokens(4), tokens(4)
    twice[:] = once
    twice[0, 6] = 39
    assert torch.allclose(model.encode_text(once), model.encode_text(twice), atol=1e-12)


def test_eot_token_id_can_be_given() -> None:
    text = dataclasses.replace(TEXT, eot_token_id=7)
    model = tiny("vit", text=text).double()
    ids = torch.tensor([[1, 7, 5, 5]])
    assert torch.allclose(model.encode_text(ids), model.encode_text(ids[:, :2]), atol=1e-12)


@pytest.mark.parametrize("tower", [*TOWERS, "map"])
def test_empty_batches(tower: str) -> None:
    vision = dataclasses.replace(TOWERS["vit"], readout="map")
    model = tiny(tower) if tower in TOWERS else tiny("vit", vision=vision)
    assert model.encode_text(torch.zeros(0, 12, dtype=torch.long)).shape == (0, 8)
    assert model.encode_image(torch.zeros(0, 3, 32, 32)).shape == (0, 8)


def test_computed_positions_are_where_the_weights_are() -> None:
    vision = dataclasses.replace(TOWERS["vit"], position="sin_cos")
    with torch.device("meta"):
        assert tiny("vit", vision=vision).encode_image(torch.zeros(2, 3, 32, 32)).is_meta


def test_logit_bias_exists_on_request() -> None:
    model = tiny("vit", init_logit_bias=-10.0)
    assert model(torch.randn(1, 3, 32, 32), tokens(3)).logit_bias.item() == -10.0


@pytest.mark.parametrize("shape", [(2, 3, 7, 32), (2, 1, 32, 32), (3, 32, 32)])
def test_wrong_image_shapes_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"sides of at least 8, got \("):
        tiny("vit").encode_image(torch.randn(shape))


def test_what_is_no_tensor_is_named() -> None:
    model = tiny("vit")
    with pytest.raises(TypeError, match=r"images must be a torch tensor .* got ndarray"):
        model(torch.zeros(1, 3, 32, 32).numpy(), tokens(3))
    with pytest.raises(TypeError, match=r"tokens must be a torch tensor \(B, T\), got list"):
        model(torch.zeros(1, 3, 32, 32), tokens(3).tolist())


@pytest.mark.parametrize("tower", TOWERS)
def test_images_that_are_not_normalized_are_named(tower: str) -> None:
    with pytest.raises(ValueError, match=r"got torch.uint8; Preprocess.normalize"):
        tiny(tower).encode_image(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dataclasses.replace(TEXT, vocab_size=0), "vocab_size must be a positive integer"),
        (
            lambda: dataclasses.replace(TEXT, context_length=0),
            "context_length must be a positive",
        ),
        (lambda: dataclasses.replace(TEXT, width=0), r"below 2\^31, got 0"),
        (lambda: dataclasses.replace(TEXT, width="16"), r"width must be a positive .*, got '16'"),
        (lambda: dataclasses.replace(TEXT, num_layers=10**9), "num_layers must be an integer from"),
        (lambda: dataclasses.replace(TEXT, mlp_ratio=1e30), "mlp_ratio must give at least one"),
        (lambda: dataclasses.replace(TEXT, layer_norm_eps="1"), "layer_norm_eps must be a posi"),
        (lambda: dataclasses.replace(TEXT, num_heads=[2, 2]), "integer or a tuple of them, got"),
        (lambda: dataclasses.replace(TEXT, mlp_ratio=-1.0), "mlp_ratio must give at least one"),
        (lambda: dataclasses.replace(TEXT, mlp_ratio=math.inf), "mlp_ratio must give at least one"),
        (
            lambda: dataclasses.replace(TOWERS["vit"], readout="map", map_num_heads=3),
            "got 16 and 3",
        ),
        (
            lambda: dataclasses.replace(TOWERS["vit"], readout="map", map_mlp_width=0),
            "map_mlp_width must be a positive integer below",
        ),
        (
            lambda: dataclasses.replace(TOWERS["vit"], readout="map", num_layers=0),
            "readout 'map' needs a layer",
        ),
        (lambda: CompactResNetConfig(image_size=0, widths=(4, 8)), "image_size must be a pos"),
        (lambda: CompactResNetConfig(image_size=30, widths=(4, 8)), "must be a multiple of 4"),
        (lambda: CompactResNetConfig(image_size=32, widths=(4, 0)), "widths must be positive"),
        (lambda: ModifiedResNetConfig(width=1), "width must be at least 2"),
        (lambda: CLIPConfig(embed_dim=0, vision=TOWERS["vit"], text=TEXT), "embed_dim must be a p"),
        (lambda: CLIPConfig(embed_dim=2**31, vision=TOWERS["vit"], text=TEXT), "got 2147483648"),
        (
            lambda: CLIPConfig(embed_dim=8, vision=None, text=TEXT),
            "vision must be the config of a tower, got None",
        ),
        (lambda: create_model(None), "model must be a name, .*, got None"),
    ],
)
def test_impossible_sizes_are_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_flattened_maps_have_one_size() -> None:
    with pytest.raises(ValueError, match="reads images of 32 x 32, got"):
        tiny("compact_flatten").encode_image(torch.randn(1, 3, 32, 40))


@pytest.mark.parametrize("tower", ["vit", "modified_resnet", "compact_max", "whitened"])
@pytest.mark.parametrize("size", [(32, 32), (96, 64), (75, 50)])
def test_images_of_any_size(tower: str, size: tuple[int, int]) -> None:
    features = tiny(tower).encode_image(torch.randn(2, 3, *size))
    assert features.shape == (2, 8)
    assert features.isfinite().all()


def test_too_long_text_is_named() -> None:
    for length in (0, 13):
        with pytest.raises(ValueError, match=rf"T from 1 to 12, got \(1, {length}\)"):
            tiny("vit").encode_text(torch.zeros(1, length, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32])
def test_tokens_are_integers_of_any_kind(dtype: torch.dtype) -> None:
    model, ids = tiny("vit"), tokens(3, 7)
    assert torch.equal(model.encode_text(ids.to(dtype)), model.encode_text(ids))
    assert model.trim_tokens(ids.to(dtype), multiple=1).shape == (2, 7)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (torch.tensor([[1, 40]]), "ids from 0 to 39, got 40; use the tokenizer"),
        (torch.tensor([[-1, 39]]), "ids from 0 to 39, got -1"),
        (torch.tensor([[1.0, 39.0]]), "must be integers, got torch.float32"),
    ],
)
def test_numbers_that_are_not_ids_are_named(ids: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny("vit").encode_text(ids)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        # Published: ViT-B/32 151 M, RN50 102 M; the CIFAR model 51,688,753.
        ("ViT-B-32", 151_277_313),
        ("ViT-B-16", 149_620_737),
        ("ViT-L-14", 427_616_513),
        ("RN50", 102_007_137),
        ("CIFAR-RN", 51_688_753),
    ],
)
def test_parameter_counts(name: str, total: int) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == total


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_registered_model_builds(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name).eval()
        size = model.config.vision.image_size
        text = torch.zeros(2, model.config.text.context_length, dtype=torch.long)
        output = model(torch.zeros(2, 3, size, size), text)
    features = (2, get_config(name).embed_dim)
    assert output.image_features.shape == output.text_features.shape == features


def test_a_subnet_is_a_plain_config() -> None:
    """Fewer heads and hidden units in a layer compute what the whole does with those at zero."""
    sizes = {"num_heads": (2, 1), "head_width": 8, "mlp_width": (64, 40)}
    whole = tiny("vit").double()
    config = dataclasses.replace(
        whole.config,
        vision=dataclasses.replace(whole.config.vision, **sizes),
        text=dataclasses.replace(whole.config.text, **sizes),
    )
    small, state = CLIP(config).double().eval(), whole.state_dict()
    for prefix in ("visual.transformer", "transformer"):
        layer = f"{prefix}.resblocks.1"
        for key, rows in ((f"{layer}.attn.in_proj_{x}", 3) for x in ("weight", "bias")):
            heads = state[key].unflatten(0, (rows, 2, 8))
            state[key] = heads[:, :1].flatten(0, 2)
        state[f"{layer}.attn.out_proj.weight"][:, 8:] = 0  # in place: in the whole model too
        state[f"{layer}.mlp.c_proj.weight"][:, 40:] = 0
        state[f"{layer}.attn.out_proj.weight"] = state[f"{layer}.attn.out_proj.weight"][:, :8]
        state[f"{layer}.mlp.c_proj.weight"] = state[f"{layer}.mlp.c_proj.weight"][:, :40]
        state[f"{layer}.mlp.c_fc.weight"] = state[f"{layer}.mlp.c_fc.weight"][:40]
        state[f"{layer}.mlp.c_fc.bias"] = state[f"{layer}.mlp.c_fc.bias"][:40]
    small.load_state_dict(state)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    ids = tokens(3, 12)
    assert torch.allclose(small.encode_image(images), whole.encode_image(images), atol=1e-12)
    assert torch.allclose(small.encode_text(ids), whole.encode_text(ids), atol=1e-12)


def test_mixed_precision() -> None:
    model, ids = tiny("vit"), tokens(3, 7, 12)
    images = torch.randn(3, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(images, ids)
    half = copy.deepcopy(model).bfloat16()
    pure = half(images.bfloat16(), ids)
    for output in (mixed, pure):
        for ours, exact in zip(output[:2], model(images, ids)[:2], strict=True):
            assert torch.allclose(ours.float(), exact, atol=0.05)


def test_configs_are_hashed_and_no_one_changes_the_registered() -> None:
    name = "ViT-B-16-SigLIP"
    config = get_config(name)
    assert hash(config) == hash(get_config(name))
    config.text.tokenizer.options["clean"] = "lower"
    assert get_config(name).text.tokenizer.options == {"clean": "canonicalize"}


def test_list_models_filters() -> None:
    assert list_models("ViT-L-14-336*") == ["ViT-L-14-336", "ViT-L-14-336-quickgelu"]
    assert set(list_models("RN*")) < set(list_models())
