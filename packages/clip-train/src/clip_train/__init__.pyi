from .config.presets import list_presets, load_config
from .config.run import Config
from .distributed.communicator import Communicator
from .engine.data_components import DataComponents, build_data_components
from .engine.runs import resume, train
from .engine.trainer import Trainer
from .errors import Interrupted, TrainingError
from .objectives.candidates import Candidates
from .objectives.losses import contrastive_loss, distillation_loss, sigmoid_loss
from .plan.sample_plan import SamplePlan
from .shapes.dataset import write_shapes

__all__ = [
    "Candidates",
    "Communicator",
    "Config",
    "DataComponents",
    "Interrupted",
    "SamplePlan",
    "Trainer",
    "TrainingError",
    "build_data_components",
    "contrastive_loss",
    "distillation_loss",
    "list_presets",
    "load_config",
    "resume",
    "sigmoid_loss",
    "train",
    "write_shapes",
]
