"""Which tower is exported by what, with which sizes left open: the table in docs/export.md.

Every tower is exported with all sizes declared open, from an example of one image or caption, with
trainable weights and gradients enabled; the graph then runs with three batch sizes and three image
sizes or caption lengths and is compared with the tower.  Needs onnx, onnxruntime, onnxscript and,
for pooled towers, dtp-pooling:

    python packages/clip-models/scripts/make_export_table.py
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from clip_models import CLIP, CLIPConfig
from clip_models.config import (
    CompactResNetConfig,
    ModifiedResNetConfig,
    PatchReductionConfig,
    PoolingConfig,
    TextConfig,
    ViTConfig,
)
from clip_models.graphs import ImageEncoder, TextEncoder
from torch import Tensor, nn

PAGE = Path(__file__).parents[1] / "docs" / "export.md"
BEGIN = "<!-- table of exporters: scripts/make_export_table.py -->"
END = "<!-- end of the table -->"

SMALL: dict[str, Any] = {"width": 32, "num_layers": 3, "num_heads": 2}
VIT = ViTConfig(image_size=32, patch_size=8, **SMALL)
MAP = dataclasses.replace(VIT, class_token=False, readout="map", pre_norm=False)
TEXT = TextConfig(context_length=16, vocab_size=30, **SMALL)
LAST = dataclasses.replace(TEXT, causal=False, readout="last", projection="linear_bias")
CUT: dict[str, Any] = {"num_heads": (1, 2, 1), "head_width": (16, 8, 4), "mlp_width": (7, 9, 40)}


def pooled(kind: str, **settings: object) -> PoolingConfig:
    """A pooling of dtp-pooling after the first layer."""
    return PoolingConfig(name="dynamic", after_layer=1, args={"kind": kind, **settings})


IMAGE_TOWERS: dict[str, Any] = {
    "ViT": VIT,
    "ViT, computed positions, average": dataclasses.replace(
        VIT, position="sin_cos", readout="average"
    ),
    "ViT of CoreNet": dataclasses.replace(
        VIT, image_size=64, patch_size=16, stem="conv", position_interpolation="flattened"
    ),
    "ViT, cut layer by layer": dataclasses.replace(VIT, **CUT),
    "ViT, trained on part of the patches": dataclasses.replace(
        VIT, patch_reduction=PatchReductionConfig(keep_ratio=0.5)
    ),
    "SigLIP": MAP,
    "ModifiedResNet": ModifiedResNetConfig(
        image_size=64, layers=(1, 1, 1, 1), width=8, num_heads=4
    ),
    "compact ResNet": CompactResNetConfig(image_size=32, widths=(4, 8)),
    "compact ResNet, flattened": CompactResNetConfig(
        image_size=32, widths=(4, 8), pooling="flatten"
    ),
    "ViT, pooled `top_k`": dataclasses.replace(VIT, pooling=pooled("top_k", rate=0.5)),
    "ViT, pooled `fixed`": dataclasses.replace(VIT, pooling=pooled("fixed", rate=0.5)),
    "ViT, pooled `dissimilarity`": dataclasses.replace(
        VIT, pooling=pooled("dissimilarity", rate=0.5, proportional=True)
    ),
    "SigLIP, pooled `top_k`": dataclasses.replace(MAP, pooling=pooled("top_k", rate=0.5)),
}
TEXT_TOWERS: dict[str, Any] = {
    "text of CLIP": TEXT,
    "text, end token by id": dataclasses.replace(TEXT, eot_token_id=29),
    "text, cut layer by layer": dataclasses.replace(TEXT, **CUT),
    "text of SigLIP": LAST,
    "text, pooled `gumbel`": dataclasses.replace(TEXT, pooling=pooled("gumbel", rate=0.5)),
    "text, pooled `fixed`": dataclasses.replace(TEXT, pooling=pooled("fixed", rate=0.5)),
}
TOWERS = {**IMAGE_TOWERS, **TEXT_TOWERS}

POOLED = tuple(name for name in TOWERS if "pooled" in name)
REASONS: dict[int, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    1: (
        ("compact ResNet, flattened",),
        (
            "`torch.export`",
            "`torch.export` strict",
            "`torch.jit.trace`",
            "ONNX",
            "ONNX, older exporter",
        ),
        "The last layer has weights for each place of the map, so that there is one image size, "
        "in torch too.",
    ),
    2: (
        POOLED,
        ("ONNX, older exporter",),
        "torch no longer develops this exporter: it lacks operators of the pooling (`atanh`), or "
        "translates them to others (the features differ). `torch.onnx.export(…, dynamo=True)` has "
        "them.",
    ),
}
"""Why a size is not open, by number: towers, exporters and the reason."""

Graph = Callable[[Tensor], Tensor]


def make_encoder(tower: str) -> nn.Module:
    """The tower as a module of one tensor, with the same weights every time."""
    torch.manual_seed(0)
    config = TOWERS[tower]
    is_text = isinstance(config, TextConfig)
    vision, text = (VIT, config) if is_text else (config, TEXT)
    model = CLIP(CLIPConfig(embed_dim=24, vision=vision, text=text)).eval()
    return TextEncoder(model) if is_text else ImageEncoder(model)


def make_input(tower: str, batch: int, size: int) -> Tensor:
    """Input of `batch` rows; size 0 is the configured one, 1 and 2 are others."""
    config = TOWERS[tower]
    generator = torch.Generator().manual_seed(100 * batch + size)
    if not isinstance(config, TextConfig):
        side = config.image_size
        height, width = [(side, side), (2 * side, side), (side + side // 2, 2 * side)][size]
        return torch.randn(batch, 3, height, width, generator=generator)
    length = (config.context_length, config.context_length // 2, 5)[size]
    tokens = torch.randint(1, config.vocab_size - 1, (batch, length), generator=generator)
    for row in range(batch):
        end = length - 1 - row % 3
        tokens[row, end] = config.vocab_size - 1
        tokens[row, end + 1 :] = 0
    return tokens


def axes(tower: str) -> dict[str, tuple[int, ...]]:
    """The dimensions of the input that may be open, by name."""
    if isinstance(TOWERS[tower], TextConfig):
        return {"batch": (0,), "caption length": (1,)}
    return {"batch": (0,), "image size": (2, 3)}


def export_torch(module: nn.Module, example: Tensor, dims: tuple[int, ...], strict: bool) -> Graph:
    """`torch.export`, run by torch."""
    shapes = (dict.fromkeys(dims, torch.export.Dim.DYNAMIC),)
    # torch.export takes a batch of one for fixed
    example = torch.cat([example, example])
    torch._dynamo.reset()
    program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=strict)
    return program.module()


def trace(module: nn.Module, example: Tensor, _: tuple[int, ...]) -> Graph:
    """`torch.jit.trace`, which leaves open what it can."""
    return torch.jit.trace(module, example, check_trace=False)


def export_onnx(module: nn.Module, example: Tensor, dims: tuple[int, ...], dynamo: bool) -> Graph:
    """`torch.onnx.export`, run by onnxruntime."""
    names = {dim: f"axis_{dim}" for dim in dims}
    if dynamo:
        shapes: dict[str, Any] = {
            "dynamic_shapes": (dict.fromkeys(dims, torch.export.Dim.DYNAMIC),)
        }
    else:
        shapes = {"dynamic_axes": {"x": names, "y": {0: "axis_0"}} if 0 in dims else {"x": names}}
    file = io.BytesIO()
    torch.onnx.export(
        module,
        (example,),
        file,
        dynamo=dynamo,
        input_names=["x"],
        output_names=["y"],
        verbose=False,
        **({"external_data": False} if dynamo else {"opset_version": 18}),
        **shapes,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(file.getvalue(), options)
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


EXPORTERS: dict[str, Callable[[nn.Module, Tensor, tuple[int, ...]], Graph]] = {
    "`torch.export`": lambda m, x, dims: export_torch(m, x, dims, strict=False),
    "`torch.export` strict": lambda m, x, dims: export_torch(m, x, dims, strict=True),
    "`torch.jit.trace`": trace,
    "ONNX": lambda m, x, dims: export_onnx(m, x, dims, dynamo=True),
    "ONNX, older exporter": lambda m, x, dims: export_onnx(m, x, dims, dynamo=False),
}


def try_sizes(tower: str, exporter: str, dims: tuple[int, ...]) -> str:
    """Empty if the graph is right with all sizes of `dims`, else what went wrong."""
    module = make_encoder(tower)
    batches = (1, 3, 4) if 0 in dims else (1,)
    sizes = (0, 1, 2) if max(dims) else (0,)
    try:
        with quiet():
            graph = EXPORTERS[exporter](module, make_input(tower, 1, 0), dims)
            for batch in batches:
                for size in sizes:
                    x = make_input(tower, batch, size)
                    with torch.no_grad():
                        theirs, ours = graph(x), module(x)
                    error = (
                        float((theirs - ours).abs().max()) if theirs.shape == ours.shape else 9.0
                    )
                    if not error < 1e-4:
                        return f"batch {batch}, size {tuple(x.shape[1:])}: error {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def find_open_sizes(tower: str, exporter: str) -> tuple[str, ...]:
    """The names of the sizes that a graph of the tower leaves open, all together or each alone."""
    names = axes(tower)
    if not try_sizes(tower, exporter, tuple(dim for dims in names.values() for dim in dims)):
        return tuple(names)
    return tuple(name for name, dims in names.items() if not try_sizes(tower, exporter, dims))


def make_cell(tower: str, exporter: str) -> str:
    """What the table says: the open sizes, and the number of the reason why others are not."""
    found = find_open_sizes(tower, exporter)
    cell = ", ".join(found) or "–"
    if len(found) == len(axes(tower)):
        return cell
    number = next(
        (n for n, (towers, kinds, _) in REASONS.items() if tower in towers and exporter in kinds),
        "no reason is known",
    )
    return f"{cell} [{number}]"


def make_row(tower: str) -> str:
    """The line of the table."""
    return f"| {' | '.join([tower, *(make_cell(tower, exporter) for exporter in EXPORTERS)])} |"


def make_table() -> str:
    """The whole table with its reasons."""
    head = f"| tower | {' | '.join(EXPORTERS)} |\n|{'---|' * (len(EXPORTERS) + 1)}"
    rows = []
    for tower in TOWERS:
        rows.append(make_row(tower))
        print(rows[-1], flush=True)
    reasons = "\n".join(f"{number}. {reason}" for number, (_, _, reason) in REASONS.items())
    return "\n".join([head, *rows, "", reasons, ""])


def main() -> None:
    """Write the table into the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{make_table()}\n{END}{after}", encoding="utf-8")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings and progress of exporters."""
    logging.disable(logging.CRITICAL)
    sink = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(sink):
                yield
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__main__":
    main()
