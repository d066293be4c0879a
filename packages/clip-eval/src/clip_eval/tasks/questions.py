"""What is asked of a model about a source, checked before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from clip_eval.data.class_names import ClassList
from clip_eval.data.faults import BadSample
from clip_eval.data.samples import Sample, Source
from clip_eval.data.templates import DEFAULT_TEMPLATES, PromptsOfClasses, Templates, check
from clip_eval.encoding.encoder import Encoder
from clip_eval.errors import EvaluationError
from clip_eval.tasks import (
    TASKS,
    Classify,
    LinearProbe,
    MultiLabel,
    NearestNeighbours,
    Retrieve,
    Select,
    Task,
    TaskName,
)
from clip_eval.tasks.features import few_shots
from clip_eval.tasks.linear_probe import choose_penalty, fit_probe
from clip_eval.tasks.task import check_directions

PROMPTED = ("classify", "multilabel")
LEARNED = ("linear-probe", "knn")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A task with its settings.

    Attributes:
        task: What to measure.
        templates: Templates, or prompts by class name; None takes those of the source.
        classnames: Names in label order, if not those of the source.
        train: What ``linear-probe`` and ``knn`` learn from.
        ks: The values of k of top-k accuracy.
        recall_ks: Those of retrieval recall.
        neighbours: How many vote in ``knn``.
        shots: Training samples per class; None takes all.
        penalty: Of the linear probe; None chooses it on held-out training samples.
        seed: Of the shots and of what is held out.
        names: The class names in use, once checked.
        warnings: What the reader of the result should know.
    """

    task: TaskName = "classify"
    templates: Templates | None = None
    classnames: Sequence[str] | None = None
    train: Source | None = None
    ks: tuple[int, ...] = (1, 5)
    recall_ks: tuple[int, ...] = (1, 5, 10)
    neighbours: int = 20
    shots: int | None = None
    penalty: float | None = None
    seed: int = 0
    names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def learns(self) -> bool:
        """Whether the task learns from a training set."""
        return self.task in LEARNED

    def shown_templates(self) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
        """The templates as a result shows them; none for a task without prompts."""
        if self.task not in PROMPTED or self.templates is None:
            return ()
        return check(self.templates)

    def details(self) -> dict[str, Any]:
        """The settings that belong to the task."""
        if self.task == "linear-probe":
            return {"shots": self.shots, "seed": self.seed}
        if self.task == "knn":
            return {"neighbours": self.neighbours, "shots": self.shots, "seed": self.seed}
        return {}


def check_question(question: Question, source: Source) -> Question:
    """The question with task, names and templates settled.

    Raises:
        EvaluationError: The source has not what the task needs, or a training set is missing.
        DataError: Bad templates or class names.
    """
    if question.task not in TASKS:
        raise EvaluationError(f"task must be one of {', '.join(TASKS)}, got {question.task!r}")
    if question.task == "auto":
        question = replace(question, task=recognise_task(source))
    if question.task in ("retrieval", "select"):
        _check_captions(question.task, source)
        return question
    question = replace(question, names=_class_names(source, question.classnames))
    repeated = ClassList(question.names, question.names).duplicates()
    if repeated and not any("share a name" in warning for warning in source.warnings):
        note = f"several classes share a name: {', '.join(repeated[:8])}"
        question = replace(question, warnings=(*question.warnings, note))
    if question.learns:
        return replace(question, train=_checked_train(question, source))
    if question.templates is None and source.templates is not None:
        question = replace(question, templates=source.templates)
    if question.templates is None:
        note = f"no templates given or saved: {DEFAULT_TEMPLATES[0]!r} is used"
        question = replace(
            question, templates=DEFAULT_TEMPLATES, warnings=(*question.warnings, note)
        )
    PromptsOfClasses(question.names, question.templates or ())
    return question


def recognise_task(source: Source) -> TaskName:
    """``multilabel``, ``classify`` or ``retrieval``: what the first readable sample has.

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
    """The first sample that can be read."""
    for index in range(len(source)):
        try:
            return source.read(index)
        except BadSample:
            continue
    return None


def _check_captions(task: str, source: Source) -> None:
    """A labelled image without captions comes with its class name in templates; that is none."""
    sample, names = _first_sample(source), source.classnames or ()
    if sample is None or sample.label is None or not 0 <= sample.label < len(names):
        return
    if sample.captions == source.class_captions(sample.label, sample.key):
        raise EvaluationError(
            f"{source.name}: its images have labels and no captions, which {task} needs; "
            "--task classify fits"
        )


def make_task(encoder: Encoder, question: Question, learned: tuple[Tensor, Tensor] | None) -> Task:
    """The task, its classifier built from prompts or learned from (features, labels)."""
    if question.task == "retrieval":
        return Retrieve(encoder, question.recall_ks)
    if question.task == "select":
        return Select(encoder)
    names = question.names
    if learned is not None:
        features, labels = learned
        if question.shots is not None:
            chosen = few_shots(labels, question.shots, question.seed)
            features, labels = features[chosen], labels[chosen]
        if question.task == "knn":
            device = encoder.device
            return NearestNeighbours(
                names,
                features.to(device),
                labels.to(device),
                k=question.neighbours,
                ks=question.ks,
            )
        penalty = question.penalty
        if penalty is None:
            penalty = choose_penalty(features, labels, len(names), seed=question.seed)
        probe = fit_probe(features, labels, len(names), penalty)
        return LinearProbe(names, probe, encoder.device, question.ks)
    assert question.templates is not None
    classifier = encoder.groups(PromptsOfClasses(names, question.templates))
    check_directions(names, classifier)
    if question.task == "multilabel":
        return MultiLabel(names, classifier)
    return Classify(names, classifier, scale=encoder.scale, ks=question.ks)


def _checked_train(question: Question, source: Source) -> Source:
    train = question.train
    if train is None:
        raise EvaluationError(f"{question.task} needs a training set; give one with --train")
    if train.classnames and source.classnames and train.classnames != source.classnames:
        raise EvaluationError(
            f"the classes of {train.name} and {source.name} differ: "
            f"{_difference(train.classnames, source.classnames)}"
        )
    return train


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
