from .encoding.files import read_embeddings
from .errors import EvaluationError
from .evaluation import evaluate
from .models.classifier import ImageTextModel, build_classifier
from .models.directory import LoadedModel, load_for_evaluation
from .results.result import Result

__all__ = [
    "EvaluationError",
    "ImageTextModel",
    "LoadedModel",
    "Result",
    "build_classifier",
    "evaluate",
    "load_for_evaluation",
    "read_embeddings",
]
