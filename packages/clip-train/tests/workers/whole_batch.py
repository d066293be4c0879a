"""The same global batch on one process or several, in micro-batches or not: loss and gradients.

Run by `engine/test_gradients.py` in the process of the test (one rank, backend `single`: the
reference) and in the processes of a group.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from clip_models import CLIP, CLIPConfig, NativeImages
from clip_models.config import from_dict
from clip_train.distributed.factory import open_backend
from clip_train.distributed.protocol import Backend
from clip_train.distributed.single import SingleBackend
from clip_train.engine.gradients import WholeBatchGradient
from clip_train.model.towers import Towers
from clip_train.objectives.batch import Embeddings, StepInputs
from clip_train.objectives.candidates import Candidates, merge_candidates, separate_candidates
from clip_train.objectives.losses import contrastive_loss, distillation_loss, sigmoid_loss
from clip_train.plan.token_batches import share_work
from torch import Tensor

BATCH, TOKENS, VOCABULARY = 12, 6, 20
KINDS = ("infonce", "multi_positive", "sigmoid", "distillation")
CASES = [
    (kind, accumulation, tile)
    for kind, accumulation, tile in itertools.product(KINDS, (1, 4), (None, 3))
]
UNEVEN = [
    (kind, accumulation, tile)
    for kind, accumulation, tile in itertools.product(KINDS, (5,), (5, 100))
]
"""Micro-batches and tiles that divide nothing: some micro-batches of a rank are empty."""
CAPTION_NUMBERS = [0, 1, 0, 2, 3, 1, 4, 0, 5, 5, 6, 1]

MODEL: dict[str, Any] = {
    "embed_dim": 6,
    "init_logit_bias": -1.5,
    "vision": {
        "kind": "vit",
        "image_size": 8,
        "patch_size": 2,
        "width": 8,
        "num_layers": 2,
        "num_heads": 2,
    },
    "text": {
        "context_length": TOKENS,
        "vocab_size": VOCABULARY,
        "width": 8,
        "num_layers": 1,
        "num_heads": 2,
    },
}

GRIDS = (
    *((4, 4), (1, 7), (5, 2), (3, 3), (5, 2), (6, 1)),
    *((1, 1), (2, 2), (7, 2), (1, 3), (4, 4), (2, 5)),
)

VARIANTS: dict[str, dict[str, Any]] = {
    "native": {"native": True, "patch_reduction": {"kind": "random", "keep_ratio": 0.5}},
    "dropping": {"patch_reduction": {"kind": "random", "keep_ratio": 0.5}},
    "pooling": {
        "patch_reduction": {"kind": "random", "keep_ratio": 0.75},
        "pooling": {
            "name": "dynamic",
            "after_layer": 1,
            "args": {"kind": "gumbel", "rate": 0.5, "hidden": 8},
        },
    },
}


def make_model(variant: str) -> CLIP:
    torch.manual_seed(0)
    values = {**MODEL, "vision": {**MODEL["vision"], **VARIANTS[variant]}}
    return CLIP(from_dict(CLIPConfig, values)).double()


def global_batch(merge: bool) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Images, tokens of all captions, teacher features of both, and caption numbers."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 3, 8, 8, generator=generator, dtype=torch.float64)
    captions = CAPTION_NUMBERS if merge else list(range(BATCH))
    tokens = torch.randint(1, VOCABULARY - 1, (BATCH, TOKENS), generator=generator)
    tokens[:, -1] = VOCABULARY - 1
    teacher = torch.randn(2 * BATCH, 5, generator=generator, dtype=torch.float64)
    return images, tokens, torch.nn.functional.normalize(teacher, dim=1), captions


def native_images() -> NativeImages:
    """A batch of images of their own shape."""
    generator = torch.Generator().manual_seed(2)
    pixels = [
        torch.randn(3, 2 * rows, 2 * columns, generator=generator, dtype=torch.float64)
        for rows, columns in GRIDS
    ]
    return NativeImages.from_images(pixels, 2)


def local_inputs(
    backend: Backend, merge: bool, *, native: bool = False
) -> tuple[StepInputs, tuple[Tensor, Tensor]]:
    """This rank's part, with its texts distinct if captions are merged; the teacher's features.

    Ranks have equally many squares, or images of their own shape with about equally many patches.
    """
    images: Any
    images, tokens, teacher, captions = global_batch(merge)
    size = BATCH // backend.world_size
    mine = slice(backend.rank * size, (backend.rank + 1) * size)
    if native:
        images = native_images()
        mine = share_work(np.array(images.counts), backend.world_size)[backend.rank]
    distinct = list(dict.fromkeys(captions[mine]))
    caption_of = torch.tensor([distinct.index(caption) for caption in captions[mine]])
    local_tokens = tokens[distinct]
    candidates = (
        merge_candidates(local_tokens, caption_of, backend)
        if merge
        else separate_candidates(caption_of, backend)
    )
    keys = torch.arange(BATCH) * 7919 + 1
    inputs = StepInputs(images[mine], local_tokens, keys[mine], keys[distinct], candidates)
    return inputs, (teacher[:BATCH][mine], teacher[BATCH:][distinct])


def objective(kind: str, tile: int | None, teacher: tuple[Tensor, Tensor], backend: Backend) -> Any:
    others = {"tile": tile, "communicator": backend}

    def losses(embeddings: Embeddings, candidates: Candidates) -> dict[str, Tensor]:
        images, texts, scale, bias = embeddings
        if kind == "sigmoid":
            assert bias is not None
            loss = sigmoid_loss(images, texts, scale, bias, candidates, **others)
        elif kind == "distillation":
            temperature = torch.tensor(8.0, dtype=torch.float64)
            given = (images, texts, scale, *teacher, temperature, candidates)
            loss = distillation_loss(*given, **others)
        else:
            loss = contrastive_loss(images, texts, scale, candidates, label_smoothing=0.1, **others)
        return {kind: loss}

    return losses


def gradients_of(
    model: CLIP, step: WholeBatchGradient, backend: Backend, case: tuple[str, int, int | None]
) -> dict[str, Tensor]:
    """The loss and every parameter's gradient, whole."""
    kind, accumulation, tile = case
    merge = kind in ("multi_positive", "distillation")
    inputs, teacher = local_inputs(backend, merge, native=model.config.vision.native)
    model.zero_grad(set_to_none=True)
    step.grad_accum_steps = accumulation
    losses = step.compute(inputs, objective(kind, tile, teacher, backend))
    found = {"loss": backend.all_reduce(losses[kind])}
    for name, parameter in model.named_parameters():
        missing = parameter.grad is None
        found[name] = (
            torch.zeros(parameter.shape, dtype=parameter.dtype)
            if missing
            else backend.full_tensor(parameter.grad).clone()
        )
    return found


def run(
    name: str, variant: str = "dropping", cases: list[Any] = CASES
) -> dict[Any, dict[str, Any]]:
    """Everything that the cases ask for, as NumPy arrays."""
    if name == "single":
        backend: Backend = SingleBackend(torch.device("cpu"))
    else:
        backend = open_backend(name, torch.device("cpu"), timeout_s=300)
    model = make_model(variant).train()
    model.set_gradient_checkpointing(variant == "pooling")
    step = WholeBatchGradient(backend.wrap(Towers(model)), backend)
    found = {}
    for case in cases:
        values = gradients_of(model, step, backend, case)
        found[case] = {key: value.numpy() for key, value in values.items()}
    backend.close()
    return found


def main(names: list[str], **options: Any) -> list[dict[Any, dict[str, Any]]]:
    """`run` with every backend in turn."""
    return [run(name, **options) for name in names]
