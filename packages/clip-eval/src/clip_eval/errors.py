"""Errors of an evaluation; those of data are in `clip_eval.data`."""


class EvaluationError(ValueError):
    """The evaluation cannot be carried out: no labels, wrong number of classes, unknown model."""


class WorkerError(EvaluationError):
    """A process that reads data was killed, is stopped, or makes no progress."""
