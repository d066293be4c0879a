"""The device side of a run (model, gradient, optimizer, teacher), and `RunComponents`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from clip_models import CLIP
from clip_models.config import PreprocessConfig

from clip_train.augment.range_augment import LearnedAugmentation
from clip_train.checkpoints.training_state import TrainingState
from clip_train.distributed.protocol import Backend
from clip_train.engine.data_components import DataComponents
from clip_train.engine.gradients import WholeBatchGradient
from clip_train.engine.model_setup import make_augmentation, make_towers, make_training_state
from clip_train.engine.step_inputs import InputMaker
from clip_train.engine.teacher import Teacher, open_teacher
from clip_train.engine.whitening import whiten_stem
from clip_train.model.towers import Towers

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

MakeGradient = Callable[[Towers, DataComponents, Backend], WholeBatchGradient]
"""From towers that no backend has wrapped yet to what computes the gradient of a step."""


@dataclass(frozen=True, kw_only=True)
class RunComponents:
    """Everything that a `Trainer` works with.

    Attributes:
        data: The data side.
        backend: Device and processes.
        model: The model, on its device.
        augmentation: Trained with the model, if the config asks for it.
        gradient: Computes the gradient of a step.
        make_inputs: From a batch of the reader to what the towers take.
        teacher: Distilled from, if the config names one.
        state: Everything that changes from step to step: model, optimizers, EMA, loss scale.
    """

    data: DataComponents
    backend: Backend
    model: CLIP
    augmentation: LearnedAugmentation | None
    gradient: WholeBatchGradient
    make_inputs: InputMaker
    teacher: Teacher | None
    state: TrainingState


def make_whole_batch_gradient(
    towers: Towers, data: DataComponents, backend: Backend
) -> WholeBatchGradient:
    """The gradient of one model's loss; the backend may replace parameters by sharded ones."""
    train = data.config.train
    return WholeBatchGradient(
        backend.wrap(towers),
        backend,
        grad_accum_steps=train.grad_accum_steps,
        autocast=PRECISIONS[train.precision],
    )


def build_components(
    data: DataComponents,
    backend: Backend,
    *,
    pretrained: tuple[CLIP, PreprocessConfig] | None = None,
) -> RunComponents:
    """Make the model and all that trains it; the same data side and seed give the same weights.

    Args:
        data: The data side.
        backend: Device and processes.
        pretrained: The model to continue with, the one that `data` was built for.

    Raises:
        ConfigError: Parts of the config do not go together.
        CheckpointError: The teacher's weights cannot be read, or do not fit.
    """
    model = make_model(data, backend, pretrained=pretrained)
    return assemble_components(data, backend, model, make_whole_batch_gradient)


def make_model(
    data: DataComponents, backend: Backend, *, pretrained: tuple[CLIP, PreprocessConfig] | None
) -> CLIP:
    """The pretrained model, or one with random weights that follow from the seed; on its device."""
    if pretrained is None:
        torch.manual_seed(data.config.train.seed)
        model = CLIP(data.clip_config)
        whiten_stem(model, data)
    else:
        model = pretrained[0]
    return model.to(backend.device).to(memory_format=torch.channels_last)


def assemble_components(
    data: DataComponents, backend: Backend, model: CLIP, make_gradient: MakeGradient
) -> RunComponents:
    """All components around a model that is on its device."""
    config = data.config
    augmentation = make_augmentation(config, data, backend)
    towers = make_towers(model, augmentation, config, backend)
    gradient = make_gradient(towers, data, backend)  # first: it may replace the parameters
    return RunComponents(
        data=data,
        backend=backend,
        model=model,
        augmentation=augmentation,
        gradient=gradient,
        make_inputs=InputMaker(config, backend, data.preprocess, model),
        teacher=open_teacher(data, backend),
        state=make_training_state(model, augmentation, data, backend),
    )
