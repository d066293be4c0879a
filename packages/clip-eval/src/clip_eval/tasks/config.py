"""Settings of a task, and their check against a source before any work is done."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from clip_eval.data.class_names import ClassList
from clip_eval.data.faults import BadSample
from clip_eval.data.samples import Sample, Source
from clip_eval.data.templates import (
    DEFAULT_TEMPLATES,
    ClassPrompts,
    Templates,
    check_prompting,
)
from clip_eval.errors import EvaluationError
from clip_eval.plurals import count_noun

TaskName = Literal["auto", "classify", "multilabel", "retrieval", "linear-probe", "knn", "select"]
TASKS: tuple[str, ...] = get_args(TaskName)
PROMPTED = ("classify", "multilabel")
CAPTIONED = ("retrieval", "select")
TRAINED = ("linear-probe", "knn")
CODE = re.compile(
    r"[\W_]*\d[\d\W_]*|n\d{8}|(c|class|cat|category|label|id)[\W_]*\d+", re.IGNORECASE
)
"""Class names that are numbers, WordNet ids or numbered classes."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """A task with its settings, which `clip_eval.EvaluationConfig` describes one by one."""

    task: TaskName = "classify"
    templates: Templates | None = None
    classnames: Sequence[str] | None = None
    ks: tuple[int, ...] = (1, 5)
    recall_ks: tuple[int, ...] = (1, 5, 10)
    neighbors: int = 20
    shots: int | None = None
    penalty: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            EvaluationError: A value is out of range; the message names it.
        """
        for name in ("ks", "recall_ks"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise EvaluationError(f"{name} must be numbers of at least 1, got {values}")
        for name in ("neighbors", "shots"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise EvaluationError(f"{name} must be at least 1, got {value}")
        if self.penalty is not None and not 0 <= self.penalty < math.inf:
            raise EvaluationError(f"penalty must be finite and at least 0, got {self.penalty}")


@dataclass(frozen=True, kw_only=True)
class ResolvedTask:
    """A task with everything that its settings left open.

    Attributes:
        config: The settings; the task is not `auto`, and the templates are those in use.
        names: The class names in use; empty for a task without classes.
        train: Training data of a task that needs some.
        warnings: What the reader of the result should know.
        has_marks: Whether training images have several labels each.
    """

    config: TaskConfig
    names: tuple[str, ...] = ()
    train: Source | None = None
    warnings: tuple[str, ...] = ()
    has_marks: bool = False

    @property
    def is_trained(self) -> bool:
        """Whether the task learns from training data."""
        return self.config.task in TRAINED

    def shown_templates(self) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
        """Return the templates as a result shows them; none for a task without prompts."""
        if self.config.task not in PROMPTED or self.config.templates is None:
            return ()
        return check_prompting(self.config.templates)

    def details(self) -> dict[str, Any]:
        """Return the settings that belong to the task, as a result shows them."""
        shots = {"shots": self.config.shots, "seed": self.config.seed}
        if self.config.task == "linear-probe":
            return shots
        if self.config.task == "knn":
            return {"neighbours": self.config.neighbors, **shots}
        return {}

    def key_settings(self) -> dict[str, Any]:
        """Return the settings that a result's key is made of; its names are part of the key."""
        config = self.config
        return {
            "task": config.task,
            "templates": config.templates,
            "ks": config.ks,
            "recall_ks": config.recall_ks,
            "neighbours": config.neighbors,
            "shots": config.shots,
            "penalty": config.penalty,
            "seed": config.seed,
            "names": self.names,
        }


def resolve_task(
    config: TaskConfig,
    source: Source,
    *,
    train: Source | None = None,
    warnings: tuple[str, ...] = (),
) -> ResolvedTask:
    """Fill in task, names and templates from the source.

    Args:
        config: The settings.
        source: What is evaluated on.
        train: Training data.
        warnings: What is known already.

    Raises:
        EvaluationError: The source lacks what the task needs, or training data is missing.
        DataError: Bad templates or class names.
    """
    if config.task not in TASKS:
        raise EvaluationError(f"task must be one of {', '.join(TASKS)}, got {config.task!r}")
    if config.task == "auto":
        config = replace(config, task=recognize_task(source))
    if config.task in CAPTIONED:
        _check_captions(config.task, source)
        return ResolvedTask(config=config, train=train, warnings=warnings)
    names = _class_names(source, config.classnames)
    repeated = ClassList(names, names).duplicates()
    if repeated and not any("share a name" in warning for warning in source.warnings):
        warnings += (f"several classes share a name: {', '.join(repeated[:8])}",)
    if config.task in TRAINED:
        has_marks = _check_train(config.task, train, source)
        return ResolvedTask(
            config=config, names=names, train=train, warnings=warnings, has_marks=has_marks
        )
    templates = source.templates if config.templates is None else config.templates
    if templates is None:
        warnings += (f"no templates given or saved: {DEFAULT_TEMPLATES[0]!r} is used",)
        templates = DEFAULT_TEMPLATES
    config = replace(config, templates=templates)
    ClassPrompts(names, templates)
    warnings += tuple(_describe_names(source, names))
    return ResolvedTask(config=config, names=names, train=train, warnings=warnings)


def _describe_names(source: Source, names: Sequence[str]) -> Iterator[str]:
    """Yield a warning if most class names are numbers or codes: their prompts say nothing."""
    coded = [name for name in names if CODE.fullmatch(name)]
    if 2 * len(coded) > len(names):
        shown = ", ".join(map(repr, coded[:3]))
        yield (
            f"{source.name}: {len(coded)} of {count_noun(len(names), 'class name')} are numbers or "
            f"codes and not words, such as {shown}; --classnames gives names"
        )


def recognize_task(source: Source) -> TaskName:
    """Recognize `multilabel`, `classify` or `retrieval` by the first readable sample.

    Raises:
        EvaluationError: No sample can be read, or it has neither classes nor captions.
    """
    sample = _first_sample(source)
    if sample is not None:
        if sample.targets is not None:
            return "multilabel"
        if sample.label is not None:
            return "classify"
        if sample.captions:
            return "retrieval"
    raise EvaluationError(
        f"{source.name}: its samples have neither labels nor captions; nothing can be measured"
    )


def _first_sample(source: Source) -> Sample | None:
    """Read the first sample that can be read."""
    for index in range(len(source)):
        try:
            return source.read(index)
        except BadSample:
            continue
    return None


def _check_captions(task: str, source: Source) -> None:
    """Refuse labeled images without captions: a source fills templates with their class name."""
    sample, names = _first_sample(source), source.classnames or ()
    if sample is None or sample.label is None or not 0 <= sample.label < len(names):
        return
    if sample.captions == source.class_captions(sample.label, sample.key):
        raise EvaluationError(
            f"{source.name}: its images have labels and no captions, which {task} needs; "
            "--task classify fits"
        )


def _check_train(task: str, train: Source | None, source: Source) -> bool:
    """Check the training data; return whether its images have several labels each."""
    if train is None:
        raise EvaluationError(f"{task} needs a training set; give one with --train")
    if train.classnames and source.classnames and train.classnames != source.classnames:
        raise EvaluationError(
            f"the classes of {train.name} and {source.name} differ: "
            f"{_difference(train.classnames, source.classnames)}"
        )
    learned, tested = _first_sample(train), _first_sample(source)
    has_marks = learned is not None and learned.targets is not None
    if has_marks and task == "knn":
        raise EvaluationError(
            f"{train.name}: its images have several labels each, which knn does not take; "
            "--task linear-probe does"
        )
    if tested is not None and has_marks != (tested.targets is not None):
        several, one = (train.name, source.name) if has_marks else (source.name, train.name)
        raise EvaluationError(
            f"the images of {several} have several labels each and those of {one} do not"
        )
    return has_marks


def _difference(left: Sequence[str], right: Sequence[str]) -> str:
    only_left = [name for name in left if name not in right][:8]
    only_right = [name for name in right if name not in left][:8]
    if not only_left and not only_right:
        return "the same names in another order"
    return f"only in the first {only_left}, only in the second {only_right}"


def _class_names(source: Source, given: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(given, Mapping):
        raise EvaluationError("class names must be in label order; open the source with a mapping")
    if given is None and source.classnames is None:
        raise EvaluationError(
            f"{source.name}: no class names; put classnames.txt beside the shards or give a list"
        )
    names = ClassList.of(given if given is not None else source.classnames or ()).names
    if given is not None and source.classnames and len(names) != len(source.classnames):
        raise EvaluationError(
            f"{source.name}: expected {len(source.classnames)} class names in label order, "
            f"got {len(names)}"
        )
    return names
