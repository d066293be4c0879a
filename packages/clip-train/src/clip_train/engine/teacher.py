"""What a student is distilled from: a frozen model, or its embeddings in files.

n images and u texts of this rank, K width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from clip_eval import EvaluationError, read_embeddings
from clip_models import CLIP, ConfigError, create_model_and_transforms
from torch import Tensor

from clip_train.config.training import LossConfig
from clip_train.data.batches import Batch
from clip_train.data.mixing import MixedSource
from clip_train.distributed.protocol import Backend
from clip_train.engine.data_components import DataComponents
from clip_train.errors import TrainingError
from clip_train.model.loading import load_saved
from clip_train.objectives.batch import Embeddings, StepInputs


def open_teacher(data: DataComponents, backend: Backend) -> Teacher | None:
    """The teacher that `loss` names; None if it names none.

    Raises:
        ConfigError: There is no such teacher, or it does not understand the student's inputs.
        CheckpointError: Its weights cannot be read, or do not fit.
    """
    loss = data.config.loss
    if loss.teacher_images:
        if isinstance(data.source, MixedSource):
            raise ConfigError(
                "loss.teacher_images has the keys of one source, and data.train names several; "
                "train on one, or give loss.teacher"
            )
        return CachedTeacher(loss, backend)
    if not loss.teacher:
        return None
    made = (
        create_model_and_transforms(loss.teacher_name, loss.teacher)
        if loss.teacher_name
        else load_saved(loss.teacher, "loss.teacher", "loss.teacher_name")
    )
    preprocess = made.evaluate.config
    student, teacher = data.clip_config.text, made.model.config.text
    ours = (student.vocab_size, student.context_length, data.preprocess.config)
    theirs = (teacher.vocab_size, teacher.context_length, preprocess)
    if ours != theirs:
        raise ConfigError(
            f"the teacher {loss.teacher} sees other inputs than the model: vocabulary, "
            f"context length and preprocessing are {theirs}, the model's are {ours}"
        )
    return FrozenModel(made.model, backend, grad_accum_steps=data.config.train.grad_accum_steps)


class FrozenModel:
    """Embeds the student's own inputs: the same pixels and the same tokens."""

    def __init__(self, model: CLIP, backend: Backend, *, grad_accum_steps: int) -> None:
        self.model = model.to(backend.device).eval().requires_grad_(False)
        self.grad_accum_steps = grad_accum_steps

    @torch.no_grad()
    def embed(self, batch: Batch, inputs: StepInputs) -> Embeddings:
        """Normalized features, in as many micro-batches as training."""
        images = [self.model.encode_image(x) for x in inputs.images.chunk(self.grad_accum_steps)]
        texts = [self.model.encode_text(x) for x in inputs.tokens.chunk(self.grad_accum_steps)]
        return Embeddings(
            F.normalize(torch.cat(images), dim=-1),
            F.normalize(torch.cat(texts), dim=-1),
            self.model.logit_scale.exp(),
            None,
        )


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


Teacher = FrozenModel | CachedTeacher
