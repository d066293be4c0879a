"""Exported graphs held against their towers, over batch sizes, image sizes and caption lengths."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.towers import CompactResNetConfig
from clip_models.errors import CheckpointError
from clip_models.graphs.encoders import TextEncoder
from clip_models.model.clip import CLIP

TOLERANCE = 1e-4
"""Largest difference of a number of a normalized feature."""
BATCH_SIZES = (1, 2, 3)


def check_graph(encoder: nn.Module, path: str | Path) -> float:
    """The largest difference of a number between the features of a graph and those of its tower.

    Raises:
        CheckpointError: It is above 1e-4, or the graph does not take a size.
    """
    path = Path(path)
    run, largest = load_graph(path), 0.0
    for x in make_inputs(encoder):
        with torch.no_grad():
            ours = encoder(x)
        sizes = " x ".join(map(str, x.shape))
        try:
            theirs = run(x)
        except Exception as error:  # whatever a runtime raises
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"{path.name} fails at an input of {sizes}: {reason}") from None
        difference = float((theirs - ours).abs().max())
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"{path.name} differs from the tower by {difference:.1e} at an input of {sizes}, "
                f"expected at most {TOLERANCE:.0e}; nothing was written"
            )
        largest = max(largest, difference)
    return largest


def load_graph(path: str | Path) -> Callable[[Tensor], Tensor]:
    """The function in a file that `export_model` wrote, by the runtime of its format.

    TorchScript and `.pt2` files are programs: load only your own.
    """
    path = Path(path)
    if path.suffix == ".pt2":
        program: Any = torch.export.load(path).module()
    elif path.suffix == ".pt":
        with quiet():
            program = torch.jit.load(path)  # type: ignore[no-untyped-call]
    else:
        import onnxruntime  # type: ignore[import-untyped]

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return program(x)

    return run


def make_inputs(encoder: nn.Module) -> Iterator[Tensor]:
    """Random inputs of three batch sizes and, of each, of three sizes."""
    model = encoder.model
    assert isinstance(model, CLIP)
    generator = torch.Generator().manual_seed(0)
    for batch in BATCH_SIZES:
        if isinstance(encoder, TextEncoder):
            yield from _make_tokens(model.config, batch, generator)
        else:
            for height, width in _image_sizes(model.config):
                yield torch.randn(batch, 3, height, width, generator=generator)


def _image_sizes(config: CLIPConfig) -> list[tuple[int, int]]:
    """The configured size and two others, one of them not square."""
    vision = config.vision
    (height, width), step = vision.image_sides, vision.smallest_image
    if isinstance(vision, CompactResNetConfig) and vision.pooling == "flatten":
        return [(height, width)]
    others = (height + step, width), (max(step, height - step), width + 2 * step)
    return [(height, width), *others]


def _make_tokens(config: CLIPConfig, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Ids (batch, T) of three lengths, with an end token where the tower reads one."""
    text = config.text
    for length in sorted({text.context_length, -(-text.context_length // 2), 3}):
        if length > text.context_length:
            continue
        end = text.vocab_size - 1 if text.eot_token_id is None else text.eot_token_id
        tokens = torch.randint(0, text.vocab_size, (batch, length), generator=generator)
        tokens[tokens == end] = 0
        for row in range(batch):
            tokens[row, max(0, length - 1 - row)] = end
        yield tokens


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks of exporters and runtimes on their own code."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
