"""What a caller of an evaluation can catch, beside the faults of data."""


class EvaluationError(ValueError):
    """An evaluation that cannot be made as asked (no labels, wrong number of classes)."""
