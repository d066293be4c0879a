"""Tables that rename a state dict, in both directions and bit for bit.

A rule relates tensors of our naming (OpenAI CLIP's) to tensors of a foreign one. In a name, `#`
matches a number and `*` the rest of the name; both match the same text on both sides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clip_models.errors import CheckpointError

Transform = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Rule(NamedTuple):
    """How tensors of our naming correspond to tensors of a foreign one."""

    native: tuple[str, ...]
    foreign: tuple[str, ...]
    to_native: Transform
    to_foreign: Transform


def keep(native: str, foreign: str) -> Rule:
    """One tensor under two names."""
    return Rule((native,), (foreign,), list, list)


def transpose(native: str, foreign: str) -> Rule:
    """A matrix and its transpose."""
    return Rule((native,), (foreign,), _each(torch.t), _each(torch.t))


def flatten_patches(native: str, foreign: str) -> Rule:
    """The kernel (D, 3, p, p) of a convolution and a matrix (D, p * p * 3) for patches."""

    def unflatten(value: Tensor) -> Tensor:
        side = math.isqrt(value.shape[-1] // 3)
        if value.ndim != 2 or side * side * 3 != value.shape[1]:
            raise ValueError(
                f"its shape is {tuple(value.shape)}, expected (D, p * p * 3) for patches of p x p"
            )
        return value.view(-1, side, side, 3).permute(0, 3, 1, 2).contiguous()

    def flatten(value: Tensor) -> Tensor:
        return value.permute(0, 2, 3, 1).flatten(1)

    return Rule((native,), (foreign,), _each(unflatten), _each(flatten))


def squeeze(native: str, foreign: str, count: int = 1) -> Rule:
    """A tensor with `count` more leading dimensions of size one in the foreign naming."""

    def remove(value: Tensor) -> Tensor:
        if value.shape[:count] != (1,) * count:
            raise ValueError(
                f"its shape is {tuple(value.shape)}, expected {count} leading dimensions of 1"
            )
        return value.reshape(value.shape[count:])

    def add(value: Tensor) -> Tensor:
        return value.reshape((1,) * count + value.shape)

    return Rule((native,), (foreign,), _each(remove), _each(add))


def concatenate(native: str, foreign: Sequence[str]) -> Rule:
    """A tensor whose equal parts along the first dimension are separate in the foreign naming."""
    rule = split(foreign, native, shares=(1,) * len(foreign))
    return Rule(rule.foreign, rule.native, rule.to_foreign, rule.to_native)


def split(native: Sequence[str], foreign: str, *, shares: Sequence[int]) -> Rule:
    """Tensors that are one in the foreign naming, along the first dimension in these shares."""

    def split(values: Sequence[Tensor]) -> Sequence[Tensor]:
        part, rest = divmod(len(values[0]), sum(shares))
        if rest:
            raise ValueError(f"it has {len(values[0])} rows, which {sum(shares)} does not divide")
        return torch.split(values[0], [part * share for share in shares])

    return Rule(tuple(native), (foreign,), split, lambda values: [torch.cat(list(values))])


def keep_layer(native: str, foreign: str) -> list[Rule]:
    """Weight and bias of a linear layer or a norm."""
    return [keep(f"{native}.{part}", f"{foreign}.{part}") for part in ("weight", "bias")]


def rename(
    state: Mapping[str, Tensor],
    rules: Iterable[Rule],
    *,
    to: str,
    dropped: Iterable[str] = (),
    what: str = "the state dict",
) -> dict[str, Tensor]:
    """The state dict under the other names.

    Args:
        state: Tensors by name.
        rules: What relates the two namings.
        to: "native" or "foreign".
        dropped: Names, with `#` and `*`, of tensors that have no counterpart and need none.
        what: What `state` is, for messages.

    Raises:
        CheckpointError: A tensor has no name in the other naming, or one of its parts is missing.
    """
    rest, renamed = dict(state), dict[str, Tensor]()
    for rule in rules:
        sources, targets = (
            (rule.foreign, rule.native) if to == "native" else (rule.native, rule.foreign)
        )
        transform = rule.to_native if to == "native" else rule.to_foreign
        for match in [match for key in rest if (match := _pattern(sources[0]).fullmatch(key))]:
            names = [_fill(source, match) for source in sources]
            lacking = [name for name in names if name not in rest]
            if lacking:
                raise CheckpointError(f"{what} has {match[0]} but no {lacking[0]}")
            try:
                values = transform([rest.pop(name) for name in names])
            except (RuntimeError, ValueError) as error:
                raise CheckpointError(f"{what}: {match[0]} cannot be converted: {error}") from None
            renamed.update(zip([_fill(target, match) for target in targets], values, strict=True))
    unknown = [key for key in rest if not any(_pattern(d).fullmatch(key) for d in dropped)]
    if unknown:
        more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
        raise CheckpointError(f"{what} has unknown tensors: {', '.join(unknown[:4])}{more}")
    return renamed


def _each(function: Callable[[Tensor], Tensor]) -> Transform:
    return lambda values: [function(value) for value in values]


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"))


def _fill(template: str, match: re.Match[str]) -> str:
    found = iter(match.groups())
    return re.sub(r"[#*]", lambda _: next(found), template)
