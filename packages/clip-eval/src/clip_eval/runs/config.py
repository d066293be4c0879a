"""What an evaluation run measures, and what came of each of its parts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_eval.data.faults import BadSample, DataError
from clip_eval.encoding.batches import LoaderConfig
from clip_eval.encoding.encoder import Precision
from clip_eval.errors import EvaluationError
from clip_eval.results.result import Result
from clip_eval.tasks.config import TaskConfig

USER_ERRORS = (DataError, EvaluationError, BadSample, OSError)


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """Models, data sets, settings, and where the results are written.

    Attributes:
        models: Descriptions of models, as `load_for_evaluation` takes them.
        data: Descriptions of data sets, as `open_source` takes them.
        out: Directory for the results.
        task: The task and its settings; templates and class names come from the next two.
        templates: A file of templates or prompts, or the name of a prompt set.
        classnames: A file of class names, or the name of a prompt set.
        split: Split of the data, where there are several.
        data_options: Further arguments of `open_source`, such as `image_root`.
        train: Training data of probes and neighbours.
        train_split: Split of the training data; of the same data without `train`.
        loader: How sources are read; the run sets the ranks.
        device: Device of the models.
        precision: Precision of the forward passes.
        cache: Directory of the embedding cache; None keeps no embeddings.
        cost: Whether to measure parameters, operations and latency too.
        samples: Number of images in a report.
        seed: Seed of the choice of those images.
        overwrite: Replace results that were made with other settings.
    """

    models: tuple[str, ...]
    data: tuple[str, ...]
    out: Path
    task: TaskConfig = field(default_factory=lambda: TaskConfig(task="auto"))
    templates: str | None = None
    classnames: str | None = None
    split: str | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)
    train: str | None = None
    train_split: str | None = None
    loader: LoaderConfig = field(default_factory=lambda: LoaderConfig(workers=None, progress=True))
    device: str = "cpu"
    precision: Precision = "fp32"
    cache: Path | None = None
    cost: bool = False
    samples: int = 24
    seed: int = 0
    overwrite: bool = False

    @property
    def is_single(self) -> bool:
        """Whether there is one result, which is written to `out` itself."""
        return len(self.models) == len(self.data) == 1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one model on one data set.

    Attributes:
        model: Its name, or its description if it could not be loaded.
        data: The name of the data, or its description.
        directory: Where the result is.
        result: The result; None if it was kept or failed.
        record: The result as it is on disk; None if it failed.
        kept: Whether an earlier result was kept.
        error: Why it failed.
    """

    model: str
    data: str
    directory: Path
    result: Result | None = None
    record: dict[str, Any] | None = None
    kept: bool = False
    error: str = ""

    @classmethod
    def failed(cls, model: str, data: str, directory: Path, error: Exception) -> Outcome:
        """Make the outcome of a failure."""
        return cls(model=model, data=data, directory=directory, error=describe_error(error))


def describe_error(error: Exception) -> str:
    """Return the message of an error, with its kind where the message is not meant for users."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) if isinstance(error, USER_ERRORS) else f"{type(error).__name__}: {error}"


def name_directories(descriptions: Sequence[str]) -> list[str]:
    """Return a distinct directory name for each description of a model or of data."""
    found: list[str] = []
    for description in descriptions:
        parts = [part for part in re.split(r"[/\\]", description) if part not in ("", ".", "..")]
        name = re.sub(r"[^\w.@+-]+", "-", "-".join(parts[-2:])).strip("-.") or "data"
        number = 2
        while name in found:
            name = f"{name.rsplit('~', 1)[0]}~{number}"
            number += 1
        found.append(name)
    return found
