"""`osf explain`, `osf sample`, `osf extract` and `osf verify`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from osf_supernet.commands.models import build_supernet, sample_subnet
from osf_supernet.counting import count_parameters
from osf_supernet.files.folders import save_subnet
from osf_supernet.files.hub import push_to_hub
from osf_supernet.graph.drawing import graph_to_svg
from osf_supernet.graph.explanation import graph_to_dict, graph_to_dot
from osf_supernet.output_files import make_new_directory, require_new_directory
from osf_supernet.subnets.space import read_json_object


def explain(options: argparse.Namespace) -> None:
    """Print the groups of a model."""
    net = build_supernet(options)
    if options.json:
        print(json.dumps(graph_to_dict(net.graph), indent=2))
    elif options.format == "dot":
        print(graph_to_dot(net.graph))
    elif options.format == "svg":
        print(graph_to_svg(net.graph))
    else:
        print(net.explain())


def sample(options: argparse.Namespace) -> None:
    """Print a random config."""
    net = build_supernet(options)
    config = sample_subnet(net, options)
    if options.json:
        print(json.dumps(config, indent=2))
        return
    for name, size in config.items():
        print(f"{name} {size} of {net.largest[name]}")
    print(f"{net.parameters_of(config):,} of {count_parameters(net.model):,} parameters")


def extract(options: argparse.Namespace) -> None:
    """Write a verified subnet to a folder."""
    if options.config and (options.max_params or options.max_flops):
        raise ValueError("--config says all sizes: leave out --max-params and --max-flops")
    folder = Path(options.out)
    require_new_directory(folder, overwrite=options.overwrite)
    config = read_json_object(options.config) if options.config else None
    net = build_supernet(options)
    small = net.extract(sample_subnet(net, options) if config is None else config)
    make_new_directory(folder, overwrite=options.overwrite)
    save_subnet(small, folder)
    full, count = count_parameters(net.model), count_parameters(small)
    print(f"{count:,} of {full:,} parameters ({count / full:.1%}) in {folder}")
    if options.push_to_hub:
        print(push_to_hub(small, options.push_to_hub, token=options.token))


def verify(options: argparse.Namespace) -> None:
    """Compare the largest, the smallest and random subnets with the oracle."""
    net = build_supernet(options)
    configs = [net.largest, net.smallest]
    configs += [net.sample(seed=options.seed + i) for i in range(options.samples)]
    certificates = []
    for config in configs:
        certificate = net.verify(config)
        certificates.append(certificate.to_dict())
        if not options.json:
            print(
                f"{net.parameters_of(config):,} parameters: error {certificate.max_error:.2g}, "
                f"allowed {certificate.tolerance:g} ({certificate.precision})"
            )
    if options.json:
        print(json.dumps(certificates, indent=2))
