"""What can be had of a supernet, in words: how small it gets, and what each choice is worth."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from osf_supernet.graph.explanation import is_minor
from osf_supernet.graph.graph import DimGroup, Graph
from osf_supernet.subnets.counts import Counts
from osf_supernet.tables import format_table

Choices = Mapping[str, tuple[int, ...]]


class Overview:
    """The words for one supernet."""

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        choices: Choices,
        counts: Counts,
        inputs: Any,
        followers: Collection[str] = (),  # whose size is another's
    ) -> None:
        self.followers = followers
        self.model, self.graph, self.choices, self.counts = model, graph, choices, counts
        leaves = [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
        self.shapes = ", ".join(str(tuple(x.shape)) for x in leaves)
        self.params, self.flops = counts.parameters({}), counts.operations({})

    def headline(self) -> str:
        """One line: the class, its parameters and its operations."""
        kind = type(self.model).__name__
        return f"{kind}: {self.params:,} parameters, {_short(self.flops)} operations"

    def least(self) -> str:
        """One line: what the smallest subnet of the space has."""
        smallest = {name: values[0] for name, values in self.choices.items()}
        params, flops = self.counts.parameters(smallest), self.counts.operations(smallest)
        subnets = 1
        for name, values in self.choices.items():
            subnets *= 1 if name in self.followers else len(values)
        count = f"{subnets:,}" if subnets < 10**6 else f"{float(subnets):.0e}"
        return (
            f"smallest subnet: {params:,} parameters ({_share(params, self.params)}), "
            f"{_share(flops, self.flops)} of the operations; {count} subnets"
        )

    def short(self) -> str:
        """A line per kind of choice."""
        kinds: dict[str, list[str]] = {}
        for name, kind, _ in self._choosable():
            if name in self.choices:
                kinds.setdefault(kind, []).append(name)
        rows = [["kind", "number", "sizes", "alone at its smallest saves"]]
        for kind, names in kinds.items():
            sizes = [size for name in names for size in self.choices[name]]
            least = {name: self.choices[name][0] for name in names}
            saved = _share(self.params - self.counts.parameters(least), self.params)
            rows.append([kind, str(len(names)), f"{min(sizes)} … {max(sizes)}", saved])
        frozen = sum(not is_minor(group) for group in self._frozen())
        lines = [self.headline(), self.least(), format_table(rows)]
        if frozen:
            what = "dimension is" if frozen == 1 else "dimensions are"
            lines.append(f"{frozen} {what} frozen: explain() says why")
        return "\n".join(lines)

    def explain(self, *, everything: bool = False) -> str:
        """Sizes, worth and reasons, line by line."""
        lines = [self.headline(), f"traced on inputs of {self.shapes}", self.least(), ""]
        lines.append("elastic: kind, full size, [sizes], what it saves alone at its smallest")
        for name, kind, size in self._choosable():
            values = self.choices.get(name, ())
            sizes = ", ".join(map(str, values)) or "not in the space"
            line = f"  {name}  {kind} {size}  [{sizes}]"
            if values and values[0] < size:
                params = self.params - self.counts.parameters({name: values[0]})
                flops = self.flops - self.counts.operations({name: values[0]})
                line += (
                    f"  {_share(params, self.params)} of the parameters, "
                    f"{_share(flops, self.flops)} of the operations"
                )
            lines.append(line)
        frozen = self._frozen()
        shown = [group for group in frozen if everything or not is_minor(group)]
        lines += ["", "frozen: kind, full size, why"]
        alike: dict[tuple[str, int, str | None], list[str]] = {}
        for group in shown:
            alike.setdefault((group.kind, group.size, group.frozen), []).append(group.name)
        for (kind, size, reason), names in alike.items():
            more = f" (and {len(names) - 1} alike)" if len(names) > 1 else ""
            lines.append(f"  {names[0]}{more}  {kind} {size}  {reason}")
        lines += [f"  {path}.depth  {reason}" for path, reason in self.graph.refused.items()]
        if len(shown) < len(frozen):
            count = len(frozen) - len(shown)
            what = "axis of a kernel or an input" if count == 1 else "axes of kernels and inputs"
            lines.append(f"  and {count} {what}: explain(everything=True)")
        return "\n".join(lines)

    def _choosable(self) -> list[tuple[str, str, int]]:
        found = [(group.name, group.kind, group.size) for group in self.graph.elastic()]
        units = self.graph.units.items()
        return found + [(f"{path}.depth", "depth", len(blocks)) for path, blocks in units]

    def _frozen(self) -> list[DimGroup]:
        return [group for group in self.graph.groups.values() if group.frozen is not None]


def _share(part: float, whole: float) -> str:
    return f"{part / max(1, whole):.1%}"


def _short(number: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
