"""A subnet as its traced graph with the sizes baked in, where the class cannot express them.

`Program` runs on whatever module holds the tensors: the supernet's own in `active`, or a
`GraphSubnet`, which is what extraction returns then.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from osf_supernet.graph.graph import Graph
from osf_supernet.graph.rewriting import Rewriter
from osf_supernet.subnets.planning import Plan
from osf_supernet.subnets.surgery import extract_module
from osf_supernet.trace.tracing import leaves_of

_Norm = nn.modules.batchnorm._NormBase
Free = frozenset[tuple[str, int]]  # (path of an input, dimension)


class Program:
    """A graph with the sizes of one subnet.

    Attributes:
        graph_module: its operators; called with module, device, tensors, constants and inputs.
        tensors: names of the parameters and buffers that it reads.
        constants: other tensors that it reads.
        inputs: path of every input in the call's arguments → its traced shape, or its value.
        names: the names of the forward's parameters.
        structure: what is returned, with positions of results at the leaves.
        free: the input dimensions that may have other sizes than traced; None where any may.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        tensors: Sequence[str],
        constants: Sequence[Tensor],
        inputs: Mapping[str, Any],
        names: Sequence[str],
        structure: Any,
        free: Free | None = None,
    ) -> None:
        self.graph_module, self.tensors, self.constants = graph_module, tensors, list(constants)
        self.inputs, self.names, self.structure, self.free = dict(inputs), names, structure, free

    def __call__(self, owner: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """What the subnet returns, with the tensors of a module."""
        values = self._read_inputs(args, kwargs)
        tensors = [_find(owner, name) for name in self.tensors]
        device = tensors[0].device if tensors else torch.device("cpu")
        constants = [tensor.to(device) for tensor in self.constants]
        results = self.graph_module(owner, device, *tensors, *constants, *values)
        return pytree.tree_map(results.__getitem__, self.structure)

    def _read_inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The inputs in order, however they were passed.

        Raises:
            ValueError: they do not have the form, or the sizes, that the graph was traced with.
        """
        positional = {name.split("]")[0][1:] for name in self.inputs if name[1].isdigit()}
        count = len(positional)
        if len(args) > count:
            kwargs = dict(zip(self.names[count:], args[count:], strict=False)) | kwargs
            args = args[:count]
        while len(args) < count and self.names[len(args) :][:1] and self.names[len(args)] in kwargs:
            kwargs = dict(kwargs)
            args = (*args, kwargs.pop(self.names[len(args)]))
        given = leaves_of((args, kwargs), only_tensors=False)
        unknown = [path for path in given if path not in self.inputs]
        odd = [path for path in unknown if isinstance(given[path], Tensor)]
        if odd:
            raise ValueError(f"{odd[0]} was no input when the graph was traced; leave it out")
        return [self._read_input(path, known, given) for path, known in self.inputs.items()]

    def _read_input(self, path: str, known: Any, given: dict[str, Any]) -> Any:
        if not isinstance(known, torch.Size):
            if path in given and given[path] != known:
                raise ValueError(f"{path} was {known!r} when the graph was traced, and must stay")
            return known
        value = given.get(path)
        if not isinstance(value, Tensor) or value.dim() != len(known):
            got = tuple(value.shape) if isinstance(value, Tensor) else value
            raise ValueError(f"{path} must be a tensor of {len(known)} dimensions, got {got}")
        for dim, (size, wanted) in enumerate(zip(value.shape, known, strict=True)):
            if size != wanted and self.free is not None and (path, dim) not in self.free:
                raise ValueError(
                    f"dimension {dim} of {path} must be {wanted}, got {size}: this subnet is a "
                    "traced graph, which was not found to hold for other sizes there; give an "
                    "example of another size in more_inputs"
                )
        return value


def _find(owner: nn.Module, name: str) -> Any:
    found: Any = owner
    for part in name.split("."):
        found = getattr(found, part)
    return found


def build_program(
    module: nn.Module,
    graph: Graph,
    kept: Mapping[int, Sequence[int]],
    dropped: Mapping[str, str],
    free: Free | None = None,
) -> Program:
    """The program of a subnet, from the trace of the full module.

    Args:
        module: the module that was traced.
        graph: its graph.
        kept: group number → kept indices, for groups that are not whole.
        dropped: result node → source node of every block that is left out.
        free: see `Program`.

    Raises:
        ValueError: the graph holds what cannot be copied.
    """
    rewriter = Rewriter(graph, kept, dropped)
    graph_module = rewriter.run()
    trace = graph.trace
    inputs = {
        path: value.shape if isinstance(value, Tensor) else value
        for path, value in zip(trace.paths, trace.inputs.values(), strict=True)
    }
    names = tuple(inspect.signature(type(module).forward).parameters)[1:]
    return Program(
        graph_module, rewriter.tensors, rewriter.constants, inputs, names, trace.structure, free
    )


def extract_plan(module: nn.Module, plan: Plan) -> nn.Module:
    """A plain smaller copy of a module, or its traced graph where the class cannot express it."""
    if not plan.traced:
        return extract_module(module, plan.surgery)
    holder = extract_module(module, replace(plan.surgery, forward=None))
    remove_modules(holder, plan.gone)
    program: Any = plan.surgery.forward
    return GraphSubnet(holder, program)


def remove_modules(holder: nn.Module, paths: Sequence[str]) -> None:
    """Take submodules away; the names of the others stay."""
    for path in paths:
        parent, _, name = path.rpartition(".")
        holder.get_submodule(parent)._modules.pop(name, None)


class GraphSubnet(nn.Module):
    """A subnet that runs as a traced graph; its tensors have the names they had in the module.

    It is what evaluation computes; in training mode batch norms and dropout follow the mode, while
    what else the class does then (dropping whole paths, dropout inside fused attention) is absent.
    """

    def __init__(self, holder: nn.Module, program: Program) -> None:
        """Args:
        holder: Its tensors and the plain modules of torch in it become those of the subnet.
        program: What runs on them.
        """
        super().__init__()
        made: dict[int, nn.Module] = {}
        take_over(self, holder, made)
        self.training = holder.training
        vars(self)["program"] = program

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returned in the traced call, for other inputs of its form."""
        return vars(self)["program"](self, *args, **kwargs)

    def extra_repr(self) -> str:
        """The number of operators."""
        graph = vars(self)["program"].graph_module.graph
        return f"{sum(node.op == 'call_function' for node in graph.nodes)} operators"


def take_over(target: nn.Module, source: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """Give one module the tensors of another, and plain holders for its children.

    Args:
        target: an empty module.
        source: where the tensors are.
        made: holders by the identity of what they stand for, since modules may be shared.
    """
    target._parameters = dict(source._parameters)
    target._buffers = dict(source._buffers)
    target._non_persistent_buffers_set = set(source._non_persistent_buffers_set)
    for name, child in source._modules.items():
        if child is not None and (id(child) in made or next(_tensors(child), None) is not None):
            if id(child) not in made:
                made[id(child)] = _holder(child)
                if made[id(child)] is not child:
                    take_over(made[id(child)], child, made)
                    made[id(child)].training = child.training
            target._modules[name] = made[id(child)]
    return target


def _tensors(module: nn.Module) -> Any:
    yield from module.parameters()
    yield from module.buffers()


def _holder(module: nn.Module) -> nn.Module:
    """A leaf of torch itself, another norm's plain form, or an empty module."""
    plain = type(module).__module__.startswith("torch.nn.modules")
    if plain and not module._modules and not vars(module).get("forward"):
        return module
    if isinstance(module, _Norm):
        base = next(c for c in type(module).__mro__ if c.__module__.startswith("torch.nn.modules"))
        norm: Any = base
        return norm(
            module.num_features,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
            device="meta",
        )
    return nn.Module()
