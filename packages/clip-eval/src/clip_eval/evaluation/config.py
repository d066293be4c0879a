"""Settings of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from clip_eval.encoding.batches import LoaderConfig
from clip_eval.encoding.encoder import PRECISIONS, Precision
from clip_eval.encoding.views import VIEWS, Views
from clip_eval.errors import EvaluationError
from clip_eval.tasks.config import TaskConfig


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(TaskConfig, LoaderConfig):
    """Settings of `evaluate`: the task, how the source is read, and the forward pass.

    Attributes:
        device: Device of the model.
        precision: `fp32`, or `bf16`/`fp16` for a forward pass under autocast.
        views: Views of each image whose features are averaged: `single` for the image alone,
            `mirror` for its mirror image too, `mirror_shift` for both in three places a pixel
            apart. A result names them unless they are `single`.
        cache: Directory of the embedding cache, by content; None keeps no embeddings.
        keep_predictions: Keep every sample's guesses in the result.
        keep_embeddings: Keep the features of a retrieval in the result.
        task: What to measure; `auto` is what the first readable sample has.
        templates: Caption templates with `{c}`, or prompts by class name; None takes those of the
            source or of its prompt set, or `a photo of a {c}.` with a warning in the result.
        classnames: Class names in label order; None takes those of the source, where WordNet ids
            of ImageNet stand for its class names.
        ks: The values of k of top-k accuracy.
        recall_ks: The values of k of retrieval recall.
        neighbors: Number of neighbours for kNN.
        shots: Training samples per class; None takes all.
        penalty: L2 penalty of the linear probe; None chooses it on held-out training samples.
        seed: Seed of the shots and of the held-out samples.
        batch_size: Images, and prompts, per forward pass.
        workers: Processes that read and decode; 0 does it in this process, None chooses by the
            size of the source.
        rank: Rank of this process in the default process group of `torch.distributed`.
        world_size: Number of ranks that share the work; all of them get the whole result.
        progress: Show a progress bar.
    """

    device: str | torch.device = "cpu"
    precision: Precision = "fp32"
    views: Views = "single"
    cache: str | Path | None = None
    keep_predictions: bool = False
    keep_embeddings: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            EvaluationError: A value is out of range; the message names it.
        """
        TaskConfig.__post_init__(self)
        LoaderConfig.__post_init__(self)
        if self.precision not in PRECISIONS:
            expected = ", ".join(PRECISIONS)
            raise EvaluationError(f"precision must be one of {expected}, got {self.precision!r}")
        if self.views not in VIEWS:
            expected = ", ".join(VIEWS)
            raise EvaluationError(f"views must be one of {expected}, got {self.views!r}")
