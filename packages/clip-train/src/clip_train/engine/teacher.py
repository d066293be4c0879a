"""What a student is distilled from: a frozen model, or its embeddings in files."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from clip_models import CLIP, ConfigError, create_model_and_transforms

from clip_train.data.batches import Batch
from clip_train.data.mixing import MixedSource
from clip_train.distributed.protocol import Backend
from clip_train.engine.cached_teacher import CachedTeacher
from clip_train.engine.data_components import DataComponents
from clip_train.model.loading import load_saved
from clip_train.objectives.batch import Embeddings, StepInputs


class Teacher(Protocol):
    """Embeds a batch."""

    def embed(self, batch: Batch, inputs: StepInputs) -> Embeddings:
        """Normalized features of this rank's images and texts."""


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
