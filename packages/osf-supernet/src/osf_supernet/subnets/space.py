"""Which sizes each group may take: written over kinds or names, read from and to JSON."""

from __future__ import annotations

import fnmatch
import glob
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osf_supernet.command_line import read_small_file
from osf_supernet.graph.expressions import Compound, groups_in, parts_of
from osf_supernet.graph.graph import Graph

_UNITS = ("ratios", "sizes", "widths")
_INNER = ("mlp", "ssm_inner", "channel", "heads")  # kinds that change by default


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The sizes a group may take.

    Attributes:
        unit: "ratios" of the full size, "sizes", or for heads "widths" (heads × head size).
        values: the numbers.
        multiple_of: ratios are rounded to the nearest multiple of this, at least one multiple.
        only_full: leave groups alone whose full size is not the largest value, if others' is.
    """

    unit: str
    values: tuple[float, ...]
    multiple_of: int = 1
    only_full: bool = False

    def __post_init__(self) -> None:
        if self.unit not in _UNITS:
            raise ValueError(f"unit must be one of {', '.join(_UNITS)}, got {self.unit!r}")
        lowest = 0 if self.unit == "sizes" else math.ulp(0.0)
        if not self.values or any(value < lowest for value in self.values):
            raise ValueError(f"values must be positive and at least one, got {self.values}")
        if self.unit == "ratios" and max(self.values) > 1:
            raise ValueError(f"ratios must be in (0, 1], got {max(self.values)}")
        if self.multiple_of < 1:
            raise ValueError(f"multiple_of must be at least 1, got {self.multiple_of}")

    def resolve(self, name: str, full: int, width: int, least: int = 1) -> tuple[int, ...]:
        """The sizes of one group, ascending; empty where the choice leaves it alone.

        Args:
            name: the group's name, for messages.
            full: the group's full size.
            width: for heads, their number times the head size; else the full size.
            least: the smallest legal size.
        """
        whole = width if self.unit == "widths" else full
        if self.only_full and max(self.values) != whole:
            return ()
        if self.unit == "ratios":
            step = min(self.multiple_of, full)
            lowest = step if least else 0
            rounded = {max(lowest, round(full * r / step) * step) for r in self.values if r < 1}
            found = {min(size, full) for size in rounded} | ({full} if 1 in self.values else set())
        else:
            found = {self._legal(name, value, full, whole, least) for value in self.values}
        return tuple(sorted(found))

    def resolve_larger(
        self, groups: Mapping[str, tuple[int, int, int]]
    ) -> dict[str, tuple[int, ...]]:
        """The sizes of groups larger than the largest value, where no group's size is that."""
        own = replace(self, only_full=False)
        return {
            name: own.resolve(name, full, width, least)
            for name, (full, width, least) in groups.items()
            if (width if self.unit == "widths" else full) > max(self.values)
        }

    def _legal(self, name: str, value: float, full: int, whole: int, least: int) -> int:
        size = value * full / whole
        if size != int(size) or not least <= size <= full:
            near = min(max(round(size), least), full) * whole // full
            raise ValueError(
                f"{name} cannot be {value:g}: the nearest legal {self.unit[:-1]} is {near}"
            )
        return int(size)

    def to_dict(self) -> dict[str, Any]:
        """The choice as plain data; what is at its default is left out."""
        data: dict[str, Any] = {self.unit: list(self.values)}
        if self.multiple_of != 1:
            data["multiple_of"] = self.multiple_of
        if self.only_full:
            data["only_full"] = True
        return data


def ratios(*values: float, multiple_of: int = 1) -> Choice:
    """Fractions of the full size."""
    return Choice(unit="ratios", values=values, multiple_of=multiple_of)


def sizes(*values: int) -> Choice:
    """Absolute sizes."""
    return Choice(unit="sizes", values=values)


