"""Faults of data, as exceptions and as records that go into a result."""

from __future__ import annotations

from dataclasses import dataclass


class DataError(ValueError):
    """A data set that cannot be used as asked; the message is one line for the user."""


class MachineError(DataError):
    """The machine has run out of descriptors, memory or disk: the run stops, no data is blamed."""


class BadSample(ValueError):
    """One sample that cannot be used; it is skipped and counted, the run goes on.

    Attributes:
        reason: A short fixed word such as `truncated`, to count by.
        detail: What was found, for a person.
        key: Which sample, where known.
    """

    def __init__(self, reason: str, detail: str = "", key: str = "") -> None:
        super().__init__(reason, detail, key)
        self.reason = reason
        self.detail = detail
        self.key = key

    def __str__(self) -> str:
        return ": ".join(part for part in (self.key, self.reason, self.detail) if part)


class BadImage(BadSample):
    """One image that cannot be decoded."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Damage found while listing a data set, which goes on without the damaged part.

    Attributes:
        where: The file, relative to the data set where possible.
        reason: A short fixed word, to count by.
        detail: What was found and what was kept.
    """

    where: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}"
