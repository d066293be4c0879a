"""From a module to its ATen graph: `torch.export`, non-strict, on fake tensors.

What does not export is recorded instead, from one real call (`recording`)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from osf_supernet.trace.recording import record

Inputs = Sequence[Any] | Mapping[str, Any]


class TraceError(RuntimeError):
    """The module could not be turned into a graph."""


@dataclass(frozen=True)
class Trace:
    """One module's forward as whole ATen operators.

    Attributes:
        graph_module: the graph, with shapes in each node's `meta["val"]`.
        parameters: placeholder name → parameter or buffer name.
        buffers: which of those names are buffers.
        constants: placeholder name → tensor, for tensors the forward made from literals.
        inputs: placeholder names of the call's own inputs, in order, with their values.
        paths: for each of them where it is in the call's arguments, such as `['pixel_values']`.
        outputs: for every graph output its path in the returned structure and its node.
        structure: what the module returned, with the position in `outputs` at each leaf.
        recorded: why the graph had to be recorded from a real call, or None where it was exported.
    """

    graph_module: fx.GraphModule
    parameters: dict[str, str]
    buffers: frozenset[str]
    constants: dict[str, Tensor]
    inputs: dict[str, Any]
    paths: tuple[str, ...]
    outputs: list[tuple[str, fx.Node | None]]
    structure: Any = None
    recorded: str | None = None

    @property
    def nodes(self) -> list[fx.Node]:
        """The nodes in execution order."""
        return list(self.graph_module.graph.nodes)

    def results(self) -> list[Any]:
        """What the call returned, flat: nodes, and what is no tensor as it is."""
        return _results(self.graph_module)[-len(self.outputs) :] if self.outputs else []

    def values_of(self, example_inputs: Inputs | Tensor) -> dict[str, Any]:
        """Placeholder names of the call's own inputs with other values of the same shapes.

        Raises:
            ValueError: the inputs do not have the form of the example.
        """
        given = leaves_of(split_inputs(example_inputs), only_tensors=self.recorded is not None)
        if set(given) != set(self.paths):
            raise ValueError(
                "inputs must have the form of the example, that is the entries "
                f"{', '.join(self.paths)}; got {', '.join(given)}"
            )
        return {name: given[path] for name, path in zip(self.inputs, self.paths, strict=True)}

    def arguments(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> list[Any]:
        """What the graph is called with.

        Args:
            tensors: parameter or buffer name → its value.
            values: placeholder name → value of each of the call's own inputs.
        """
        known = {node: tensors[name] for node, name in self.parameters.items()} | self.constants
        names = [node.name for node in self.nodes if node.op == "placeholder"]
        return [known[name] if name in known else values.get(name) for name in names]

    def move(self, device: torch.device) -> None:
        """Bring inputs and constants, and what the graph creates, to another device."""

        def move_value(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device)
            return device if isinstance(value, torch.device) else value

        for table in (self.inputs, self.constants):
            table.update({name: move_value(value) for name, value in table.items()})
        for node in self.nodes:
            if node.op == "get_attr":
                owner, _, name = str(node.target).rpartition(".")
                holder = self.graph_module.get_submodule(owner)
                setattr(holder, name, move_value(getattr(holder, name)))
            elif node.op == "call_function":
                node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), move_value)


def leaves_of(arguments: Any, *, only_tensors: bool) -> dict[str, Any]:
    """Path in (positional, keyword) arguments → what is there."""
    return {
        pytree.keystr(path[1:]): leaf
        for path, leaf in pytree.tree_flatten_with_path(arguments)[0]
        if isinstance(leaf, Tensor) or not only_tensors  # else what is none is in the graph
    }


def module_path(node: fx.Node) -> str:
    """The innermost module a node was recorded in."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def first_line(error: Exception) -> str:
    """The first line of an exception's message."""
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:200]


def call_model(model: nn.Module, inputs: Inputs | Tensor) -> Any:
    """What a model returns for inputs in any of the forms of `split_inputs`."""
    args, kwargs = split_inputs(inputs)
    return model(*args, **kwargs)


