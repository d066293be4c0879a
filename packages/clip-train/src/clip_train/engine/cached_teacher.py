"""A teacher's embeddings in files. n images and u texts of this rank, K width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from clip_eval import EvaluationError, read_embeddings
from clip_models import ConfigError
from torch import Tensor

from clip_train.config.training import LossConfig
from clip_train.data.batches import Batch
from clip_train.distributed.protocol import Backend
from clip_train.errors import TrainingError
from clip_train.objectives.batch import Embeddings, StepInputs


class CachedTeacher:
    """Finds images by the keys of their samples, and texts by their content.

    The teacher saw neither augmentation nor shortened captions, and may have had any tokenizer.
    """

    def __init__(self, config: LossConfig, backend: Backend) -> None:
        """Read both files.

        Raises:
            ConfigError: A file cannot be read, or they are not of one teacher.
        """
        self.backend = backend
        self.images = EmbeddingTable(Path(config.teacher_images))
        self.texts = EmbeddingTable(Path(config.teacher_texts))
        widths = [table.features.shape[1] for table in (self.images, self.texts)]
        if widths[0] != widths[1]:
            raise ConfigError(
                f"loss.teacher_images and loss.teacher_texts must be of one teacher, got "
                f"embeddings of {widths[0]} and {widths[1]} numbers"
            )
        self.logit_scale = torch.tensor(config.teacher_logit_scale, device=backend.device)

    def embed(self, batch: Batch, inputs: StepInputs) -> Embeddings:
        """Normalized features (n, K) and (u, K).

        Raises:
            TrainingError: On all ranks, if one of them finds no embedding of a sample.
        """
        missing = self.images.missing(batch.keys) + self.texts.missing(batch.captions)
        if self.backend.any_rank([bool(missing)])[0]:
            gathered = self.backend.all_gather_object(missing[:1])
            first = next(text for part in gathered for text in part)
            raise TrainingError(
                f"{first}; embed the training images with `clip-eval embed --data …` and every "
                "caption with `clip-eval embed --texts …`"
            )
        device = self.backend.device
        return Embeddings(
            self.images.rows(batch.keys).to(device),
            self.texts.rows(batch.captions).to(device),
            self.logit_scale,
            None,
        )


class EmbeddingTable:
    """A file of `clip-eval embed`, in memory: features (N, K) by key."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            keys, self.features = read_embeddings(file)
        except EvaluationError as error:
            raise ConfigError(str(error)) from None
        if not np.isfinite(self.features).all():
            raise ConfigError(f"{file}: expected finite features, got some that are not")
        self.row_of = {key: row for row, key in enumerate(keys)}
        if len(self.row_of) < len(keys):
            raise ConfigError(
                f"{file}: expected every key once, got {len(keys)} rows of {len(self.row_of)} "
                "different keys; write each sample or text once"
            )

    def missing(self, keys: Sequence[str]) -> list[str]:
        """A message for each of the keys that the file does not have."""
        return [f"{self.file} has no embedding of {k!r}" for k in keys if k not in self.row_of]

    def rows(self, keys: Sequence[str]) -> Tensor:
        """Unit features (len(keys), K)."""
        rows = self.features[[self.row_of[key] for key in keys]]
        return F.normalize(torch.from_numpy(rows), dim=-1)
