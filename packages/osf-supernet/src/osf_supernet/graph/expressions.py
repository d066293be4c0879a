"""Frozen forms of axes: sizes and kept indices as functions of the groups' choices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osf_supernet.graph.axes import Axis


@dataclass(frozen=True)
class Atom:
    """An indivisible axis: the dimension group it belongs to, and its full size."""

    group: int
    size: int


@dataclass(frozen=True)
class Compound:
    """A "product" (row-major) or "concat" of expressions."""

    joined: str
    parts: tuple[Expression, ...]

    @property
    def size(self) -> int:
        """The full size."""
        sizes = [part.size for part in self.parts]
        return math.prod(sizes) if self.joined == "product" else sum(sizes)


Expression = Atom | Compound
FIXED = -1  # the group number of axes that are 1


class Numbering:
    """Consecutive numbers for atoms, in order of appearance."""

    def __init__(self) -> None:
        self.atoms: list[Axis] = []
        self._numbers: dict[int, int] = {}

    def expression(self, axis: Axis) -> Expression:
        """The frozen form of an axis."""
        axis = axis.root()
        if axis.joined is not None:
            return Compound(axis.joined, tuple(self.expression(part) for part in axis.parts))
        if axis.size == 1:
            return Atom(FIXED, 1)
        if id(axis) not in self._numbers:
            self._numbers[id(axis)] = len(self.atoms)
            self.atoms.append(axis)
        return Atom(self._numbers[id(axis)], axis.size)


def groups_in(expression: Expression) -> Iterator[int]:
    """The groups in an expression, in order, with repetition."""
    if isinstance(expression, Atom):
        if expression.group != FIXED:
            yield expression.group
        return
    for part in expression.parts:
        yield from groups_in(part)


def parts_of(expression: Expression) -> Iterator[Expression]:
    """The expression itself and everything inside it, also runs of consecutive factors."""
    yield expression
    if isinstance(expression, Compound):
        parts = expression.parts
        if expression.joined == "product":
            for start in range(len(parts)):
                for stop in range(start + 2, len(parts) + 1):
                    if stop - start < len(parts):
                        yield Compound("product", parts[start:stop])
        for part in parts:
            yield from parts_of(part)


def size_of(expression: Expression, sizes: Mapping[int, Any]) -> Any:
    """The size with the given groups at the given sizes (ints, or tensors of candidates)."""
    if isinstance(expression, Atom):
        return sizes.get(expression.group, expression.size)
    values = [size_of(part, sizes) for part in expression.parts]
    return math.prod(values) if expression.joined == "product" else sum(values)


def indices_of(expression: Expression, kept: Mapping[int, Sequence[int]]) -> Sequence[int]:
    """The kept indices of an axis, given the kept indices of the groups."""
    if isinstance(expression, Atom):
        return kept.get(expression.group, range(expression.size))
    if not any(group in kept for group in groups_in(expression)):
        return range(expression.size)
    if expression.joined == "product":
        return _product_indices(expression.parts, kept)
    result: list[int] = []
    offset = 0
    for part in expression.parts:
        result += [offset + index for index in indices_of(part, kept)]
        offset += part.size
    return result


def _product_indices(
    parts: tuple[Expression, ...], kept: Mapping[int, Sequence[int]]
) -> Sequence[int]:
    result: Sequence[int] = range(1)
    for part in parts:
        inner = indices_of(part, kept)
        if isinstance(result, range) and result.start == 0 and inner == range(part.size):
            result = range(len(result) * part.size)
        else:
            result = [outer * part.size + index for outer in result for index in inner]
    return result


def pattern_of(expression: Expression, kinds: Mapping[int, str]) -> str:
    """The expression in words: `heads*head_dim`, `(embed+embed)`."""
    if isinstance(expression, Atom):
        return kinds.get(expression.group, str(expression.size))
    sign = "*" if expression.joined == "product" else "+"
    inner = sign.join(pattern_of(part, kinds) for part in expression.parts)
    return f"({inner})" if expression.joined == "concat" else inner