def split_inputs(example_inputs: Inputs | Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments, from a tensor, a tuple or a dict of keywords."""
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    raise TypeError(
        "example_inputs must be a tensor, a tuple of arguments or a dict of keyword "
        f"arguments, got {type(example_inputs).__name__}"
    )


_OWN_TABLES = frozenset(vars(nn.Module()))  # parameters, hooks and so on


@contextmanager
def restore_afterwards(module: nn.Module) -> Any:
    """Attributes, buffers, and lists, dicts and sets of every submodule are restored afterwards.

    Some forwards change their module (Swin's adapts its windows to the image it sees, LeViT's
    keeps the biases of its attention in a dict).
    """
    attributes = [(child, dict(vars(child)), dict(child._buffers)) for child in module.modules()]
    tables = [
        (value, copy(value))
        for _, before, _ in attributes
        for name, value in before.items()
        if isinstance(value, dict | list | set) and name not in _OWN_TABLES
    ]
    values = [(x, x.detach().clone()) for x in module.buffers() if not x.is_inference()]
    try:
        yield module
    finally:
        for child, before, buffers in attributes:
            vars(child).clear()
            vars(child).update(before)
            child._buffers.update(buffers)
        for table, content in tables:
            _refill(table, content)
        with torch.no_grad():
            for tensor, value in values:
                if not (tensor.is_meta or torch.equal(tensor, value)):
                    tensor.copy_(value)


def _refill(table: Any, content: Any) -> None:
    """Give a list, dict or set back what it held."""
    table.clear()
    if isinstance(table, list):
        table.extend(content)
    else:
        table.update(content)


def forget_cached(module: nn.Module) -> None:
    """Let modules drop what they computed from their weights for evaluation, by their own means.

    Those that keep something until they are trained again clear it in a `train` of their own.
    """
    modes = [(child, child.training) for child in module.modules()]
    for child, _ in modes:
        if type(child).train is not nn.Module.train:
            child.train()
    for child, mode in modes:
        child.training = mode


@contextmanager
def evaluation_mode(module: nn.Module) -> Any:
    """The module in `eval` mode, without what it cached; restored afterwards."""
    with restore_afterwards(module):
        forget_cached(module)
        module.eval()
        yield module


@contextmanager
def without_fused_attention() -> Any:
    """`nn.MultiheadAttention` as plain operators rather than one fused one."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _KeepDouble(TorchFunctionMode):
    """Reads float32 as float64 wherever a forward names it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return (Tensor.double if func is Tensor.float else func)(*args, **kwargs)


@contextmanager
def full_precision(module: nn.Module) -> Any:
    """For a module in float64: its forward never rounds to float32 on the way.

    Norms and rotations of many models compute in float32 whatever they are given; comparing
    two ways to compute a subnet to 1e-9 needs them in float64.
    """
    types = {p.dtype for p in module.parameters() if p.is_floating_point()}
    if types != {torch.float64}:
        yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _KeepDouble():
            yield
    finally:
        torch.set_default_dtype(before)


def trace(module: nn.Module, example_inputs: Inputs | Tensor) -> Trace:
    """The graph of one call in evaluation mode; the module is left as it was.

    Raises:
        TraceError: the module could be neither exported nor recorded.
    """
    args, kwargs = split_inputs(example_inputs)
    with (
        evaluation_mode(module),
        without_fused_attention(),
        full_precision(module),
        torch.no_grad(),
    ):
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it prints graphs
                program = torch.export.export(module, args, kwargs, strict=False)
        except Exception as error:  # export raises whatever the model's code raises
            reason = first_line(error)
        else:
            return _read(program, args, kwargs)
        try:
            return _read_recorded(module, args, kwargs, reason)
        except Exception as error:
            remedy = " (pass `({...},)` if forward takes one dict)" * bool(kwargs)
            raise TraceError(
                f"torch.export could not trace {type(module).__name__}: {reason}{remedy}. "
                f"Recording a real call failed too: {error}. {_hint(module, args, kwargs)}"
            ) from error


def _hint(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What a caller may look at: the sizes of the example, and caches where the model has them."""
    leaves = pytree.tree_leaves((args, kwargs))
    shapes = ", ".join(str(tuple(x.shape)) for x in leaves if isinstance(x, Tensor))
    hint = f"The example has the shape {shapes}: see that the model takes it."
    if getattr(getattr(module, "config", None), "use_cache", False):
        hint += " Returned caches cannot be traced: add use_cache=False to the example inputs."
    return hint


def _read_recorded(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], reason: str
) -> Trace:
    """The graph of a recorded call, which could not be exported for a reason."""
    graph_module, names, structure = record(module, args, kwargs)
    placeholders = [n.name for n in graph_module.graph.nodes if n.op == "placeholder"]
    facts: dict[str, Any] = {
        "parameters": dict(zip(placeholders, names, strict=False)),
        "buffers": frozenset(name for name, _ in module.named_buffers()),
        "constants": {},
        "recorded": reason,
    }
    given = leaves_of((args, kwargs), only_tensors=True)
    return _make_trace(graph_module, facts, given, _results(graph_module), structure)


def _read(program: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
    """What the exported program's signature says about its placeholders and outputs."""
    signature = program.graph_signature
    lifted = signature.inputs_to_lifted_tensor_constants.items()
    facts: dict[str, Any] = {
        "parameters": dict(signature.inputs_to_parameters) | dict(signature.inputs_to_buffers),
        "buffers": frozenset(signature.inputs_to_buffers.values()),
        "constants": {name: program.constants[target] for name, target in lifted},
    }
    given = leaves_of((args, kwargs), only_tensors=False)
    results = _results(program.graph_module)[len(signature.buffers_to_mutate) :]
    structure = pytree.tree_unflatten(list(range(len(results))), program.call_spec.out_spec)
    return _make_trace(program.graph_module, facts, given, results, structure)


def _results(graph_module: fx.GraphModule) -> list[Any]:
    """What a graph returns."""
    output = next(node for node in graph_module.graph.nodes if node.op == "output")
    return list(output.args[0])


def _make_trace(
    graph_module: fx.GraphModule,
    facts: dict[str, Any],
    given: dict[str, Any],
    results: list[Any],
    structure: Any,
) -> Trace:
    """A trace of which parameters, buffers and constants are known.

    Args:
        graph_module: the graph.
        facts: those attributes of the trace.
        given: path in the call's arguments → what was passed.
        results: what the graph returns, flat.
        structure: as what the module returned, with the position in `results` at each leaf.
    """
    placeholders = [n.name for n in graph_module.graph.nodes if n.op == "placeholder"]
    known = facts["parameters"] | facts["constants"]
    free = [name for name in placeholders if name not in known]
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(structure)[0]]
    leaves = [leaf if isinstance(leaf, fx.Node) else None for leaf in results]
    return Trace(
        graph_module=graph_module,
        inputs=dict(zip(free, given.values(), strict=True)),
        paths=tuple(given),
        outputs=list(zip(paths, leaves, strict=True)),
        structure=structure,
        **facts,
    )
