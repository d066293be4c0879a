"""Where and at which size the checks run, and how they measure."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from clip_models import CLIPConfig
from clip_models.config import (
    CompactResNetConfig,
    ModifiedResNetConfig,
    PatchReductionConfig,
    PoolingConfig,
    TextConfig,
    ViTConfig,
    WhitenedCNNConfig,
)
from torch import Tensor

MEASURED_SECONDS = 1.5


@dataclass(frozen=True)
class Setting:
    """What a check is given.

    Attributes:
        device: Of the tensors.
        is_small: Toy sizes, with which every check ends within seconds on a CPU.
        folder: For files that a check needs.
        cifar: A folder with CIFAR-10 as `train/CLASS/*` and `val/CLASS/*`, for the check that
            trains on it.
    """

    device: torch.device
    is_small: bool
    folder: Path
    cifar: Path | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether the device is one."""
        return self.device.type == "cuda"

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in bfloat16 where that is safe."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, *ways: Callable[[], object]) -> list[float]:
        """Median seconds of each way, measured in turn after two calls of each."""
        for way in (*ways, *ways):
            way()
        self.wait()
        times: list[list[float]] = [[] for _ in ways]
        end = time.perf_counter() + MEASURED_SECONDS * len(ways) * (not self.is_small)
        while not times[0] or (time.perf_counter() < end and len(times[0]) < 50):
            for way, found in zip(ways, times, strict=True):
                began = time.perf_counter()
                way()
                self.wait()
                found.append(time.perf_counter() - began)
        return [statistics.median(found) for found in times]

    def peak_bytes(self, way: Callable[[], object]) -> float | None:
        """Memory that a call needs beyond what is held; None on a CPU, which does not tell."""
        if not self.on_gpu:
            way()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        way()
        self.wait()
        return float(torch.cuda.max_memory_allocated(self.device) - before)


def relative_difference(found: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """Largest |found - expected| over the largest |expected| of the same tensor, of all tensors."""
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        wanted = theirs.detach().double().cpu()
        distance = (ours.detach().double().cpu() - wanted).abs().max().item()
        worst = max(worst, distance / max(wanted.abs().max().item(), 1e-6))
    return worst


def has_library(name: str) -> bool:
    """Whether a library for comparison is installed."""
    return importlib.util.find_spec(name) is not None


_TEXT = TextConfig(context_length=16, vocab_size=256, width=64, num_heads=2, num_layers=2)
_POOLING = PoolingConfig(name="dynamic", after_layer=1, args={"kind": "top_k", "rate": 0.5})


def small_vit(**values: object) -> ViTConfig:
    """A vision transformer of two layers."""
    sizes = {"image_size": 32, "patch_size": 8, "width": 64, "num_heads": 2, "num_layers": 2}
    return ViTConfig(**(sizes | values))  # type: ignore[arg-type]


def small_models() -> dict[str, CLIPConfig]:
    """One small model of every family of towers."""
    reduced = PatchReductionConfig(kind="grid", keep_ratio=0.25)
    towers: dict[str, ViTConfig | ModifiedResNetConfig | CompactResNetConfig | WhitenedCNNConfig]
    towers = {
        "ViT, class token": small_vit(),
        "ViT, sin-cos, average, grid of patches": small_vit(
            position="sin_cos", readout="patch_average", patch_reduction=reduced
        ),
        "ViT, attention pooling (SigLIP)": small_vit(class_token=False, readout="map"),
        "ViT, top-k token pooling": small_vit(pooling=_POOLING),
        "ModifiedResNet": ModifiedResNetConfig(
            image_size=64, layers=(1, 1, 1, 1), width=16, num_heads=2
        ),
        "compact ResNet": CompactResNetConfig(image_size=32, widths=(16, 32)),
        "whitened CNN": WhitenedCNNConfig(image_size=32, widths=(16, 32), stem="trained"),
    }
    return {
        name: CLIPConfig(embed_dim=32, vision=tower, text=_TEXT) for name, tower in towers.items()
    }


def random_pairs(config: CLIPConfig, batch: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S) and captions (B, T) of different lengths, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    size = config.vision.image_size
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.randn(batch, 3, height, width, generator=generator)
    text = config.text
    tokens = torch.zeros(batch, text.context_length, dtype=torch.long)
    for row, caption in enumerate(tokens):
        length = max(2, text.context_length - row % (text.context_length - 2))
        words = torch.randint(1, text.end_token_id - 1, (length - 1,), generator=generator)
        caption[: length - 1], caption[length - 1] = words, text.end_token_id
    return images, tokens
