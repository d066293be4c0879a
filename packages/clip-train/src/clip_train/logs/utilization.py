"""Use of the device by training: memory and model FLOPs utilization (MFU)."""

from __future__ import annotations

import resource
import time

import torch
from clip_models import CLIPConfig, NativeImages
from torch import Tensor

from clip_train.config.run import Config
from clip_train.cost.flops import pair_cost
from clip_train.distributed.protocol import Backend
from clip_train.objectives.batch import StepInputs

# Dense peak in 10^12 FLOP/s, from the makers' data sheets: fp32 as PyTorch computes it by default
# (without TF32), and bf16 or fp16 with fp32 accumulation.
PEAK_TFLOPS = {
    "H200": (67.0, 989.0),
    "H100": (67.0, 989.0),
    "A100": (19.5, 312.0),
    "L40S": (91.6, 362.0),
    "A10G": (31.2, 70.0),
    "L4": (30.3, 121.0),
    "V100": (15.7, 125.0),
    "T4": (8.1, 65.0),
}


class Utilization:
    """FLOPs of the model between two rows of metrics, relative to the peak of the devices.

    Recomputation to save memory does not count (PaLM, Chowdhery et al. 2022, appendix B), nor does
    padding that the text tower skips.
    """

    def __init__(self, config: Config, model: CLIPConfig, backend: Backend) -> None:
        self.model = model
        self.backend = backend
        self.peak = config.log.peak_tflops or known_peak_tflops(
            config.train.precision, backend.device
        )
        text = model.text
        ends = text.causal and text.readout == "end_token" and text.pooling is None
        self.packed = ends and not (config.train.compile or backend.needs_fixed_shapes)
        # By image size: FLOPs of a pair with half of the context, and of each further token.
        self._each: dict[int, tuple[float, float]] = {}
        self._flops = 0.0
        self._began = time.perf_counter()

    def add(self, inputs: StepInputs, captions: Tensor, samples: int) -> None:
        """Add one step.

        Args:
            inputs: Inputs of this rank.
            captions: (u, T) Tokens of this rank on the CPU, where counting waits for no device.
            samples: Number of samples of all ranks.
        """
        if self.peak is not None:
            tokens = captions.count_nonzero() if self.packed else inputs.tokens.numel()
            each = float(tokens) / len(inputs.images)  # equal captions are computed once
            self._flops += samples * self._pair(_side_of(inputs.images), each)

    def _pair(self, size: int, tokens: float) -> float:
        """FLOPs of a pair, interpolated between captions of half and all of the context."""
        longest = self.model.text.context_length
        half = max(1, longest // 2)
        if size not in self._each:
            some, most = (
                pair_cost(self.model, image_size=size, caption_tokens=length).training_flops
                for length in (half, longest)
            )
            self._each[size] = some, (most - some) / max(1, longest - half)
        some, further = self._each[size]
        return some + (tokens - half) * further

    def read(self) -> dict[str, float]:
        """Peak `memory_gb`, and `mfu` since the last reading if the device's peak is known."""
        found = {"memory_gb": _memory(self.backend.device) / 1e9}
        now = time.perf_counter()
        if self.peak is not None:
            possible = (now - self._began) * self.backend.world_size * self.peak * 1e12
            found["mfu"] = self._flops / possible
        self._flops, self._began = 0.0, now
        return found


def _side_of(images: Tensor | NativeImages) -> int:
    """Side of the images in pixels; of other shapes that of squares of as many patches.

    Attention within images of different lengths costs a little more than that.
    """
    if not isinstance(images, NativeImages):
        return int(images.shape[-1])
    patch_size = round((images.patches.shape[2] / 3) ** 0.5)
    return max(1, round((sum(images.counts) / len(images)) ** 0.5)) * patch_size


def known_peak_tflops(precision: str, device: torch.device) -> float | None:
    """Dense peak of a GPU in 10^12 FLOP/s; None for one that the table does not know."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for part, (single, half) in PEAK_TFLOPS.items():
        if part in name.replace("-", " ").split():
            return single if precision == "fp32" else half
    return None


def _memory(device: torch.device) -> int:
    """Peak memory in bytes, of the GPU or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
