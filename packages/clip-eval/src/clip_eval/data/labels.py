"""Labels against the list of class names: a number outside it means that the list is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from clip_eval.data.faults import BadSample, DataError
from clip_eval.data.text_files import normal_form

NUMBER = re.compile(r"(-?[0-9]+)(\.0+)?")
MOST_CLASSES = 2**31  # labels beyond it are damage
LABELS_CHECKED = 1024


def require_class(label: int, classes: int, *, first: int = 0, where: str) -> int:
    """The index of a label's class.

    Args:
        label: The label as the data has it.
        classes: Number of class names.
        first: Number of the first class in the data.
        where: The sample, for the message.

    Raises:
        DataError: There is no such class. It is no fault of one sample: with a list that is off by
            one the labels of all others would be wrong too.
    """
    if not first <= label < first + classes:
        hint = "" if first else "; if they count from 1, say so with --first-label 1"
        raise DataError(
            f"{where}: label {label} is in no class; the class list has {classes}, for labels "
            f"{first} to {first + classes - 1}{hint} (data.first_label in a config), else give "
            "the list that the labels belong to"
        )
    return label - first


def label_of(
    value: Any, names: Sequence[str] | None, *, first: int = 0, where: str
) -> int | tuple[int, ...] | None:
    """The class of a sample, or a tuple of several, from what the data has as its label.

    Args:
        value: A number, a number as text, a class name, or a list of these for several classes.
        names: Class names in label order; numbers stay as they are without them.
        first: Number of the first class in the data.
        where: The sample, for messages.

    Returns:
        None where the value is no label at all.

    Raises:
        DataError: A number is in no class.
        BadSample: A name is in no class.
    """
    if isinstance(value, list | tuple):
        found = [label_of(item, names, first=first, where=where) for item in value]
        if any(not isinstance(label, int) for label in found):
            raise BadSample("bad-label", f"not a list of labels: {str(value)[:60]}", where)
        return tuple(sorted(cast(set[int], set(found))))
    if isinstance(value, str):
        name = normal_form(value.strip())
        if names is not None and name in names:
            if names.count(name) > 1:
                raise DataError(f"{where}: label {name!r} is the name of several classes")
            return names.index(name)
        match = NUMBER.fullmatch(value.strip()[:40])
        if match is None:
            if names is None:
                return None
            raise BadSample("bad-label", f"{value[:40]!r} is in no class", where)
        value = int(match[1])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    if abs(value) > MOST_CLASSES:
        raise BadSample("bad-label", "larger than any number of classes", where)
    return (
        value - first
        if names is None
        else require_class(value, len(names), first=first, where=where)
    )


def spread(count: int, limit: int) -> Sequence[int]:
    """At most `limit` of `count` indices, evenly spaced, the first and the last among them."""
    if count <= limit:
        return range(count)
    return [place * (count - 1) // max(1, limit - 1) for place in range(limit)]
