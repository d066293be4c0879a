"""Cost of a model: parameters, operations, latency. B batch, T tokens, H and W pixels."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_models.model import count_parameters
from PIL import Image
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clip_eval.encoding.encoder import Encoder
from clip_eval.models.protocols import evaluation_mode

CAPTION = "a photo of a small brown dog playing on the beach."
PERCENTILES = (50, 90, 99)


def measure_cost(
    encoder: Encoder, *, batch_sizes: Sequence[int] = (1, 32), repeats: int = 10, warmup: int = 2
) -> dict[str, Any]:
    """Measure parameters, operations per image and per caption, and the latency of both towers.

    Operations are twice the multiply-adds of matrix products and convolutions
    (`torch.utils.flop_counter`); latency is of the forward pass without decoding.

    Args:
        encoder: The model.
        batch_sizes: Images, and captions, per forward pass.
        repeats: Measured forward passes per batch size.
        warmup: Forward passes before the measured ones.
    """
    model = encoder.model
    pixels = encoder.preprocess(Image.new("RGB", (640, 480), (90, 120, 150)))[None]
    tokens = encoder.tokenizer([CAPTION])

    def images(batch: int) -> Callable[[], object]:
        own = pixels.expand(batch, *pixels.shape[1:]).contiguous().to(encoder.device)
        return lambda: encoder.encode_images(own)

    def texts(batch: int) -> Callable[[], object]:
        own = tokens.expand(batch, -1).contiguous().to(encoder.device)
        return lambda: model.encode_text(own)

    with evaluation_mode(model), torch.no_grad():
        return {
            "parameters": count_parameters(model) if isinstance(model, nn.Module) else None,
            "image_flops": count_flops(images(1)),
            "text_flops": count_flops(texts(1)),
            "input_pixels": list(pixels.shape[2:]),
            "device": device_name(encoder.device),
            "threads": torch.get_num_threads(),
            "precision": encoder.precision,
            "image_latency": _latencies(images, batch_sizes, repeats, warmup, encoder.device),
            "text_latency": _latencies(texts, batch_sizes, repeats, warmup, encoder.device),
        }


def count_flops(forward: Callable[[], object]) -> int:
    """Count the operations of the matrix products and convolutions of a forward pass."""
    with sdpa_kernel(SDPBackend.MATH), _no_fast_path(), FlopCounterMode(display=False) as counter:
        forward()
    return int(counter.get_total_flops())


def device_name(device: torch.device) -> str:
    """Return the product name of a device."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "cpu":
        return _processor()
    return device.type


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _latencies(
    forward: Callable[[int], Callable[[], object]],
    batch_sizes: Sequence[int],
    repeats: int,
    warmup: int,
    device: torch.device,
) -> list[dict[str, float | int]]:
    """Measure milliseconds per forward pass at each batch size, and rows per second."""
    found = []
    for batch in batch_sizes:
        call = forward(batch)
        times = []
        for turn in range(warmup + repeats):
            started = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn >= warmup:
                times.append(1000 * (time.perf_counter() - started))
        values = np.percentile(times, PERCENTILES).tolist()
        row = {f"p{p}_ms": round(v, 4) for p, v in zip(PERCENTILES, values, strict=True)}
        found.append(
            {"batch": batch, "repeats": repeats, **row, "per_second": 1000 * batch / values[0]}
        )
    return found


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Switch off torch's fused attention, which the FLOP counter does not know."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
