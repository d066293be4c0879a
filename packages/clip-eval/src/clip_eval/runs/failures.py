"""Failures of one part of a run, in words."""

from __future__ import annotations

from clip_eval.data.faults import BadSample, DataError
from clip_eval.errors import EvaluationError

USER_ERRORS = (DataError, EvaluationError, BadSample, OSError)


def describe_error(error: Exception) -> str:
    """Return the message of an error, with its kind where the message is not meant for users."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) if isinstance(error, USER_ERRORS) else f"{type(error).__name__}: {error}"
