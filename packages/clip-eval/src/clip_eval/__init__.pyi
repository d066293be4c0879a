from .encoding.embedding_parts import read_embeddings
from .errors import EvaluationError
from .evaluation.config import EvaluationConfig
from .evaluation.evaluate import evaluate
from .models.adapters import TowerAdapter, TransformPreprocess
from .models.directory import load_for_evaluation
from .models.foreign_models import adapt_model
from .models.protocols import ImageTextModel, LoadedModel
from .models.zero_shot import build_classifier
from .prompts.named_data import choose_prompts, open_data, read_template_list
from .prompts.prompt_sets import PromptSet
from .results.result import PairEmbeddings, Result
from .search.image_search import ImageSearch, Match

__all__ = [
    "EvaluationConfig",
    "EvaluationError",
    "ImageSearch",
    "ImageTextModel",
    "LoadedModel",
    "Match",
    "PairEmbeddings",
    "PromptSet",
    "Result",
    "TowerAdapter",
    "TransformPreprocess",
    "adapt_model",
    "build_classifier",
    "choose_prompts",
    "evaluate",
    "load_for_evaluation",
    "open_data",
    "read_embeddings",
    "read_template_list",
]