class Space(Mapping[str, Choice]):
    """Choices by pattern: a kind (`mlp`, `depth`), or a glob over group names.

    A later pattern overrides an earlier one; groups that no pattern matches stay whole.

    Attributes:
        uniform: Whether groups that differ in the number of their layer alone have one size, as
            the configs of most libraries ask for.
    """

    def __init__(self, choices: Mapping[str, Choice], *, uniform: bool = False) -> None:
        self._choices = dict(choices)
        self.uniform = uniform
        for pattern, choice in self._choices.items():
            if not isinstance(choice, Choice):
                raise TypeError(
                    f"the choice of {pattern!r} must be ratios(...) or sizes(...), got {choice!r}"
                )

    def __getitem__(self, pattern: str) -> Choice:
        return self._choices[pattern]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __repr__(self) -> str:
        return f"Space({json.dumps(self.to_dict())})"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `Space.from_dict` is the inverse."""
        found: dict[str, Any] = {name: choice.to_dict() for name, choice in self._choices.items()}
        return found | {"uniform": True} if self.uniform else found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Space:
        """From plain data, ours or the elastic JSON of OFM (see `from_elastic`)."""
        if "elastic_config" in data:
            data = data["elastic_config"]
        parts = [data, *(value for value in data.values() if isinstance(value, Mapping))]
        if any(map(_is_elastic, parts)):
            return cls.from_elastic(data)
        uniform = data.get("uniform", False)
        if not isinstance(uniform, bool):
            raise ValueError(f"uniform must be true or false, got {uniform!r}")
        rest = {pattern: value for pattern, value in data.items() if pattern != "uniform"}
        choices = {pattern: _choice(pattern, value) for pattern, value in rest.items()}
        return cls(choices, uniform=uniform)

    @classmethod
    def read(cls, path: str | Path) -> Space:
        """From a JSON file, or from the `config.json` of a supernet folder."""
        path = Path(path)
        path = path / "config.json" if path.is_dir() else path
        data = read_json_object(path)
        if path.name == "config.json" and "elastic_config" not in data:
            raise ValueError(f"{path} has no elastic_config; expected the folder of a supernet")
        return cls.from_dict(data)

    @classmethod
    def from_elastic(cls, data: Mapping[str, Any]) -> Space:
        """From OFM's keys `atten_out_space`, `inter_hidden_space`, `residual_hidden_space`.

        Lists of one value and `["None"]` fix nothing. A list concerns the groups whose full
        size is its largest value; where there are none, those that are larger.
        `atten_out_space` means heads of unchanged size here (there, a smaller size of each).
        """
        choices: dict[str, Choice] = {}
        for prefixes, part in _towers(data):
            for key, values in part.items():
                if key not in _ELASTIC:
                    raise ValueError(f"unknown key {key!r}; expected {', '.join(_ELASTIC)}")
                if len(values) < 2:
                    continue
                unit, kinds = _ELASTIC[key]
                for prefix, kind in itertools.product(prefixes, kinds):
                    pattern = f"{prefix}*.{kind}" if prefix else kind
                    choices[pattern] = Choice(unit=unit, values=tuple(values), only_full=True)
        return cls(choices)

    def resolve(self, graph: Graph) -> dict[str, tuple[int, ...]]:
        """Group or depth list name → the sizes it may take, ascending.

        Raises:
            ValueError: a pattern matches nothing elastic, or a size is not legal.
        """
        groups = {g.name: (g.kind, g.size, width_of(graph, g.number), 1) for g in graph.elastic()}
        for path, units in graph.units.items():
            groups[f"{path}.depth"] = ("depth", len(units), len(units), graph.least.get(path, 1))
        found: dict[str, tuple[int, ...]] = {}
        reached: set[tuple[float, ...]] = set()
        matched = {
            pattern: {n: g[1:] for n, g in groups.items() if _matches(pattern, n, g[0])}
            for pattern in self._choices
        }
        for pattern, choice in self._choices.items():
            resolved = {n: choice.resolve(n, *sizes) for n, sizes in matched[pattern].items()}
            resolved = {n: values for n, values in resolved.items() if values}
            if not resolved and not choice.only_full:
                raise ValueError(_explain_no_match(pattern, graph, groups))
            found.update(resolved)
            reached |= {choice.values} if resolved else set()
        for pattern, choice in self._choices.items():  # one list may concern several kinds
            if choice.only_full and choice.values not in reached:
                larger = choice.resolve_larger(matched[pattern])
                found.update(larger)
                if not larger and not any(
                    other.values == choice.values and other.resolve_larger(matched[name])
                    for name, other in self._choices.items()
                ):
                    raise ValueError(
                        f"no group that {pattern!r} matches has the full size "
                        f"{max(choice.values):g} or more"
                    )
        return found


def tie_layers(choices: Mapping[str, tuple[int, ...]]) -> dict[str, list[str]]:
    """First name → the names that differ from it in the numbers of layers alone, itself included.

    Depth lists and groups of other sizes stay apart.
    """
    found: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, values in choices.items():
        parts = name.split(".")
        alike = name if parts[-1] == "depth" else ".".join(re.sub(r"^\d+$", "*", p) for p in parts)
        found.setdefault((alike, values), []).append(name)
    return {names[0]: names for names in found.values()}


def default_space(graph: Graph) -> Space:
    """Inner widths, heads and channels down to a quarter, depth down to a half."""
    present = {group.kind for group in graph.elastic()}
    coarse: dict[str, Choice] = {
        kind: ratios(0.25, 0.5, 0.75, 1, multiple_of=1 if kind == "heads" else 8)
        for kind in _INNER
        if kind in present
    }
    for group in graph.elastic():  # as few groups of a group norm as there are
        choice = coarse.get(group.kind)
        if choice and 1 < group.size <= choice.multiple_of and _is_factor(graph, group.number):
            coarse[glob.escape(group.name)] = ratios(0.25, 0.5, 0.75, 1)
    if graph.units:
        coarse["depth"] = ratios(0.5, 0.75, 1)
    return Space(coarse)


def _is_factor(graph: Graph, number: int) -> bool:
    """Whether a group is a factor of wider axes wherever weights have it."""
    axes = [graph.tensors[name][axis] for name, axis in graph.groups[number].members]
    return all(isinstance(axis, Compound) and axis.joined == "product" for axis in axes)


def fine_space(
    graph: Graph, *, kinds: Sequence[str] = _INNER, wide: bool = False, traced: bool = False
) -> Space:
    """Steps of a sixteenth down to an eighth, and any number of blocks; `prune` chooses from it.

    Args:
        graph: The graph of a module.
        kinds: The kinds of groups that may change.
        wide: Whether the residual width, head sizes and groups of no kind may change too, down
            to a quarter.
        traced: Whether sizes may be such that the subnet is a traced graph.
    """
    without = frozenset() if traced else graph.traced_only
    choices: dict[str, Choice] = {}
    for group in (g for g in graph.elastic() if g.name not in without):
        inner = group.kind in kinds
        if inner or wide:
            whole = group.kind in ("heads", "heads_per_group")
            parts = range(2 if inner else 4, 16)
            step = 1 if whole else _step(group.size)
            choices[glob.escape(group.name)] = sizes(*_sixteenths(group.size, parts, step))
    for path, units in graph.units.items():
        if f"{path}.depth" in without:
            continue
        least = max(1, graph.least.get(path, 1))
        choices[glob.escape(f"{path}.depth")] = sizes(*range(least, len(units) + 1))
    return Space(choices)


def _step(size: int) -> int:
    """What sizes are multiples of: 8 for wide layers, where kernels want it."""
    return 8 if size >= 128 else 4 if size >= 32 else 2 if size >= 8 else 1


def _sixteenths(size: int, parts: range, step: int) -> list[int]:
    """The multiples of a step nearest to some sixteenths of a size, and the size."""
    near = {max(step, round(size * part / 16 / step) * step) for part in parts}
    return sorted({min(other, size) for other in near} | {size})


def width_of(graph: Graph, number: int) -> int:
    """A group's size; of heads, times the head size next to it, where there is one."""
    group = graph.groups[number]
    if group.kind != "heads":
        return group.size
    for name, axis in group.members:
        for part in parts_of(graph.tensors[name][axis]):
            if isinstance(part, Compound) and part.joined == "product":
                inside = list(groups_in(part))
                kinds = [graph.groups[n].kind for n in inside if n in graph.groups]
                if inside[0] == number and "head_dim" in kinds and len(part.parts) == 2:
                    return part.size
    return group.size


