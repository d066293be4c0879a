"""Evaluation of CLIP-like models with counts, intervals and reports; readers of image-text data."""

from clip_eval.class_names import ClassList
from clip_eval.classifier import ImageTextModel, build_classifier
from clip_eval.embedding_files import read_embeddings
from clip_eval.evaluation import evaluate
from clip_eval.faults import BadImage, BadSample, DataError, EvaluationError
from clip_eval.images import decode_image
from clip_eval.model_directory import LoadedModel, load_for_evaluation
from clip_eval.prompts import DEFAULT_TEMPLATES, TEMPLATES_FILE, read_templates
from clip_eval.results import Result
from clip_eval.samples import (
    Sample,
    Source,
    describe,
    source_faults,
    source_place,
    source_shards,
    source_warnings,
)
from clip_eval.shard_files import ShardCache, check_url, open_location
from clip_eval.shard_paths import expand_shards
from clip_eval.shards import sample_from_files
from clip_eval.sources import open_source

__all__ = [
    "DEFAULT_TEMPLATES",
    "TEMPLATES_FILE",
    "BadImage",
    "BadSample",
    "ClassList",
    "DataError",
    "EvaluationError",
    "ImageTextModel",
    "LoadedModel",
    "Result",
    "Sample",
    "ShardCache",
    "Source",
    "build_classifier",
    "check_url",
    "decode_image",
    "describe",
    "evaluate",
    "expand_shards",
    "load_for_evaluation",
    "open_location",
    "open_source",
    "read_embeddings",
    "read_templates",
    "sample_from_files",
    "source_faults",
    "source_place",
    "source_shards",
    "source_warnings",
]
