"""What can be had of one model of another library, as one line of JSON.

    python packages/osf-supernet/bench/third_party_row.py timm resnet18

`third_party_table.py` does it in a process of its own for each model.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from osf_supernet import Supernet, count_parameters
from osf_supernet.graph.expressions import groups_in
from third_party_models import NotCounted, build, call
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

REACH = 0.7
MOST_UNUSED = 0.5
"""A call that leaves more of the parameters unused says nothing about a model."""


def randomize(model: nn.Module) -> nn.Module:
    """Generic values of a scale that keeps signals alive: no zero or one hides a mistake."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            few = parameter.dim() < 2 or not parameter.numel()
            scale = 0.1 if few else parameter[0].numel() ** -0.5
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(noise + (1.0 if parameter.dim() == 1 else 0.0))
        for module in model.modules():
            if isinstance(getattr(module, "running_var", None), Tensor):
                module.running_mean.uniform_(-0.1, 0.1, generator=generator)
                module.running_var.uniform_(0.8, 1.2, generator=generator)
    return model


def measure(library: str, name: str) -> Iterator[dict[str, Any]]:
    """The row of a model, first with our columns, then with all; a failure says in which part."""
    row: dict[str, Any] = {"library": library, "model": name}
    try:
        model, inputs, row["form"] = build(library, name)
        row["parameters"] = count_parameters(model)
        row["unused"] = unused_share(model, inputs)
        if row["unused"] > MOST_UNUSED:
            raise NotCounted(f"the example call leaves {row['unused']:.0%} of it unused")
    except NotCounted as reason:
        yield row | {"not_counted": str(reason)}
        return
    except Exception as error:  # a library's own code may raise anything
        yield row | {"not_counted": first_line(error)}
        return
    randomize(model)
    for part, columns in (
        ("supernet", supernet_columns),
        ("torch_pruning", torch_pruning_columns),
    ):
        start = time.process_time()
        try:
            row |= columns(copy.deepcopy(model), inputs)
        except Exception as error:  # whatever it is, it is what the row says
            row[f"{part}_failure"] = first_line(error)
        row[f"{part}_seconds"] = time.process_time() - start
        yield row


def first_line(error: Exception) -> str:
    """Type and first line of an error."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def unused_share(model: nn.Module, inputs: Any) -> float:
    """The share of the parameters that no gradient of the outputs reaches."""
    outputs = [x for x in pytree.tree_leaves(call(model, inputs)) if isinstance(x, Tensor)]
    total = sum(x.float().square().mean() for x in outputs if x.requires_grad)
    if isinstance(total, Tensor):
        total.backward()
    unused = sum(p.numel() for p in model.parameters() if p.grad is None)
    model.zero_grad()
    return unused / max(1, count_parameters(model))


def supernet_columns(model: nn.Module, inputs: Any) -> dict[str, Any]:
    """Elastic share, smallest subnet, its error and operations; a random one below 70 % too."""
    net = Supernet(model, inputs)
    full = count_parameters(model)
    found: dict[str, Any] = {
        "elastic": elastic_share(net),
        "smallest": net.parameters_of(net.smallest) / full,
        "notes": list(net.verify(net.largest).notes),
    }
    configs = [net.smallest]
    if found["smallest"] <= REACH:
        configs.append(net.sample(seed=0, max_params=REACH))
    errors, flops = [], []
    for config in configs:
        try:
            small = net.extract(config)
            with net.active(config):
                expected = outputs_of(model, inputs)
            errors.append(relative_error(outputs_of(small, inputs), expected))
            flops.append((int(net.flops_of(config)), count_operations(small, inputs)))
        except Exception as error:  # the other columns stay
            found["extract_failure"] = first_line(error)
            return found
        if count_parameters(small) != net.parameters_of(config):
            found["extract_failure"] = "the number of parameters is not the predicted one"
    return found | {"error": max(errors), "flops": flops}


def elastic_share(net: Supernet) -> float:
    """The share of the parameters in tensors that some elastic group or removable block cuts."""
    elastic = {group.number for group in net.graph.elastic()}
    blocks = tuple(f"{unit.path}." for units in net.graph.units.values() for unit in units)
    total = changing = 0
    for name, parameter in net.model.named_parameters():
        total += parameter.numel()
        groups = {g for axis in net.graph.tensors.get(name, ()) for g in groups_in(axis)}
        changing += parameter.numel() * bool(groups & elastic or name.startswith(blocks))
    return changing / max(1, total)


@contextlib.contextmanager
def plain_kernels() -> Any:
    """Attention as plain matrix products, which is what the counter sees."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def outputs_of(model: nn.Module, inputs: Any) -> list[Tensor]:
    """The tensors of one call."""
    with plain_kernels():
        return [x for x in pytree.tree_leaves(call(model, inputs)) if isinstance(x, Tensor)]