def read_json_object(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: it holds something else.
        OSError: it cannot be read.
    """
    try:
        data = json.loads(read_small_file(Path(path)))
    except (ValueError, RecursionError) as error:  # no JSON, or no text
        raise ValueError(f"{path}: expected a JSON object, but {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a JSON object, got a {type(data).__name__}")
    return data


_ELASTIC = {
    "atten_out_space": ("widths", ("heads",)),
    "inter_hidden_space": ("sizes", ("mlp", "ssm_inner")),
    "residual_hidden_space": ("sizes", ("embed",)),
}
_TOWERS = {  # how groups of a tower are named, by any library
    "text": ("[!vi]*",),  # text_model.…, text.…, and open_clip's transformer.… and plain heads
    "vision": ("vis*", "image*"),
}


def _is_elastic(data: Mapping[str, Any]) -> bool:
    return any(key in _ELASTIC for key in data)


def _towers(data: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """The parts of elastic JSON with the beginnings of the names they concern."""
    if _is_elastic(data):
        return [(("",), data)]
    unknown = set(data) - set(_TOWERS)
    if unknown:
        raise ValueError(f"unknown part {sorted(unknown)[0]!r}; expected text and vision")
    return [(_TOWERS[name], part) for name, part in data.items()]


def _choice(pattern: str, data: Any) -> Choice:
    if isinstance(data, Choice):
        return data
    known = {*_UNITS, "multiple_of", "only_full"}
    units = [unit for unit in _UNITS if isinstance(data, Mapping) and unit in data]
    if len(units) != 1 or set(data) - known:
        got = sorted(data) if isinstance(data, Mapping) else data
        raise ValueError(
            f"the choice of {pattern!r} must have one of {', '.join(_UNITS)} and optionally "
            f"multiple_of and only_full, got {got}"
        )
    values = data[units[0]]
    if not isinstance(values, list | tuple) or not all(_is_number(value) for value in values):
        raise ValueError(f"{units[0]} of {pattern!r} must be a list of numbers, got {values!r}")
    rest = {key: value for key, value in data.items() if key != units[0]}
    return Choice(unit=units[0], values=tuple(values), **rest)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _matches(pattern: str, name: str, kind: str) -> bool:
    """Whether a pattern names a kind, or is a glob of the name (or of its parent and kind)."""
    if pattern in (kind, f"*.{kind}"):
        return True
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(f"{name}.{kind}", pattern)


def _explain_no_match(pattern: str, graph: Graph, groups: Mapping[str, Any]) -> str:
    frozen = [g for g in graph.groups.values() if g.frozen and _matches(pattern, g.name, g.kind)]
    if frozen:
        return f"{pattern!r} matches frozen groups only: {frozen[0].name}: {frozen[0].frozen}"
    kinds = sorted({kind for kind, *_ in groups.values()})
    return f"{pattern!r} matches no elastic group; kinds here: {', '.join(kinds) or 'none'}"
