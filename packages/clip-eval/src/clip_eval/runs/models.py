"""The models of an evaluation run: each is loaded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clip_eval.encoding.cost import measure_cost
from clip_eval.encoding.encoder import Encoder, make_encoder
from clip_eval.models.directory import load_for_evaluation
from clip_eval.models.protocols import LoadedModel
from clip_eval.runs.config import EvaluationRun, Outcome, name_directories


@dataclass(frozen=True, kw_only=True)
class RunModel:
    """A model of a run.

    Attributes:
        description: The model as the user named it.
        loaded: The model with its tokenizer and preprocessing.
        encoder: The model as functions to unit vectors.
        directory: Name of its directory among the results.
        cost: Parameters, operations and latency, where measured.
    """

    description: str
    loaded: LoadedModel
    encoder: Encoder
    directory: str
    cost: dict[str, Any] | None


def load_models(run: EvaluationRun, report: Callable[[Outcome], None]) -> list[RunModel]:
    """Load the models of a run.

    Args:
        run: The run.
        report: Called for each data set with the failure of a model that cannot be loaded.

    Raises:
        EvaluationError: The model of a single evaluation cannot be loaded.
    """
    models = []
    for description, directory in zip(run.models, name_directories(run.models), strict=True):
        try:
            models.append(_load(run, description, directory))
        except Exception as error:
            if run.is_single:
                raise
            for data in run.data:
                report(Outcome.failed(description, data, run.out / directory, error))
    return models


def _load(run: EvaluationRun, description: str, directory: str) -> RunModel:
    loaded = load_for_evaluation(description, device=run.device)
    encoder = make_encoder(
        loaded,
        device=run.device,
        precision=run.precision,
        batch_size=run.loader.batch_size,
        cache=run.cache,
    )
    cost = measure_cost(encoder) if run.cost else None
    return RunModel(
        description=description, loaded=loaded, encoder=encoder, directory=directory, cost=cost
    )
