"""The split that is read, of those that a data set has."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from clip_eval.data.faults import DataError


def resolve_split(
    available: Collection[str], split: str | None, *, preferred: Sequence[str], where: object
) -> str:
    """The split that was asked for; else the first preferred one, or the only one.

    Args:
        available: The splits that are there; at least one.
        split: The split that was asked for, if any.
        preferred: Splits to take without being asked, best first.
        where: The data set, for the message.

    Raises:
        DataError: It does not exist, or there are several and none of them is preferred.
    """
    names = ", ".join(sorted(available))
    if split is not None:
        if split not in available:
            raise DataError(f"{where}: no split {split!r}; there are {names}")
        return split
    found = [name for name in preferred if name in available]
    if not found and len(available) > 1:
        raise DataError(f"{where}: several splits ({names}); name one of them")
    return found[0] if found else next(iter(available))
