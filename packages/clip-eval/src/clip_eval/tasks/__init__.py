"""What is measured: each task takes batches of features and gives a result."""

from clip_eval.tasks.classify import Classify
from clip_eval.tasks.knn import NearestNeighbours
from clip_eval.tasks.linear_probe import LinearProbe
from clip_eval.tasks.multilabel import MultiLabel
from clip_eval.tasks.retrieve import Retrieve
from clip_eval.tasks.select import Select
from clip_eval.tasks.task import TASKS, Task, TaskName

__all__ = [
    "TASKS",
    "Classify",
    "LinearProbe",
    "MultiLabel",
    "NearestNeighbours",
    "Retrieve",
    "Select",
    "Task",
    "TaskName",
]
