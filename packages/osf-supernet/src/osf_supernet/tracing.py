"""From a module to its ATen graph: `torch.export`, non-strict, on fake tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

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
        outputs: for every graph output its path in the returned structure and its node.
    """

    graph_module: fx.GraphModule
    parameters: dict[str, str]
    buffers: frozenset[str]
    constants: dict[str, Tensor]
    inputs: dict[str, Any]
    outputs: list[tuple[str, fx.Node | None]]

    @property
    def nodes(self) -> list[fx.Node]:
        """The nodes in execution order."""
        return list(self.graph_module.graph.nodes)


def module_path(node: fx.Node) -> str:
    """The innermost module a node was recorded in."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


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


@contextmanager
def evaluation_mode(module: nn.Module) -> Any:
    """The module in `eval` mode, every submodule's own mode restored afterwards."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        for child, mode in modes:
            child.training = mode


@contextmanager
def without_fused_attention() -> Any:
    """`nn.MultiheadAttention` as plain operators rather than one fused one."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def trace(module: nn.Module, example_inputs: Inputs | Tensor) -> Trace:
    """The graph of one call in evaluation mode; the module is left as it was.

    Raises:
        TraceError: `torch.export` could not follow the module.
    """
    args, kwargs = split_inputs(example_inputs)
    with evaluation_mode(module), without_fused_attention(), torch.no_grad():
        try:
            program = torch.export.export(module, args, kwargs, strict=False)
        except Exception as error:  # export raises whatever the model's code raises
            raise TraceError(
                f"torch.export could not trace {type(module).__name__}: {error}. Data-dependent "
                "control flow and returned caches are the usual causes; switch them off in "
                "example_inputs (for example use_cache=False)."
            ) from error
    return _read(program, args, kwargs)


def _read(program: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
    """What the exported program's signature says about its placeholders and outputs."""
    signature = program.graph_signature
    parameters = dict(signature.inputs_to_parameters) | dict(signature.inputs_to_buffers)
    constants = {
        name: program.constants[target]
        for name, target in signature.inputs_to_lifted_tensor_constants.items()
    }
    graph_module = program.graph_module
    known = set(parameters) | set(constants)
    free = [
        n.name for n in graph_module.graph.nodes if n.op == "placeholder" and n.name not in known
    ]
    flat = pytree.tree_flatten((args, kwargs))[0]
    output = next(n for n in graph_module.graph.nodes if n.op == "output")
    leaves = list(output.args[0])[len(signature.buffers_to_mutate) :]
    template = pytree.tree_unflatten(list(range(len(leaves))), program.call_spec.out_spec)
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(template)[0]]
    return Trace(
        graph_module=graph_module,
        parameters=parameters,
        buffers=frozenset(signature.inputs_to_buffers.values()),
        constants=constants,
        inputs=dict(zip(free, flat, strict=True)),
        outputs=[
            (path, leaf if isinstance(leaf, fx.Node) else None)
            for path, leaf in zip(paths, leaves, strict=True)
        ],
    )
