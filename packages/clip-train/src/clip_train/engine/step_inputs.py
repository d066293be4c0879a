"""From a batch of a reader to what the towers take, on the device.

n images and u texts of this rank, T text tokens, S image side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from clip_models import CLIP, NativeImages, Preprocess
from torch import Tensor

from clip_train.augment.geometry import shift_and_flip
from clip_train.config.run import Config
from clip_train.data.batches import Batch
from clip_train.distributed.protocol import Backend
from clip_train.objectives.batch import StepInputs
from clip_train.objectives.candidates import hash_tokens, merge_candidates, separate_candidates
from clip_train.randomness import keyed_bits


@dataclass(frozen=True)
class InputMaker:
    """Augments and normalizes on the device, and keys all randomness by the sample."""

    config: Config
    backend: Backend
    preprocess: Preprocess
    model: CLIP

    def __call__(self, batch: Batch) -> StepInputs:
        """One rank's inputs of a step; a function of the seed and the batch alone."""
        device = self.backend.device
        merge = self.config.loss.kind == "multi_positive"
        candidates = (
            merge_candidates(batch.tokens, batch.caption_of, self.backend, images=batch.image_marks)
            if merge
            else separate_candidates(batch.caption_of, self.backend)
        )
        tokens = batch.tokens
        if self.backend.needs_fixed_shapes:
            tokens = self.model.trim_tokens(tokens)  # on the CPU: no device has to be waited for
        return StepInputs(
            self._images(batch),
            tokens.to(device, non_blocking=True),
            self._keys(batch, "vision", batch.positions).to(device, non_blocking=True),
            self._text_keys(batch, merge=merge).to(device, non_blocking=True),
            candidates.to(device),
        )

    def _images(self, batch: Batch) -> Tensor | NativeImages:
        """Float images, (n, 3, S, S), channels last: normalized, or in [0, 1] to be augmented.

        Those of their own shape have been augmented already.
        """
        config, device = self.config.augment, self.backend.device
        if isinstance(batch.images, NativeImages):
            return self.preprocess.normalize(batch.images.to(device, non_blocking=True))
        images = batch.images.to(device, non_blocking=True)
        pad = config.pad if config.kind == "shift" else 0
        if pad or config.flip:
            uniform = batch.uniform.to(device, non_blocking=True)
            images = shift_and_flip(images, uniform, pad=pad, flip=config.flip)
        images = images.float() / 255 if config.range.enabled else self.preprocess.normalize(images)
        return images.contiguous(memory_format=torch.channels_last)

    def _text_keys(self, batch: Batch, *, merge: bool) -> Tensor:
        """(u,) keys; a merged caption's follow from its text, so that all ranks agree."""
        if not merge:
            return self._keys(batch, "text", batch.positions)
        return self._keys(batch, f"text/{batch.step}", hash_tokens(batch.tokens)[:, 0])

    def _keys(self, batch: Batch, purpose: str, places: Tensor) -> Tensor:
        bits = keyed_bits(self.config.train.seed, batch.epoch, places.numpy(), purpose)
        return torch.from_numpy(bits[:, 0].view(np.int64).copy())
