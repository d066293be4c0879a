"""Checks that the device computes what the CPU computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from clip_models import CLIP, CLIPConfig, get_config
from dtp_pooling import pool, unpool
from torch import Tensor
from torch.nn.functional import normalize

from clip_train.gpu_check.figures import Figure
from clip_train.gpu_check.setting import Setting, random_pairs, relative_difference, small_models
from clip_train.objectives.losses import contrastive_loss, sigmoid_loss

SINGLE_LIMIT = 1e-4
HALF_FEATURES_LIMIT, HALF_GRADIENTS_LIMIT = 0.03, 0.15
NAMED = ("ViT-B-32", "ViT-B-16-SigLIP", "RN50")


def _features_and_gradients(
    model: CLIP, images: Tensor, tokens: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    features = [
        normalize(model.encode_image(images).float()),
        normalize(model.encode_text(tokens).float()),
    ]
    products = [(x * x.roll(1, 0).detach()).sum() for x in features]
    torch.autograd.backward(products)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return features, gradients


def _vector_difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """|found - expected| / |expected| in the Euclidean norm, of all gradients as one vector."""
    ours, theirs = (
        torch.cat([x.double().cpu().flatten() for x in some]) for some in (found, expected)
    )
    return float((ours - theirs).norm() / theirs.norm())


def check_towers(setting: Setting) -> Iterator[Figure]:
    """Features and gradients of every family, in float32 and under bfloat16 autocast."""
    models = small_models()
    if not setting.is_small:
        models |= {name: get_config(name) for name in NAMED}
    for name, config in models.items():
        yield from _compare_model(setting, name, config)


def _compare_model(setting: Setting, name: str, config: CLIPConfig) -> Iterator[Figure]:
    torch.manual_seed(0)
    there = CLIP(config).eval()
    here = copy.deepcopy(there).to(setting.device)
    half = copy.deepcopy(here)
    images, tokens = random_pairs(config, 4)
    expected, slopes = _features_and_gradients(there, images, tokens)
    images, tokens = images.to(setting.device), tokens.to(setting.device)
    found, own_slopes = _features_and_gradients(here, images, tokens)
    yield Figure(
        what=f"{name}: features, float32",
        value=relative_difference(found, expected),
        limit=SINGLE_LIMIT,
    )
    yield Figure(
        what=f"{name}: gradients, float32",
        value=_vector_difference(own_slopes, slopes),
        limit=SINGLE_LIMIT,
    )
    with setting.autocast():
        found, own_slopes = _features_and_gradients(half, images, tokens)
    yield Figure(
        what=f"{name}: features, bfloat16",
        value=relative_difference(found, expected),
        limit=HALF_FEATURES_LIMIT,
    )
    yield Figure(
        what=f"{name}: gradients, bfloat16",
        value=_vector_difference(own_slopes, slopes),
        limit=HALF_GRADIENTS_LIMIT,
        note="of all gradients as one vector",
    )


def check_packing(setting: Setting) -> Iterator[Figure]:
    """A caption's feature does not depend on the captions beside it, short or long."""
    config = small_models()["ViT, class token"]
    torch.manual_seed(0)
    model = CLIP(config).eval().to(setting.device)
    tokens = random_pairs(config, 8)[1].to(setting.device)
    with torch.no_grad():
        together = model.encode_text(tokens)
        alone = torch.cat([model.encode_text(row[None]) for row in tokens])
    yield Figure(
        what="captions of different lengths in a batch against one at a time",
        value=relative_difference([together], [alone]),
        limit=SINGLE_LIMIT,
    )


def check_pooling(setting: Setting) -> Iterator[Figure]:
    """Pooling and its inverse by segments: values and gradients."""
    length, width = (64, 8) if setting.is_small else (4096, 256)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(4, length, width, generator=generator)
    boundaries = torch.rand(4, length, generator=generator) < 0.25

    def compute(device: torch.device) -> list[Tensor]:
        x = tokens.to(device).requires_grad_()
        pooled = pool(x, boundaries.to(device))
        back = unpool(pooled.values, pooled.segment_of)
        torch.autograd.backward((back * back).sum())
        return [pooled.values, back, x.grad]  # type: ignore[list-item]

    difference = relative_difference(compute(setting.device), compute(torch.device("cpu")))
    yield Figure(
        what=f"mean of segments and copies back, {length} tokens: values and gradients",
        value=difference,
        limit=SINGLE_LIMIT,
    )


def check_losses(setting: Setting) -> Iterator[Figure]:
    """Losses with and without tiles on the device, against the CPU."""
    batch = 64 if setting.is_small else 2048
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(batch, 64, generator=generator) for _ in range(2)]
    losses: dict[str, Callable[..., Tensor]] = {
        "InfoNCE": lambda images, texts, tile: contrastive_loss(
            images, texts, images.new_tensor(20.0), tile=tile
        ),
        "sigmoid": lambda images, texts, tile: sigmoid_loss(
            images, texts, images.new_tensor(10.0), images.new_tensor(-10.0), tile=tile
        ),
    }
    for name, loss in losses.items():
        for tile in (None, batch // 4):

            def compute(device: torch.device) -> list[Tensor]:
                parts = [x.to(device).requires_grad_() for x in features]
                value = loss(*(normalize(x) for x in parts), tile)  # noqa: B023
                torch.autograd.backward(value)
                return [value, *(x.grad for x in parts if x.grad is not None)]

            yield Figure(
                what=f"{name} of {batch} pairs, {'all at once' if tile is None else 'in tiles'}",
                value=relative_difference(compute(setting.device), compute(torch.device("cpu"))),
                limit=SINGLE_LIMIT,
                note="loss and gradients",
            )
