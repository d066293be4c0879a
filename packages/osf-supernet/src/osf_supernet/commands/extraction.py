"""`osf extract`: which subnet, and the folder it becomes."""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from osf_supernet.checkpoint_files import naming
from osf_supernet.command_line import one_line
from osf_supernet.commands.experiments import make_experiment, pruning_batches
from osf_supernet.counting import count_parameters
from osf_supernet.files.folders import save_subnet
from osf_supernet.output_files import replace_file, write_text
from osf_supernet.progress import ProgressBar
from osf_supernet.pruning import choose_subnet, use_fine_space
from osf_supernet.search.scoring import digest
from osf_supernet.subnets.bounds import Bounds, resolve_share
from osf_supernet.subnets.planning import Config
from osf_supernet.subnets.space import read_json_object
from osf_supernet.supernet import Supernet
from osf_supernet.training.batch_norm import has_running_statistics, recalibrate

DEFAULT_SHARE = 0.5
_TOKENIZER_FILES = (
    *("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "prompts.json"),
    "special_tokens_map.json",
)
_SAID_BY_CONFIG = {"clip-models": ("mlp", "heads")}  # kinds that a library's config can describe


def require_one_choice(options: argparse.Namespace) -> None:
    """Refuse options that say twice which subnet.

    Raises:
        ValueError: they do.
    """
    bounds = options.max_params or options.max_flops
    if options.config and bounds:
        raise ValueError("--config says all sizes: leave out --max-params and --max-flops")
    if options.front and (options.config or bounds):
        raise ValueError(
            "--from says which subnet: leave out --config, --max-params and --max-flops"
        )


def is_unbounded(options: argparse.Namespace) -> bool:
    """Whether nothing says which subnet, so that the default share is taken."""
    given = (options.max_params, options.max_flops, options.config, options.front)
    return all(one is None for one in given)


def choose(net: Supernet, options: argparse.Namespace) -> nn.Module:
    """The extracted subnet that the options describe, recalibrated where there are data.

    Raises:
        ValueError: there is none, or the front is another supernet's.
    """
    has_data = bool(options.images or options.texts or options.data)
    experiment = make_experiment(net, options) if has_data else None
    with ProgressBar("reading", quiet=options.quiet or not sys.stderr.isatty()) as bar:
        if options.front:
            config = _read_front(net, Path(options.front), options.index)
        elif options.config:
            config = read_json_object(options.config)
        else:
            samples: tuple[Any, Any] = ([], None)
            if experiment is not None:
                samples = pruning_batches(experiment, options)
            config = _choose_within(net, options, *samples, bar)
        bar.stage("extracting and verifying")
        small = net.extract(config)
        if experiment is not None:
            recalibrate(small, experiment.calibration)
    if experiment is None and has_running_statistics(small):
        print(
            "osf: warning: the batch norms keep the statistics of the full model, which do not "
            "fit a smaller one: pass --images FOLDER or --data FACTORY to recalibrate them",
            file=sys.stderr,
        )
    return small


def _choose_within(
    net: Supernet, options: argparse.Namespace, samples: list[Any], loss: Any, bar: ProgressBar
) -> Config:
    """The subnet within the bounds that changes the outputs least, of sorted widths.

    The widths of a trained supernet are in their order already.
    """
    share = DEFAULT_SHARE if is_unbounded(options) else options.max_params
    limits = {
        "params": resolve_share(share, net.parameters_of),
        "flops": resolve_share(options.max_flops, net.flops_of),
    }
    bounds = Bounds({"params": net.parameters_of, "flops": net.flops_of}, limits)
    if not (options.supernet or options.space or options.loadable):
        use_fine_space(net, bounds, *_SAID_BY_CONFIG.get(options.model.partition(":")[0], ()))
    bounds.require_fit(net.smallest)
    return choose_subnet(
        net,
        bounds,
        samples=samples,
        loss=loss,
        bar=bar,
        sort=not options.supernet,
        any_blocks=not options.supernet,
    )


def _read_front(net: Supernet, file: Path, index: str) -> Config:
    """The config of a subnet in what `osf search` wrote; the supernet is sorted as it was."""
    stored = read_json_object(file)
    rows = stored.get("front")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        raise ValueError(f"{file} must have the list front, as `osf search` writes it")
    if stored.get("importance"):
        net.reorder(stored["importance"])
    expected = stored.get("supernet")
    if expected is not None and expected != digest(net):
        raise ValueError(
            f"{file} is of another supernet or of other weights: give the MODEL, --supernet, "
            "--weights, --space and --seed that the search was given"
        )
    if index == "best":
        row = stored.get("best") or max(rows, key=lambda row: row["score"])
    elif index.isdigit() and int(index) < len(rows):
        row = rows[int(index)]
    else:
        raise ValueError(
            f"--index must be best or a number from 0 (the cheapest) to {len(rows) - 1}, "
            f"got {index}"
        )
    config = row.get("config")
    if not isinstance(config, dict):
        raise ValueError(f"{file} has no config of subnet {index}")
    return config


def write_model(small: nn.Module, folder: Path, model: str) -> str:
    """Write a subnet as its library's folder where that can say its sizes; how to load it.

    Args:
        small: What `Supernet.extract` returned.
        folder: Empty.
        model: MODEL of the command line.
    """
    library, _, name = model.partition(":")
    write = {
        "clip-models": _write_clip,
        "open_clip": _write_open_clip,
        "transformers": _write_pretrained,
    }.get(library)
    reason = ""
    if write is not None:
        try:
            with naming(folder, whole="the model is not complete"):
                loads = write(small, folder, name)
        except ValueError as error:
            reason = f"no folder of {library}: {one_line(error)}; "
        else:
            record = vars(small)["osf_record"]
            text = {key: record[key] for key in ("class", "config", "certificate")}
            text["parameters"] = count_parameters(small)
            write_text(folder / "subnet.json", json.dumps(text, indent=2) + "\n")
            return loads
    save_subnet(small, folder)
    return f"{reason}osf_supernet.load_subnet('{folder}', MODULE) takes it"


def _write_pretrained(small: Any, folder: Path, name: str) -> str:
    try:
        small.save_pretrained(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    return f"transformers.{type(small).__name__}.from_pretrained('{folder}') takes it"


def _write_open_clip(small: Any, folder: Path, name: str) -> str:
    """A repository of open_clip: its config with the sizes now, and the weights."""
    library: Any = importlib.import_module("open_clip")
    config = library.get_model_config(name)
    towers = (("vision_cfg", small.visual), ("text_cfg", getattr(small, "text", small)))
    for part, tower in towers:
        config[part] = {**config[part], **_sizes_of_tower(tower)}
    settings = dict(config)
    kind = library.CustomTextCLIP if settings.pop("custom_text", False) else library.CLIP
    try:
        kind(**settings).load_state_dict(small.state_dict())
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"its config cannot say the sizes: {one_line(error)[:300]}") from None
    preprocess = {key: getattr(small.visual, f"image_{key}") for key in ("mean", "std")}
    files = {"model_cfg": config, "preprocess_cfg": preprocess}
    write_text(folder / "open_clip_config.json", json.dumps(files, indent=2) + "\n")
    with replace_file(folder / "open_clip_model.safetensors") as partial:
        save_file({n: x.contiguous() for n, x in small.state_dict().items()}, partial)
    return f"open_clip.create_model('local-dir:{folder}') takes it"


def _sizes_of_tower(tower: Any) -> dict[str, Any]:
    """Layers and width of the hidden units, which must be equal in all of them.

    Raises:
        ValueError: They are not, or this is no transformer.
    """
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    if not blocks:
        raise ValueError("only transformers have sizes in its config")
    widths = {(block.mlp.c_fc.out_features, block.mlp.c_fc.in_features) for block in blocks}
    if len(widths) > 1:
        raise ValueError("its config has one size for all layers: extract with --loadable")
    hidden, width = widths.pop()
    return {"layers": len(blocks), "mlp_ratio": hidden / width}


def _write_clip(small: Any, folder: Path, name: str) -> str:
    """A model directory of clip-models, with the preprocessing of the model it was cut from."""
    measured: Any = importlib.import_module("clip_models.model.measured_config")
    measured.infer_config(small)  # or a ConfigError, which is a ValueError
    library: Any = importlib.import_module("clip_models")
    preprocess = library.create_model_and_transforms(name).evaluate.config
    library.save_model(folder, small, preprocess)
    for file in _TOKENIZER_FILES:
        if (source := Path(name) / file).is_file():
            with replace_file(folder / file) as partial:
                shutil.copyfile(source, partial)
    return f"clip_models.load_model('{folder}') and `clip-eval run --model {folder}` take it"
