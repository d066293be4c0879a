"""The supernet that the options of a command describe."""

from __future__ import annotations

import argparse
import pickle
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from osf_supernet.command_line import one_line, read_launch
from osf_supernet.commands.libraries import build_model
from osf_supernet.files.folders import load_supernet
from osf_supernet.loadable import loadable_space
from osf_supernet.subnets.planning import Config
from osf_supernet.subnets.space import Space
from osf_supernet.supernet import Supernet

_SAID_BY_CONFIG: dict[str, tuple[str, ...] | None] = {
    "transformers": None,
    "open_clip": ("mlp", "depth"),
    "clip-models": ("mlp", "heads", "depth"),
}


def build_supernet(options: argparse.Namespace) -> Supernet:
    """The supernet of MODEL with the weights and the space that the options name.

    Weights stored in half precision become float32 where a supernet is trained or searched.

    Raises:
        ValueError: They do not go together, or a file does not fit.
        OSError: A file cannot be read.
    """
    if options.supernet and (options.weights or options.space):
        raise ValueError("--supernet has weights and a space: leave out --weights and --space")
    if options.loadable and options.space:
        raise ValueError("--loadable says which sizes: leave out --space")
    device = _choose_device(options.device)
    space = Space.read(options.space) if options.space else None
    torch.manual_seed(options.seed)
    model, inputs = build_model(options.model, options.image_size, options.num_classes)
    if options.weights:
        _load_weights(model, options.weights, options.model)
    if options.supernet or options.command in ("train", "search"):
        model = model.to(torch.promote_types(_precision_of(model), torch.float32))
        inputs = pytree.tree_map_only(Tensor, _widen, inputs)
    model = model.to(device)
    inputs = pytree.tree_map_only(Tensor, lambda x: x.to(device), inputs)
    if options.supernet:
        return load_supernet(options.supernet, model, inputs)
    net = Supernet(model, inputs, space)
    if options.loadable:
        net.space = loadable_space(net, _said_kinds(options.model))
    return net


def _said_kinds(model: str) -> tuple[str, ...] | None:
    """The kinds of sizes that a library's config says; None where that is tried out.

    Raises:
        ValueError: The library keeps no config of sizes beside its weights.
    """
    library = model.partition(":")[0]
    if library not in _SAID_BY_CONFIG:
        known = ", ".join(_SAID_BY_CONFIG)
        raise ValueError(f"--loadable is for models of {known}, which have a config; got {model}")
    return _SAID_BY_CONFIG[library]


def _precision_of(model: nn.Module) -> torch.dtype:
    """The type of the first weights that are no integers."""
    types = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(types, torch.float32)


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def sample_subnet(net: Supernet, options: argparse.Namespace) -> Config:
    """The random config that `--seed` and the bounds give."""
    return net.sample(seed=options.seed, max_params=options.max_params, max_flops=options.max_flops)


def _choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA if available, otherwise the CPU.

    Without a number each process of torchrun has the CUDA device of its own.

    Raises:
        ValueError: The device cannot be used on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    launch = read_launch()
    if name == "cuda" and launch.world_size > 1:
        name = f"cuda:{launch.local_rank}"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {name!r} cannot be used: {reason}; try cpu") from None


def _load_weights(model: nn.Module, file: str, name: str) -> None:
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} is no file; expected a state dict")
    try:
        model.load_state_dict(_read_state(path))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).split("\n")]
        raise ValueError(f"{file} does not fit {name}: {lines[min(1, len(lines) - 1)]}") from error


def _read_state(file: Path) -> dict[str, Tensor]:
    """The state dict in a file of safetensors or torch; of a checkpoint that under its usual keys.

    Raises:
        ValueError: it holds something else, or something that would have to be executed.
    """
    if file.suffix not in (".pt", ".pth", ".bin", ".ckpt"):
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(
                f"{file} is no safetensors file: {error}; files of torch end in .pt or .pth"
            ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles of another protocol
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{file} holds no plain tensors: {one_line(error)[:200]}") from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
        raise ValueError(f"{file} must hold a state dict, got a {type(found).__name__}")
    prefix = "module."  # of torch's data parallelism
    if found and all(name.startswith(prefix) for name in found):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found
