from .batch_norm import frozen_statistics, recalibrate, recalibrated
from .experiment import Experiment, from_image_folder
from .loop import DivergenceError, Progress, train
from .processes import broadcast_supernet, process_group
from .sandwich import Sandwich, average_gradients, sandwich_configs
from .tasks import (
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
    "DivergenceError",
    "Experiment",
    "LanguageModel",
    "Progress",
    "Sandwich",
    "Task",
    "TaskResult",
    "average_gradients",
    "broadcast_supernet",
    "from_image_folder",
    "frozen_statistics",
    "last_word_accuracy",
    "process_group",
    "recalibrate",
    "recalibrated",
    "sandwich_configs",
    "train",
]
