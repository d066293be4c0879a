"""osf explain|sample|extract|verify|train|search: supernets on the command line.

A model is module:factory, a callable without arguments that returns the module, or the module
and its example inputs; or torchvision:NAME, timm:NAME, open_clip:NAME, clip-models:NAME,
transformers:NAME (the last two also take a directory).

  osf explain torchvision:resnet18
  osf extract timm:vit_tiny_patch16_224 --max-params 0.5 --output small
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from osf_supernet.counting import count_parameters
from osf_supernet.files.archive import load_supernet, save_subnet, save_supernet
from osf_supernet.graph.drawing import graph_to_svg
from osf_supernet.graph.explanation import graph_to_dict, graph_to_dot
from osf_supernet.search.config import SearchConfig
from osf_supernet.search.drawing import draw_front
from osf_supernet.search.search import search_subnets
from osf_supernet.sources import build_model
from osf_supernet.subnets.space import Space, read_json_object
from osf_supernet.subnets.verification import VerificationError
from osf_supernet.supernet import Supernet
from osf_supernet.trace.tracing import TraceError
from osf_supernet.training.batch_norm import recalibrated
from osf_supernet.training.experiment import Experiment, from_factory, from_image_folder
from osf_supernet.training.loop import Progress, train
from osf_supernet.training.processes import process_group
from osf_supernet.training.sandwich import Sandwich


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 1 if a subnet fails its verification or an argument does not fit."""
    options = _parser().parse_args(arguments)
    torch.manual_seed(options.seed)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # where a newcomer's module:factory is
    try:
        return int(_COMMANDS[options.command](_supernet(options), options))
    except KeyboardInterrupt:
        print("osf: interrupted", file=sys.stderr)
        return 130
    except (OSError, TraceError, VerificationError) as error:
        print(f"osf: {error}", file=sys.stderr)
    except (ImportError, KeyError, TypeError, ValueError) as error:
        if not _is_ours(error):  # a fault of the model's or the data's code needs its traceback
            raise
        print(f"osf: {error.args[0]}", file=sys.stderr)
    return 1


def _is_ours(error: Exception) -> bool:
    """Whether one of this package's own checks raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals["__name__"].startswith("osf_supernet.")


_TEXTS = {
    "explain": "print every group: elastic with its sizes, or frozen with the reason",
    "sample": "print a random config as JSON",
    "extract": "write a verified subnet to a folder",
    "verify": "check the largest, the smallest and random subnets against the oracle",
    "train": "train the supernet and write it to a folder",
    "search": "search the best subnets under bounds; write and draw the Pareto front",
}


_FORMATS = ("text", "json", "dot", "svg")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="osf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    made = {}
    for name, text in _TEXTS.items():
        command = made[name] = commands.add_parser(
            name,
            help=text,
            description=text,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.add_argument("model", help="module:factory or LIBRARY:NAME, see osf --help")
        command.add_argument("--weights", help="safetensors file with the model's state dict")
        command.add_argument("--supernet", help="folder of a supernet that was trained before")
        command.add_argument("--image-size", type=_positive, help="side of the example image")
        command.add_argument("--space", help="JSON file of a space, or a supernet folder of OFM")
        command.add_argument("--seed", type=int, default=0, help="of everything random")
    for name in ("sample", "extract", "search"):
        made[name].add_argument("--max-params", type=_bound, help="number, or fraction up to 1")
        made[name].add_argument("--max-flops", type=_bound, help="number, or fraction up to 1")
    made["explain"].add_argument("--format", choices=_FORMATS, default="text", help="printed")
    made["extract"].add_argument("--config", help="JSON file of a config; sampled by default")
    made["verify"].add_argument("--samples", type=_count, default=3, help="random subnets")
    for name in ("extract", "train", "search"):
        made[name].add_argument("--output", required=True, help="folder to write")
    for name in ("extract", "train"):
        made[name].add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload it, too")
        made[name].add_argument("--token", help="of the Hub; the stored one by default")
    for name in ("train", "search"):
        data = made[name].add_mutually_exclusive_group(required=True)
        data.add_argument("--images", help="folder with train/CLASS/* and val/CLASS/*")
        data.add_argument("--data", help="module:factory of an Experiment")
        made[name].add_argument("--batch-size", type=_positive, default=64, help="samples a step")
    made["train"].add_argument("--steps", type=_positive, default=1000, help="optimizer steps")
    made["train"].add_argument("--lr", type=float, default=5e-5, help="of AdamW")
    made["train"].add_argument("--num-random", type=_count, default=2, help="subnets a step")
    made["train"].add_argument(
        "--importance",
        choices=("magnitude", "random"),
        default="magnitude",
        help="order of every group; methods that need data are in Python",
    )
    made["train"].add_argument("--log-interval", type=_positive, default=10, help="in steps")
    made["train"].add_argument("--save-interval", type=_positive, default=500, help="in steps")
    made["search"].add_argument("--max-latency-ms", type=_above_zero, help="measured here")
    made["search"].add_argument("--population", type=_positive, default=24, help="of NSGA-II")
    made["search"].add_argument("--generations", type=_count, default=10, help="of NSGA-II")
    return parser


def _count(text: str) -> int:
    """A whole number from 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text}")
    return number


