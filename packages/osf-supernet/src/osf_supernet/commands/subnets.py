"""`osf explain`, `osf sample`, `osf extract` and `osf verify`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from osf_supernet.commands.extraction import (
    DEFAULT_SHARE,
    choose,
    is_unbounded,
    require_one_choice,
    write_model,
)
from osf_supernet.commands.models import build_supernet, sample_subnet
from osf_supernet.counting import count_parameters
from osf_supernet.files.hub import push_to_hub
from osf_supernet.graph.drawing import graph_to_html, graph_to_svg
from osf_supernet.graph.explanation import graph_to_dict, graph_to_dot
from osf_supernet.output_files import make_new_directory, require_new_directory


def explain(options: argparse.Namespace) -> None:
    """Print the groups of a model."""
    net = build_supernet(options)
    if options.json:
        print(json.dumps(graph_to_dict(net.graph), indent=2))
    elif options.format == "dot":
        print(graph_to_dot(net.graph))
    elif options.format in ("svg", "html"):
        draw = {"svg": graph_to_svg, "html": graph_to_html}[options.format]
        print(draw(net.graph, net.choices, net.headline()))
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
    require_one_choice(options)
    folder = Path(options.out)
    require_new_directory(folder, overwrite=options.overwrite)
    net = build_supernet(options)
    small = choose(net, options)
    make_new_directory(folder, overwrite=options.overwrite)
    loads = write_model(small, folder, options.model)
    full, count = count_parameters(net.model), count_parameters(small)
    print(f"{count:,} of {full:,} parameters ({count / full:.1%}) in {folder}")
    if is_unbounded(options):
        print(
            f"at most {DEFAULT_SHARE:.0%} of the parameters, the default: --max-params, "
            "--max-flops, --config or --from say otherwise"
        )
    print(loads)
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
