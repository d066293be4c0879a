"""From a module to its ATen graph by recording one real call, for what does not export.

The call runs on the real tensors under a dispatch mode that records every operator before
composite ones are decomposed. Branches of the forward that depend on tensor values are taken as in
this call: the graph holds for inputs (and subnets) that take the same ones, which verification
checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.utils import _pytree as pytree


def record(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[fx.GraphModule, list[str], Any]:
    """One call as a graph.

    Returns:
        The graph, whose placeholders are the module's distinct tensors, then the input tensors;
        the names of the former in order; and the returned structure with output positions.
    """
    named = dict(module.named_parameters()) | dict(module.named_buffers())
    leaves, spec = pytree.tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    structure: list[Any] = []

    def call(own: list[Tensor], given: list[Tensor]) -> list[Any]:
        rest = iter(given)
        flat = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        new_args, new_kwargs = pytree.tree_unflatten(flat, spec)
        with _record_paths(module):
            output = functional_call(
                module, dict(zip(named, own, strict=True)), new_args, new_kwargs
            )
        flat_output, output_spec = pytree.tree_flatten(output)
        structure.append(pytree.tree_unflatten(list(range(len(flat_output))), output_spec))
        return flat_output

    with torch.no_grad():
        graph_module = make_fx(
            call, pre_dispatch=True, _allow_non_fake_inputs=True, _error_on_data_dependent_ops=False
        )([tensor.detach() for tensor in named.values()], tensors)
    return graph_module, list(named), structure[-1]


@contextmanager
def _record_paths(module: nn.Module) -> Iterator[None]:
    """Nodes recorded in a submodule's call get the submodule's path, as with `torch.export`."""
    mode = get_proxy_mode()
    assert mode is not None
    graph: Any = mode.tracer.graph
    first: list[int] = []

    def enter(*_: Any) -> None:
        first.append(len(graph.nodes))

    def leave(path: str) -> Any:
        def note(owner: nn.Module, *_: Any) -> None:
            for node in list(graph.nodes)[first.pop() :]:
                if "nn_module_stack" not in node.meta:  # the innermost call comes first
                    node.meta["nn_module_stack"] = {path: (path, type(owner))}

        return note

    handles = []
    for path, child in module.named_modules():
        handles.append(child.register_forward_pre_hook(enter))
        handles.append(child.register_forward_hook(leave(path)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