def _positive(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return number


def _above_zero(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def _bound(text: str) -> float:
    """A fraction up to 1, or a whole number."""
    number = _above_zero(text)
    return number if number <= 1 else int(number)


def _supernet(options: argparse.Namespace) -> Supernet:
    if options.supernet and (options.weights or options.space):
        raise ValueError("--supernet has weights and a space: leave out --weights and --space")
    model, inputs = build_model(options.model, options.image_size)
    if options.supernet:
        return load_supernet(options.supernet, model, inputs)
    if options.weights:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            model.load_state_dict(load_file(options.weights))
        except SafetensorError as error:
            raise ValueError(f"{options.weights} is no safetensors file: {error}") from error
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).split("\n")]
            raise ValueError(
                f"{options.weights} does not fit {options.model}: {lines[1]}"
            ) from error
    space = Space.read(options.space) if options.space else None
    return Supernet(model, inputs, space)


def _sampled(net: Supernet, options: argparse.Namespace) -> dict[str, int]:
    return net.sample(
        seed=options.seed,
        max_params=options.max_params,
        max_flops=options.max_flops,
    )


def _explain(net: Supernet, options: argparse.Namespace) -> int:
    if options.format == "json":
        print(json.dumps(graph_to_dict(net.graph), indent=2))
    elif options.format == "dot":
        print(graph_to_dot(net.graph))
    elif options.format == "svg":
        print(graph_to_svg(net.graph))
    else:
        print(net.explain())
    return 0


def _sample(net: Supernet, options: argparse.Namespace) -> int:
    print(json.dumps(_sampled(net, options), indent=2))
    return 0


def _extract(net: Supernet, options: argparse.Namespace) -> int:
    if options.config and (options.max_params or options.max_flops):
        raise ValueError("--config says all sizes: leave out --max-params and --max-flops")
    config = read_json_object(options.config) if options.config else _sampled(net, options)
    small = net.extract(config)
    save_subnet(small, options.output)
    full, count = count_parameters(net.model), count_parameters(small)
    print(f"{count:,} of {full:,} parameters ({count / full:.1%}) in {options.output}")
    return _pushed(small, options)


def _pushed(thing: Any, options: argparse.Namespace) -> int:
    if options.push_to_hub:
        from osf_supernet.files.hub import push_to_hub

        print(push_to_hub(thing, options.push_to_hub, token=options.token))
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


def _experiment(net: Supernet, options: argparse.Namespace) -> Experiment:
    if options.data:
        return from_factory(options.data, options.batch_size)
    image: Any = net.inputs if isinstance(net.inputs, torch.Tensor) else None
    if image is None:
        raise ValueError("--images needs a model that is called with one image tensor; use --data")
    return from_image_folder(
        options.images,
        image_size=image.shape[-1],
        batch_size=options.batch_size,
        seed=options.seed,
    )


def _train(net: Supernet, options: argparse.Namespace) -> int:
    folder = Path(options.output)
    with process_group() as rank:
        experiment = _experiment(net, options)
        if not (folder / "checkpoint" / "latest.json").exists():
            net.reorder(options.importance)

        def report(progress: Progress) -> None:
            if rank == 0 and (progress.step + 1) % options.log_interval == 0:
                losses = " ".join(f"{loss:.4f}" for loss in progress.losses)
                print(f"step {progress.step + 1} losses {losses}", flush=True)

        train(
            Sandwich(net, experiment.task, num_random=options.num_random, seed=options.seed),
            experiment.batch_of,
            torch.optim.AdamW(net.model.parameters(), options.lr),
            options.steps,
            folder=folder / "checkpoint",
            save_every=options.save_interval,
            report=report,
        )
    if rank:
        return 0
    save_supernet(net, folder)
    for name, config in (("largest", net.largest), ("smallest", net.smallest)):
        print(f"{name}: score {_score(net, experiment, config):.4f}")
    return _pushed(net, options)


def _score(net: Supernet, experiment: Experiment, config: dict[str, int]) -> float:
    with net.active(config), recalibrated(net.model, experiment.calibration):
        return experiment.evaluate(net.model)


def _search(net: Supernet, options: argparse.Namespace) -> int:
    experiment = _experiment(net, options)

    def evaluate(model: torch.nn.Module) -> float:
        with recalibrated(model, experiment.calibration):
            return experiment.evaluate(model)

    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    config = SearchConfig(
        max_params=options.max_params,
        max_flops=options.max_flops,
        max_latency_ms=options.max_latency_ms,
        population=options.population,
        generations=options.generations,
        seed=options.seed,
    )
    result = search_subnets(net, evaluate, config, folder=folder)
    result.save(folder / "front.json")
    draw_front(result, folder / "front.svg")
    for candidate in result.front:
        print(f"{candidate.params:,} parameters: score {candidate.score:.4f} ({candidate.origin})")
    return 0


_COMMANDS = {
    "explain": _explain,
    "sample": _sample,
    "extract": _extract,
    "verify": _verify,
    "train": _train,
    "search": _search,
}
