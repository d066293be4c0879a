"""Training a supernet in any loop: the sandwich rule, distillation, tasks, batch statistics."""

from __future__ import annotations

from osf_supernet.training.batch_norm import frozen_statistics, recalibrate, recalibrated
from osf_supernet.training.experiment import Experiment, from_factory, from_image_folder
from osf_supernet.training.loop import Progress, train
from osf_supernet.training.processes import process_group, start_alike
from osf_supernet.training.sandwich import Sandwich, average_gradients, sandwich_configs
from osf_supernet.training.tasks import (
    Classification,
    Contrastive,
    LanguageModel,
    Task,
    TaskResult,
    last_word_accuracy,
)

__all__ = [
    "Classification",
    "Contrastive",
    "Experiment",
    "LanguageModel",
    "Progress",
    "Sandwich",
    "Task",
    "TaskResult",
    "average_gradients",
    "from_factory",
    "from_image_folder",
    "frozen_statistics",
    "last_word_accuracy",
    "process_group",
    "recalibrate",
    "recalibrated",
    "sandwich_configs",
    "start_alike",
    "train",
]
