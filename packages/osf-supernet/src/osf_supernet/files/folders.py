"""Saving an extracted subnet and building it again, without the supernet.

A folder holds `model.safetensors` and `osf.json`. Nothing in it names code: `load_subnet` is given
a module of the full architecture (fresh, with any weights, also on the meta device) and makes it
the small one by what the JSON says about lists, integers and shapes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from osf_supernet.counting import storage_key
from osf_supernet.files.programs import program_from_dict, program_to_dict
from osf_supernet.graph.graph import named_tensors
from osf_supernet.output_files import replace_file, write_text
from osf_supernet.subnets.graph_module import GraphSubnet, remove_modules
from osf_supernet.subnets.integer_attributes import integers_of
from osf_supernet.subnets.space import Space, read_json_object
from osf_supernet.subnets.surgery import Surgery, extract_module
from osf_supernet.supernet import Supernet

_CONSTANT = "osf_constants.{}"
_WEIGHTS, _RECORD, _SUPERNET = "model.safetensors", "osf.json", "osf_supernet.json"


def save_subnet(module: nn.Module, folder: str | Path) -> None:
    """Write an extracted subnet: weights, buffers, record and certificate.

    Args:
        module: what `Supernet.extract` returned, trained further or not.
        folder: made if it does not exist.
    """
    record = vars(module).get("osf_record")
    if record is None:
        raise ValueError("save_subnet takes what Supernet.extract returned: osf_record is missing")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[Any, str] = {}
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in named_tensors(module).items():
        first = names.setdefault(storage_key(tensor), name)
        if first == name:
            tensors[name] = tensor.detach().contiguous().cpu()
        else:
            aliases[name] = first
    if isinstance(module, GraphSubnet):
        program = vars(module)["program"]
        record = record | {"program": program_to_dict(program)}
        for number, constant in enumerate(program.constants):
            tensors[_CONSTANT.format(number)] = constant.detach().clone().contiguous().cpu()
    digest = _write_weights(folder, lambda path: save_file(tensors, path))
    record = record | {"aliases": aliases, "sha256": {_WEIGHTS: digest}}
    write_text(folder / _RECORD, json.dumps(record, indent=2, sort_keys=True) + "\n")


def load_subnet(folder: str | Path, full: nn.Module) -> nn.Module:
    """The saved subnet, as a plain module of the class of `full`, or as the graph that it was.

    Args:
        folder: what `save_subnet` wrote.
        full: a module of the architecture the subnet was cut from; it is not changed.

    Raises:
        ValueError: the folder does not fit the module.
    """
    folder = Path(folder)
    record = _read_record(folder / _RECORD, "subnet", full)
    _require_size(record.get("full", {}), full)
    surgery = Surgery(
        attributes={name: _integers(value) for name, value in record["attributes"].items()},
        items={path: tuple(kept) for path, kept in record["items"].items()},
    )
    module = extract_module(full, surgery)
    stored = load_file(folder / _WEIGHTS)
    if record.get("backend") == "graph":
        module = _read_graph(record, module, stored)
    stored |= {alias: stored[first] for alias, first in record["aliases"].items()}
    expected = set(named_tensors(module))
    if expected != set(stored):
        odd = sorted(expected ^ set(stored))[:3]
        raise ValueError(f"{folder} does not fit the module, tensors differ: {', '.join(odd)}")
    _fill(module, stored)
    written = ("aliases", "sha256", "program")
    vars(module)["osf_record"] = {k: v for k, v in record.items() if k not in written}
    return module


def _read_graph(record: dict[str, Any], holder: nn.Module, stored: dict[str, Tensor]) -> nn.Module:
    """The traced graph that a record holds, on the tensors of a module; takes constants out."""
    data = record["program"]
    constants = [stored.pop(_CONSTANT.format(number)) for number in range(data["constants"])]
    program = program_from_dict(data, constants)
    remove_modules(holder, record["gone"])
    return GraphSubnet(holder, program)


def save_supernet(net: Supernet, folder: str | Path) -> None:
    """Write a supernet: the model's weights, its space and the order of its blocks."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    digest = _write_weights(folder, lambda path: save_model(net.model, str(path)))
    record = {
        "format": 1,
        "class": type(net.model).__qualname__,
        "space": net.space.to_dict(),
        "depth_orders": net.depth_orders,
        "outputs": list(net.outputs),
        "backend": net.backend,
        "sha256": {_WEIGHTS: digest},
    }
    write_text(folder / _SUPERNET, json.dumps(record, indent=2) + "\n")


