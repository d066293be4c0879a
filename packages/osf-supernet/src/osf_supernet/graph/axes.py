"""What an axis is made of: a product of atoms or a concatenation of segments, united by use.

An axis starts as one atom. `view(768 → 12, 64)` makes it a product, `chunk(3)` a concatenation;
an addition unites two axes, part by part. Two axes whose structures cannot be brought to a
common refinement are frozen, with the reason, never guessed at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence


class Axis:
    """One axis, or a part of one: an atom (no parts), a product or a concatenation.

    Attributes:
        size: number of indices.
        joined: what the parts form, "product" (row-major) or "concat"; None for an atom.
        parts: the parts of a product or concatenation.
        frozen: why the size and order of an atom must stay, or None.
        marks: what operators use an atom for ("heads", "normalized", …).
    """

    __slots__ = ("_parent", "frozen", "joined", "marks", "parts", "size")

    def __init__(self, size: int, frozen: str | None = None) -> None:
        self.size = size
        self.joined: str | None = None
        self.parts: list[Axis] = []
        self.frozen = frozen
        self.marks: set[str] = set()
        self._parent: Axis | None = None

    def root(self) -> Axis:
        """The representative of everything united with this axis."""
        axis = self
        while axis._parent is not None:
            axis = axis._parent
        current = self
        while current._parent is not None:  # shorten the way for next time
            current._parent, current = axis, current._parent
        return axis

    def resolved_parts(self) -> list[Axis]:
        """The representatives of the parts."""
        return [part.root() for part in self.root().parts]


def product(parts: Sequence[Axis]) -> Axis:
    """The row-major product; parts of size 1 carry nothing and are left out."""
    flat: list[Axis] = []
    for part in (part.root() for part in parts):
        flat += part.resolved_parts() if part.joined == "product" else [part]
    return _make_compound(
        "product", [p for p in flat if p.size != 1], math.prod(p.size for p in flat)
    )


def concat(parts: Sequence[Axis]) -> Axis:
    """The parts one after the other."""
    flat: list[Axis] = []
    for part in (part.root() for part in parts):
        flat += part.resolved_parts() if part.joined == "concat" else [part]
    if len(flat) > 1 and all(part.size == 1 for part in flat):
        return Axis(len(flat), "its entries are single values with different roles")
    return _make_compound("concat", [p for p in flat if p.size], sum(p.size for p in flat))


def _make_compound(how: str, parts: list[Axis], size: int) -> Axis:
    if len(parts) == 1:
        return parts[0]
    axis = Axis(size)
    if parts:
        axis.joined, axis.parts = how, parts
    return axis


def atoms(axis: Axis) -> Iterator[Axis]:
    """The atoms of an axis, in order, with repetition; those of size 1 are left out."""
    axis = axis.root()
    if axis.joined is None:
        if axis.size != 1:
            yield axis
        return
    for part in axis.parts:
        yield from atoms(part)


def freeze(axis: Axis, reason: str) -> None:
    """Every atom of the axis must keep its size and order; the first reason stays."""
    for atom in atoms(axis):
        atom.frozen = atom.frozen or reason


def mark(axis: Axis, name: str) -> None:
    """Note on every atom of the axis what an operator uses it for."""
    for atom in atoms(axis):
        atom.marks.add(name)


def split_product(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """The axis as a row-major product of axes of these sizes."""
    parts = [Axis(size) for size in sizes]
    unite(axis, product(parts))
    return [part.root() for part in parts]


def split_concat(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """The axis as consecutive segments of these sizes."""
    parts = [Axis(size) for size in sizes]
    if len(parts) > 1 and all(part.size == 1 for part in parts):
        freeze(axis, "its entries are accessed one by one")
        return parts
    unite(axis, concat(parts))
    return [part.root() for part in parts]


def unite(a: Axis, b: Axis) -> None:
    """Make two axes the same, refining their structures to a common one.

    Axes of size 1 broadcast and are not united. Where no common structure exists both are frozen.
    """
    a, b = a.root(), b.root()
    if a is b or a.size == 1 or b.size == 1:
        return
    if a.size != b.size:
        _give_up(a, b, f"an axis of {a.size} meets an axis of {b.size}")
    elif a.joined is None or b.joined is None:
        _join_atom(*((a, b) if a.joined is None else (b, a)))
    elif a.joined == b.joined:
        _unite_parts(a, b)
    else:
        mixed, other = (a, b) if a.joined == "concat" else (b, a)
        if _factor_out(mixed, other.resolved_parts()[-1].size):
            unite(mixed, other)
        else:
            _give_up(a, b, "a concatenation meets a product whose factors do not fit its segments")


def _join_atom(atom: Axis, other: Axis) -> None:
    """Let an atom be what the other axis is."""
    if atom.frozen:
        freeze(other, atom.frozen)
    for name in atom.marks:
        mark(other, name)
    atom._parent = other


def _give_up(a: Axis, b: Axis, reason: str) -> None:
    freeze(a, reason)
    freeze(b, reason)


def _unite_parts(a: Axis, b: Axis) -> None:
    """Refine both part lists until they match one to one, then unite the pairs."""
    pairs = _align_parts(a, b)
    if pairs is None:
        _give_up(a, b, "two structures of one axis have no common refinement")
        return
    for left, right in pairs:
        unite(left, right)
    b._parent = a


def _align_parts(a: Axis, b: Axis) -> list[tuple[Axis, Axis]] | None:
    """Pairs of equal parts; a larger one is split by the smaller.

    Factors are compared from right to left, segments from left to right.
    """
    is_product, pairs = a.joined == "product", []
    left, right = a.resolved_parts(), b.resolved_parts()
    if not is_product:
        left, right = left[::-1], right[::-1]
    while left and right:
        x, y = left.pop(), right.pop()
        if x.size == y.size:
            pairs.append((x, y))
            continue
        big, small, rest = (x, y, left) if x.size > y.size else (y, x, right)
        if not is_product:
            equal, other = split_concat(big, [small.size, big.size - small.size])
        elif big.size % small.size:
            return None
        else:
            other, equal = split_product(big, [big.size // small.size, small.size])
        rest.append(other)
        pairs.append((equal, small))
    return None if left or right else pairs


def _factor_out(axis: Axis, inner: int) -> bool:
    """Turn a concatenation of multiples of `inner` into (concatenation) × `inner`."""
    segments = axis.resolved_parts()
    if any(segment.size % inner for segment in segments):
        return False
    factor = Axis(inner)
    outers = []
    for segment in segments:
        outer, own = split_product(segment, [segment.size // inner, inner])
        unite(factor, own)
        outers.append(outer)
    whole = product([concat(outers), factor])
    if whole.root() is not axis:
        axis.joined, axis.parts = "product", whole.resolved_parts()
    return axis.joined == "product"
