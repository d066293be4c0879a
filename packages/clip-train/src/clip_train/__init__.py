"""Train CLIP-like models: sample plan, objectives, presets and the loop."""

from clip_train.config import Config
from clip_train.objectives import contrastive_loss
from clip_train.plan import SamplePlan
from clip_train.presets import list_presets, load_config
from clip_train.runs import resume, start
from clip_train.shapes_dataset import write_shapes
from clip_train.training_error import Interrupted, TrainingError

__all__ = [
    "Config",
    "Interrupted",
    "SamplePlan",
    "TrainingError",
    "contrastive_loss",
    "list_presets",
    "load_config",
    "resume",
    "start",
    "write_shapes",
]
