"""Depth units: members of a list of modules that a residual path runs around.

A member can be left out when a single tensor of it is used later, and that tensor is the member's
input plus something. Norms and elementwise functions on the path do not change the shape; without
the block the network computes with the block's input in the place of its output.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import fx, nn

from osf_supernet.graph.propagation import Propagation, is_pointwise, operator_name
from osf_supernet.trace.tracing import Trace, module_path

_PASSING = {
    *("add", "layer_norm", "rms_norm", "to", "dropout", "clone", "contiguous", "alias"),
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose"),
}


@dataclass(frozen=True, kw_only=True)
class DepthUnit:
    """One block that can be left out.

    Attributes:
        path: module path of the block.
        position: its position in its list.
        source: graph node of the block's residual input.
        result: graph node of its output; without the block it is `source`.
        region: names of the block's nodes.
    """

    path: str
    position: int
    source: str
    result: str
    region: frozenset[str]


def region_of(trace: Trace, path: str) -> list[fx.Node]:
    """The nodes recorded inside a module."""
    return [
        node
        for node in trace.nodes
        if node.op == "call_function"
        and (module_path(node) == path or module_path(node).startswith(f"{path}."))
    ]


def find_depth_units(
    module: nn.Module, trace: Trace, propagation: Propagation
) -> tuple[dict[str, tuple[DepthUnit, ...]], dict[str, str]]:
    """Depth units by list path, and why other lists of two or more modules have none."""
    units: dict[str, tuple[DepthUnit, ...]] = {}
    refused: dict[str, str] = {}
    shared = Counter(id(child) for child in module.modules() for child in child.children())
    for path, owner in module.named_modules():
        if not isinstance(owner, nn.ModuleList | nn.Sequential) or len(owner) < 2:
            continue
        classes = Counter(type(child) for child in owner)
        found: list[DepthUnit] = []
        reasons: list[str] = []
        for position, (name, child) in enumerate(owner._modules.items()):
            if child is None or classes[type(child)] < 2 or not len(child._modules):
                continue  # one of a kind, or a bare operator
            answer = (
                "is used in several places"
                if shared[id(child)] > 1
                else _unit(trace, propagation, f"{path}.{name}" if path else name, position)
            )
            if isinstance(answer, DepthUnit):
                found.append(answer)
            else:
                reasons.append(f"{name} {answer}")
        if found:
            units[path] = tuple(found)
        if reasons:
            refused[path] = "; ".join(reasons)
    lists = [f"{path}." for path in units]
    for path, members in list(units.items()):  # of stages of blocks only the blocks
        blocks = [u for u in members if not any(p.startswith(f"{u.path}.") for p in lists)]
        if len(blocks) < len(members):
            refused[path] = "its stages stay, whose blocks can be left out instead"
            units[path] = tuple(blocks)
        if not blocks:
            del units[path]
    return units, refused


def _unit(trace: Trace, propagation: Propagation, path: str, position: int) -> DepthUnit | str:
    """The unit at a path, or what keeps it from being one."""
    nodes = region_of(trace, path)
    region = set(nodes)
    outside = [
        node
        for node in nodes
        if any(user not in region for user in node.users) and not _from_buffers(node, trace)
    ]
    if len(outside) != 1:
        return f"has {len(outside)} tensors that are used later, expected 1"
    result = outside[0]
    around = _addition_around(trace, result, region)
    if around is not None:
        result = around
        region.add(around)
        nodes.append(around)
    sources = _residual_inputs(trace, result, region)
    shape = [axis.size for axis in propagation.label(result)]
    fitting = [s for s in sources if [axis.size for axis in propagation.label(s)] == shape]
    if len(fitting) != 1:
        return "has no residual path around it"
    return DepthUnit(
        path=path,
        position=position,
        source=fitting[0].name,
        result=result.name,
        region=frozenset(node.name for node in nodes),
    )


def _addition_around(trace: Trace, result: fx.Node, region: set[fx.Node]) -> fx.Node | None:
    """The addition of a block's result to its only input, where the list's owner adds them."""
    entering = {a for node in region for a in node.all_input_nodes if a not in region}
    entering = {a for a in entering if a.name not in trace.parameters}
    users = list(result.users)
    if len(users) == 1 and operator_name(users[0]) == "add":
        others = [a for a in users[0].all_input_nodes if a is not result]
        if len(entering) == 1 and set(others) == entering:
            return users[0]
    return None


def _from_buffers(node: fx.Node, trace: Trace) -> bool:
    """Whether a value is made of constants and buffers alone, so that any block can make it."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current.op == "placeholder":
            name = trace.parameters.get(current.name)
            if name is None or name not in trace.buffers:
                return False
        waiting += current.all_input_nodes
    return True


def _residual_inputs(trace: Trace, result: fx.Node, region: set[fx.Node]) -> list[fx.Node]:
    """Inputs of the region that reach its result through additions and pass-through operators."""
    found: list[fx.Node] = []
    additions, waiting, seen = 0, [result], {result}
    while waiting:
        node = waiting.pop()
        if node not in region:
            found.append(node)
            continue
        name = operator_name(node)
        additions += name == "add"
        inputs = [a for a in node.all_input_nodes if a.name not in trace.parameters]
        if name in _PASSING or (is_pointwise(node) and len(node.all_input_nodes) == 1):
            waiting += [argument for argument in inputs if argument not in seen]
            seen.update(inputs)
    return found if additions else []
