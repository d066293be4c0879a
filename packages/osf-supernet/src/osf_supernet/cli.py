"""`osf explain|sample|extract|verify`: supernets on the command line.

A model is named `module:factory`, a callable without arguments that returns the module, or the
module and its example inputs; `torchvision:NAME` and `timm:NAME` build that library's model.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from osf_supernet.archive import save
from osf_supernet.counting import count_parameters
from osf_supernet.explanation import graph_to_dict, graph_to_dot
from osf_supernet.space import Space
from osf_supernet.supernet import Supernet
from osf_supernet.verification import VerificationError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 1 if a subnet fails its verification."""
    options = _parser().parse_args(arguments)
    net = _supernet(options)
    try:
        return int(_COMMANDS[options.command](net, options))
    except VerificationError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="osf", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("explain", "print every group: elastic with its sizes, or frozen with the reason"),
        ("sample", "print a random config as JSON"),
        ("extract", "write a verified subnet to a folder"),
        ("verify", "check the largest, the smallest and random subnets against the oracle"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("model", help="module:factory, torchvision:NAME or timm:NAME")
        command.add_argument("--weights", help="safetensors file with the model's state dict")
        command.add_argument("--image-size", type=int, default=224, help="of the example image")
        command.add_argument("--space", help="JSON file of a space")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--max-params", type=float, help="number, or fraction up to 1")
        command.add_argument("--max-flops", type=float, help="number, or fraction up to 1")
        if name == "explain":
            command.add_argument("--format", choices=("text", "json", "dot"), default="text")
        if name == "extract":
            command.add_argument("--config", help="JSON file of a config; sampled by default")
            command.add_argument("--output", required=True, help="folder to write")
        if name == "verify":
            command.add_argument("--samples", type=int, default=3)
    return parser


def _supernet(options: argparse.Namespace) -> Supernet:
    model, inputs = _model(options.model, options.image_size)
    if options.weights:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(options.weights))
    space = Space.read(options.space) if options.space else None
    return Supernet(model, inputs, space)


def _model(name: str, image_size: int) -> tuple[nn.Module, Any]:
    """The module that a name stands for, and inputs to trace it with."""
    library, _, factory = name.partition(":")
    if not factory:
        raise SystemExit(f"expected module:factory, torchvision:NAME or timm:NAME, got {name!r}")
    image = torch.randn(1, 3, image_size, image_size)
    if library == "torchvision":
        made = importlib.import_module("torchvision.models").get_model(factory)
    elif library == "timm":
        made = importlib.import_module("timm").create_model(factory)
    else:
        made = getattr(importlib.import_module(library), factory)()
    model, inputs = made if isinstance(made, tuple) else (made, image)
    return model.eval(), inputs


def _sampled(net: Supernet, options: argparse.Namespace) -> dict[str, int]:
    return net.sample(
        seed=options.seed,
        max_params=_bound(options.max_params),
        max_flops=_bound(options.max_flops),
    )


def _bound(value: float | None) -> float | None:
    return value if value is None or value <= 1 else int(value)


def _explain(net: Supernet, options: argparse.Namespace) -> int:
    if options.format == "json":
        print(json.dumps(graph_to_dict(net.graph), indent=2))
    elif options.format == "dot":
        print(graph_to_dot(net.graph))
    else:
        print(net.explain())
    return 0


def _sample(net: Supernet, options: argparse.Namespace) -> int:
    print(json.dumps(_sampled(net, options), indent=2))
    return 0


def _extract(net: Supernet, options: argparse.Namespace) -> int:
    if options.config:
        config = json.loads(Path(options.config).read_text(encoding="utf-8"))
    else:
        config = _sampled(net, options)
    small = net.extract(config)
    save(small, options.output)
    full, count = count_parameters(net.model), count_parameters(small)
    print(f"{count:,} of {full:,} parameters ({count / full:.1%}) in {options.output}")
    return 0


def _verify(net: Supernet, options: argparse.Namespace) -> int:
    configs = [net.largest, net.smallest]
    configs += [net.sample(seed=options.seed + i) for i in range(options.samples)]
    for config in configs:
        certificate = net.verify(config)
        print(
            f"{net.parameters_of(config):,} parameters: error {certificate.max_error:.2g}, "
            f"allowed {certificate.tolerance:g} ({certificate.precision})"
        )
    return 0


_COMMANDS = {"explain": _explain, "sample": _sample, "extract": _extract, "verify": _verify}