def relative_error(got: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference over the largest entry, infinite for other shapes."""
    if [x.shape for x in got] != [x.shape for x in expected]:
        return float("inf")
    worst = 0.0
    for one, two in zip(got, expected, strict=True):
        if one.numel() and not torch.equal(one, two):
            gap = (one.double() - two.double()).abs().nan_to_num(float("inf"), posinf=0.0).max()
            worst = max(worst, float(gap) / (float(two.double().abs().max()) or 1.0))
    return worst


def count_operations(model: nn.Module, inputs: Any) -> int:
    """What torch counts in one call."""
    with plain_kernels(), FlopCounterMode(display=False) as counter:
        call(model, inputs)
    return int(counter.get_total_flops())


def torch_pruning_columns(model: nn.Module, inputs: Any) -> dict[str, Any]:
    """What torch-pruning's magnitude pruner leaves with its defaults at a ratio of 50 %.

    Nothing is ignored, or the layers that make the outputs, or all that are as wide as an output
    (its README ignores those as wide as the classes); what leaves least and still runs counts.
    """
    full, shapes = count_parameters(model), [tuple(x.shape) for x in outputs_of(model, inputs)]
    found, failures = [], []
    for ignored in ((), last_layers(model, inputs), layers_as_wide(model, shapes)):
        try:
            small = prune_with_torch_pruning(copy.deepcopy(model), inputs, ignored)
            same = [tuple(x.shape) for x in outputs_of(small, inputs)] == shapes
            found.append((not same, count_parameters(small) / full))
        except Exception as error:  # a library's own code may raise anything
            failures.append(error)
    if not found:
        raise failures[0]
    other_outputs, share = min(found)
    return {"torch_pruning": share, "torch_pruning_same_outputs": not other_outputs}


def prune_with_torch_pruning(model: nn.Module, inputs: Any, ignored: Iterable[str]) -> nn.Module:
    """One step of its magnitude pruner."""
    import torch_pruning as tp

    pruner = tp.pruner.MagnitudePruner(
        model,
        inputs,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[model.get_submodule(path) for path in ignored],
    )
    pruner.step()
    model.zero_grad()
    return model


def last_layers(model: nn.Module, inputs: Any) -> list[str]:
    """The paths of the modules without children whose results are outputs."""
    made: dict[int, tuple[str, Any]] = {}  # the results are kept, so that no number occurs twice

    def remember(path: str) -> Any:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            made[id(result)] = path, result

        return hook

    hooks = [
        module.register_forward_hook(remember(path))
        for path, module in model.named_modules()
        if not any(module.children())
    ]
    outputs = outputs_of(model, inputs)
    for hook in hooks:
        hook.remove()
    return sorted({made[id(output)][0] for output in outputs if id(output) in made})


def layers_as_wide(model: nn.Module, shapes: list[tuple[int, ...]]) -> list[str]:
    """The paths of linear layers and convolutions that are as wide as an output."""
    widths = {shape[-1] for shape in shapes if shape} | {s[1] for s in shapes if len(s) > 2}
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and getattr(module, "out_features", getattr(module, "out_channels", 0)) in widths
    ]


def main() -> None:
    """Print the row of the named model."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):  # some libraries print
        *_, row = measure(*sys.argv[1:3])
    print(json.dumps(row))


if __name__ == "__main__":
    main()
