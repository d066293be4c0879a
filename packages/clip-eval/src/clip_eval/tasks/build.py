"""From the settings of a task to the task."""

from __future__ import annotations

from torch import Tensor

from clip_eval.data.templates import ClassPrompts
from clip_eval.encoding.encoder import Encoder
from clip_eval.tasks.classification import Classification
from clip_eval.tasks.config import ResolvedTask
from clip_eval.tasks.features import choose_shots
from clip_eval.tasks.knn import NearestNeighbors
from clip_eval.tasks.linear_probe import LinearProbe, choose_penalty, fit_probe
from clip_eval.tasks.multilabel import MultiLabel
from clip_eval.tasks.multilabel_probe import (
    MultiLabelProbe,
    choose_marked_penalty,
    choose_marked_shots,
    fit_marked_probe,
)
from clip_eval.tasks.retrieval import Retrieval
from clip_eval.tasks.selection import Selection
from clip_eval.tasks.task import Task, check_directions


def make_task(encoder: Encoder, task: ResolvedTask, learned: tuple[Tensor, Tensor] | None) -> Task:
    """Make the task of one model.

    Args:
        encoder: The model.
        task: The settings.
        learned: Features (N, D) and labels (N,), or marks of classes (N, C), of the training data,
            for a task with some.
    """
    names, config = task.names, task.config
    if config.task == "retrieval":
        return Retrieval(encoder, config.recall_ks)
    if config.task == "select":
        return Selection(encoder)
    if learned is not None:
        return _make_trained_task(encoder, task, *learned)
    assert config.templates is not None
    classifier = encoder.encode_groups(ClassPrompts(names, config.templates))
    check_directions(names, classifier)
    if config.task == "multilabel":
        return MultiLabel(names, classifier)
    return Classification(names, classifier, scale=encoder.scale, ks=config.ks)


def _make_trained_task(
    encoder: Encoder, task: ResolvedTask, features: Tensor, labels: Tensor
) -> Task:
    names, config, device = task.names, task.config, encoder.device
    if task.has_marks:
        return _make_multilabel_probe(encoder, task, features, labels)
    if config.shots is not None:
        chosen = choose_shots(labels, config.shots, config.seed)
        features, labels = features[chosen], labels[chosen]
    if config.task == "knn":
        features, labels = features.to(device), labels.to(device)
        return NearestNeighbors(names, features, labels, k=config.neighbors, ks=config.ks)
    penalty = config.penalty
    if penalty is None:
        penalty = choose_penalty(features, labels, len(names), seed=config.seed)
    probe = fit_probe(features, labels, len(names), penalty)
    return LinearProbe(names, probe, device, config.ks)


def _make_multilabel_probe(
    encoder: Encoder, task: ResolvedTask, features: Tensor, marks: Tensor
) -> Task:
    config = task.config
    if config.shots is not None:
        chosen = choose_marked_shots(marks, config.shots, config.seed)
        features, marks = features[chosen], marks[chosen]
    penalty = config.penalty
    if penalty is None:
        penalty = choose_marked_penalty(features, marks, seed=config.seed)
    return MultiLabelProbe(task.names, fit_marked_probe(features, marks, penalty), encoder.device)
