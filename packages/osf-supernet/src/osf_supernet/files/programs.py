"""The graph of a subnet as JSON: operators by name, of which only those that compute are read.

What is read names functions of a closed kind: operators of ATen on tensors and numbers, and the
few of `_OTHERS`. None of them opens a file.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from osf_supernet.graph.modes import run_batch_norm, run_dropout
from osf_supernet.subnets.graph_module import Program

_OTHERS = {
    "getitem": operator.getitem,
    "mul": operator.mul,
    "add": operator.add,
    "floordiv": operator.floordiv,
    "batch_norm": run_batch_norm,
    "dropout": run_dropout,
}
_NAMES = {function: name for name, function in _OTHERS.items()}
_WORDS = frozenset(  # arguments of operators that may be words
    ("equation", "approximate", "rounding_mode", "mode", "reduce", "indexing", "padding", "norm")
)
_KINDS = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}


def program_to_dict(program: Program) -> dict[str, Any]:
    """A program as plain data for JSON, without its constants.

    Raises:
        ValueError: it holds an operator, an input or an output that JSON cannot name.
    """
    leaves, spec = pytree.tree_flatten(program.structure)
    try:
        structure = pytree.treespec_dumps(spec)
    except NotImplementedError as error:
        raise ValueError(f"what the subnet returns cannot be written: {error}") from error
    inputs = {
        path: {"shape": list(value)} if isinstance(value, torch.Size) else _encode(value)
        for path, value in program.inputs.items()
    }
    graph = program.graph_module.graph
    output = next(node for node in graph.nodes if node.op == "output")
    return {
        "placeholders": [node.name for node in graph.nodes if node.op == "placeholder"],
        "nodes": [
            [node.name, _name_of(node.target), _encode(node.args), _encode(dict(node.kwargs))]
            for node in graph.nodes
            if node.op == "call_function"
        ],
        "results": _encode(output.args[0]),
        "tensors": list(program.tensors),
        "constants": len(program.constants),
        "inputs": inputs,
        "names": list(program.names),
        "structure": {"leaves": leaves, "spec": structure},
        "free": None if program.free is None else sorted(map(list, program.free)),
    }


def program_from_dict(data: dict[str, Any], constants: Sequence[Tensor]) -> Program:
    """The program that `program_to_dict` wrote.

    Raises:
        ValueError: it names an operator that is not read, or is not whole.
    """
    try:
        return _read(data, constants)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"the graph of the subnet cannot be read: {error!r}") from error
    except NotImplementedError as error:
        raise ValueError(
            f"what the subnet returns is of a library that is not imported: {error}"
        ) from error


def _read(data: dict[str, Any], constants: Sequence[Tensor]) -> Program:
    graph = fx.Graph()
    known = {name: graph.placeholder(name) for name in data["placeholders"]}
    for name, target, args, kwargs in data["nodes"]:
        function = _function(target)
        arguments = tuple(_decode(args, known)), _decode_table(kwargs, known)
        known[name] = graph.call_function(function, *arguments)
    graph.output(_decode(data["results"], known))
    structure = data["structure"]
    spec = pytree.treespec_loads(structure["spec"])
    free = data["free"]
    return Program(
        fx.GraphModule(torch.nn.Module(), graph),
        data["tensors"],
        constants,
        {
            path: torch.Size(value["shape"]) if _is_shape(value) else _decode(value, known)
            for path, value in data["inputs"].items()
        },
        data["names"],
        pytree.tree_unflatten(structure["leaves"], spec),
        None if free is None else frozenset((path, dim) for path, dim in free),
    )


def _is_shape(value: Any) -> bool:
    return isinstance(value, dict) and "shape" in value


def _name_of(target: Any) -> str:
    if target in _NAMES:
        return _NAMES[target]
    name = str(target)
    if _operator(name) is not target:
        raise ValueError(f"the subnet computes {name}, which cannot be written")
    return name


def _function(name: str) -> Any:
    found = _OTHERS.get(name) or _operator(name)
    if found is None:
        raise ValueError(f"the graph of the subnet names {name!r}, which is no operator to run")
    return found


def _operator(name: str) -> Any:
    """The operator of ATen that `aten.view.default` names, if it computes on tensors alone."""
    parts = name.split(".")
    if len(parts) != 3 or parts[0] != "aten" or not all(part.isidentifier() for part in parts):
        return None
    packet = getattr(torch.ops.aten, parts[1], None)
    found = getattr(packet, parts[2], None) if packet is not None else None
    if not isinstance(found, torch._ops.OpOverload):
        return None
    schema = found._schema
    words = {a.name for a in schema.arguments if "str" in str(a.type) and "stride" not in a.name}
    given = [str(a.type) for a in (*schema.arguments, *schema.returns)]
    return found if words <= _WORDS and any("Tensor" in kind for kind in given) else None


def _encode(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    for kind, cls in _KINDS.items():
        if isinstance(value, cls):
            return {kind: str(value).removeprefix("torch.")}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"the subnet is given {value!r}, which cannot be written")


def _decode(value: Any, known: dict[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(item, known) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, item),) = value.items()
    if kind == "node":
        return known[item]
    if kind == "float":
        return float(item)
    found = getattr(torch, item)
    if not isinstance(found, _KINDS[kind]):
        raise ValueError(f"the graph of the subnet names torch.{item}, which is no {kind}")
    return found


def _decode_table(value: dict[str, Any], known: dict[str, fx.Node]) -> dict[str, Any]:
    return {key: _decode(item, known) for key, item in value.items()}