def load_supernet(folder: str | Path, model: nn.Module, example_inputs: Any) -> Supernet:
    """The saved supernet on a module of its architecture, whose weights are replaced.

    Args:
        folder: what `save_supernet` wrote.
        model: a module of the same architecture.
        example_inputs: what to trace it with.

    Raises:
        ValueError: the folder does not fit the module.
    """
    folder = Path(folder)
    record = _read_record(folder / _SUPERNET, "supernet", model)
    try:
        load_model(model, str(folder / _WEIGHTS))
    except RuntimeError as error:
        raise ValueError(f"{folder / _WEIGHTS} does not fit the model: {error}") from error
    space = Space.from_dict(record["space"])
    backend = record.get("backend", "auto")
    net = Supernet(model, example_inputs, space, outputs=record["outputs"], backend=backend)
    net.depth_orders = record["depth_orders"]
    return net


def _require_size(recorded: dict[str, Any], full: nn.Module) -> None:
    """Refuse a module of another size than the one the subnet was cut from."""
    parameters = dict(full.named_parameters(remove_duplicate=False))
    message = "the subnet was cut from a module whose {}, got {}: give a module of the full size"
    for name, shape in recorded.get("shapes", {}).items():
        got = list(parameters[name].shape) if name in parameters else None
        if got != shape:
            raise ValueError(message.format(f"{name} has shape {shape}", got))
    for name, expected in recorded.get("integers", {}).items():
        path, _, attribute = name.rpartition(".")
        owner = full.get_submodule(path)
        found = [value for other, _, value in integers_of(owner) if other == attribute]
        if any(value not in found for value in expected):
            raise ValueError(message.format(f"{name} has {expected}", found))


def _write_weights(folder: Path, write: Callable[[Path], object]) -> str:
    """Write the weights of a folder, as readable as its other files; their SHA-256 digest.

    By itself safetensors makes a file that only its owner can read.
    """
    with replace_file(folder / _WEIGHTS) as path:
        path.touch()
        mode = path.stat().st_mode
        try:
            write(path)
        except SafetensorError as error:
            raise OSError(str(error)) from None
        path.chmod(mode)
        return _digest(path)


def _read_record(file: Path, what: str, module: nn.Module) -> dict[str, Any]:
    """The record of a folder, after the digest of the weights was compared.

    Raises:
        ValueError: It is of another format or class, or the weights are damaged.
    """
    record: dict[str, Any] = read_json_object(file)
    if record.get("format") != 1:
        raise ValueError(f"{file} must have format 1, got {record.get('format')!r}")
    if record["class"] != type(module).__qualname__:
        raise ValueError(
            f"the {what} is of class {record['class']}, got {type(module).__qualname__}"
        )
    expected = record.get("sha256", {}).get(_WEIGHTS)  # folders of earlier releases have none
    weights = file.with_name(_WEIGHTS)
    if not weights.is_file():
        raise ValueError(
            f"{weights} is missing, or no regular file; copy or write the folder again"
        )
    if expected is not None and _digest(weights) != expected:
        raise ValueError(
            f"{weights} is damaged: its SHA-256 is not the one in {file.name}; copy or write the "
            "folder again"
        )
    return record


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _integers(value: Any) -> Any:
    """Recorded attributes are integers or lists of them, nothing else."""
    if isinstance(value, list):
        return tuple(_integers(item) for item in value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"recorded attributes must be integers, got {value!r}")
    return value


def _fill(module: nn.Module, stored: dict[str, Tensor]) -> None:
    """Put the stored tensors in place; what was one tensor stays one."""
    made: dict[int, Tensor] = {}
    for prefix, owner in module.named_modules():
        tables: list[dict[str, Any]] = [owner._parameters, owner._buffers]
        for table in tables:
            for name, old in list(table.items()):
                if old is None:
                    continue
                if id(old) not in made:
                    value = stored[f"{prefix}.{name}" if prefix else name]
                    value = value.to("cpu" if old.is_meta else old.device)
                    if isinstance(old, nn.Parameter):
                        value = nn.Parameter(value, old.requires_grad)
                    made[id(old)] = value
                table[name] = made[id(old)]
