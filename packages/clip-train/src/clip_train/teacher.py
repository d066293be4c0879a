"""What a student distils from: a frozen model, or embeddings that one made before."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from clip_models import (
    CLIP,
    ConfigError,
    ModelAndTransforms,
    create_model_and_transforms,
    list_models,
)

from clip_train.backends import Backend
from clip_train.build import Parts
from clip_train.cached_teacher import CachedTeacher
from clip_train.config import Config, LossConfig
from clip_train.gradients import Embeddings, StepInputs
from clip_train.loading import Batch
from clip_train.mixing import MixedSource


class Teacher(Protocol):
    """Anything that embeds a batch."""

    def embed(self, batch: Batch, inputs: StepInputs) -> Embeddings:
        """Normalised features of this rank's images and texts."""


def open_teacher(config: Config, parts: Parts, backend: Backend) -> Teacher | None:
    """The teacher that `loss` names; None if it names none.

    Raises:
        ConfigError: There is no such teacher, or it does not understand the student's inputs.
        CheckpointError: Its weights cannot be read, or do not fit.
    """
    loss = config.loss
    if loss.teacher_images:
        if isinstance(parts.source, MixedSource):
            raise ConfigError(
                "loss.teacher_images has the keys of one source, and data.train names several; "
                "train on one, or give loss.teacher"
            )
        return CachedTeacher(loss, backend)
    if not loss.teacher:
        return None
    made = _load(loss)
    preprocess = made.evaluate.config
    student = parts.model.config
    ours = (student.text.vocab_size, student.text.context_length, parts.preprocess.config)
    text = made.model.config.text
    if ours != (theirs := (text.vocab_size, text.context_length, preprocess)):
        raise ConfigError(
            f"the teacher {loss.teacher} sees other inputs than the model: vocabulary, "
            f"context length and preprocessing are {theirs}, the model's are {ours}"
        )
    return FrozenModel(made.model, backend, parts=config.train.accumulation)


def _load(loss: LossConfig) -> ModelAndTransforms:
    """A saved model: the one in a directory or on the hub, or a registered one and its weights."""
    if loss.teacher_name:
        return create_model_and_transforms(loss.teacher_name, loss.teacher)
    where = Path(loss.teacher)
    if where.is_file():
        raise ConfigError(
            f"loss.teacher {loss.teacher} is a file of weights; name its model, as in "
            "--loss.teacher-name ViT-B-32"
        )
    if loss.teacher in list_models() and not where.is_dir():
        raise ConfigError(
            f"loss.teacher {loss.teacher!r} is a model's name, without weights; give those as "
            "loss.teacher, and the name as loss.teacher_name"
        )
    return create_model_and_transforms(loss.teacher)


class FrozenModel:
    """Embeds the student's own inputs: the same pixels and the same tokens."""

    def __init__(self, model: CLIP, backend: Backend, *, parts: int) -> None:
        self.model = model.to(backend.device).eval().requires_grad_(False)
        self.parts = parts

    @torch.no_grad()
    def embed(self, batch: Batch, inputs: StepInputs) -> Embeddings:
        """Normalised features, in as many parts as training."""
        images = [self.model.encode_image(x) for x in inputs.images.chunk(self.parts)]
        texts = [self.model.encode_text(x) for x in inputs.tokens.chunk(self.parts)]
        return Embeddings(
            F.normalize(torch.cat(images), dim=-1),
            F.normalize(torch.cat(texts), dim=-1),
            self.model.logit_scale.exp(),
            None,
        )
