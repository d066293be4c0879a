"""A frozen model to distil from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from clip_models import CLIP, ConfigError, load_model

from clip_train.backends import Backend
from clip_train.build import Parts
from clip_train.config import Config
from clip_train.gradients import Embeddings, StepInputs


class Teacher:
    """Embeds the student's own inputs: the same pixels and the same tokens."""

    def __init__(self, model: CLIP, backend: Backend, *, parts: int) -> None:
        self.model = model.to(backend.device).eval().requires_grad_(False)
        self.parts = parts

    @classmethod
    def open(cls, config: Config, parts: Parts, backend: Backend) -> Teacher | None:
        """The teacher of `loss.teacher`; None if there is none.

        Raises:
            ConfigError: It does not understand the student's inputs.
        """
        if not config.loss.teacher:
            return None
        model, preprocess = load_model(config.loss.teacher)
        student = parts.model.config
        ours = (student.text.vocab_size, student.text.context_length, parts.preprocess.config)
        theirs = (model.config.text.vocab_size, model.config.text.context_length, preprocess)
        if ours != theirs:
            raise ConfigError(
                f"the teacher {config.loss.teacher} sees other inputs than the model: vocabulary, "
                f"context length and preprocessing are {theirs}, the model's are {ours}"
            )
        return cls(model, backend, parts=config.train.accumulation)

    @torch.no_grad()
    def embed(self, inputs: StepInputs) -> Embeddings:
        """Normalised features of this rank's images and texts, in as many parts as training."""
        images = [self.model.encode_image(x) for x in inputs.images.chunk(self.parts)]
        texts = [self.model.encode_text(x) for x in inputs.tokens.chunk(self.parts)]
        return Embeddings(
            F.normalize(torch.cat(images), dim=-1),
            F.normalize(torch.cat(texts), dim=-1),
            self.model.logit_scale.exp(),
            None,
        )
