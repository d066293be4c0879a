"""Graphs of both towers in files that run without this package."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from clip_models.command_line import read_small_file
from clip_models.config.preprocess_config import PreprocessConfig
from clip_models.config.towers import CompactResNetConfig
from clip_models.errors import CheckpointError
from clip_models.files.atomic_write import copy_file, naming, save_json
from clip_models.files.export import require_absent
from clip_models.files.model_directory import CONFIG_NAME, save_config
from clip_models.graphs.checking import check_graph, quiet
from clip_models.graphs.description import DESCRIPTION_NAME, describe_graphs
from clip_models.graphs.encoders import ImageEncoder, TextEncoder
from clip_models.model.clip import CLIP
from clip_models.model.measured_config import measure_config

GraphFormat = Literal["onnx", "torchscript", "pt2"]
SUFFIXES: dict[GraphFormat, str] = {"onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2"}
_GRAPH_NAMES = ("image", "text")
_LARGEST_ONNX = 2**30
"""Bytes of weights up to which an ONNX file holds them itself; a message may have 2 GiB."""


def export_model(
    directory: str | Path,
    model: CLIP,
    preprocess: PreprocessConfig,
    *,
    to: GraphFormat = "onnx",
    files: Iterable[str | Path] = (),
    check: bool = False,
    overwrite: bool = False,
) -> list[Path]:
    """Write both towers as graphs with open sizes, and what their inputs are.

    The graphs give L2-normalized features, in float32, on the CPU, for any batch size, image size
    and caption length that the towers take.

    Args:
        directory: Created if it does not exist.
        model: The model; it is not changed.
        preprocess: The preprocessing of its images.
        to: `onnx` (needs onnx and onnxscript), `torchscript` (`torch.jit.trace`) or `pt2`
            (`torch.export`).
        files: More files to copy there, such as the tokenizer's.
        check: Compare the graphs with the towers over three batch sizes, image sizes and caption
            lengths before anything is kept; ONNX needs onnxruntime.
        overwrite: Replace existing files.

    Returns:
        The files written: `image` and `text` with the suffix of the format, `description.json` and
        `clip_config.json`.

    Raises:
        CheckpointError: Files exist and `overwrite` is not set, or a graph gives other features.
        ImportError: A package of the format is missing.
    """
    if to not in get_args(GraphFormat):
        raise CheckpointError(f"to must be one of {', '.join(SUFFIXES)}, got {to!r}")
    _require_packages(to, check)
    directory, extra = Path(directory), [Path(file) for file in files]
    names = [*(f"{tower}{SUFFIXES[to]}" for tower in _GRAPH_NAMES), CONFIG_NAME]
    names += [DESCRIPTION_NAME, *(file.name for file in extra)]
    if not overwrite:
        require_absent(directory, names)
    outdated = _graphs_of(directory) - set(names)
    directory.mkdir(parents=True, exist_ok=True)
    config = measure_config(model)
    exported = copy.deepcopy(model).float().cpu().eval()
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        place = Path(folder)
        for encoder, name in zip(
            (ImageEncoder(exported), TextEncoder(exported)), names, strict=False
        ):
            with naming(directory / name, temporary=place / name):
                _write_graph(encoder, place / name, to)
            if check:
                check_graph(encoder, place / name)
        save_config(place, config, preprocess)
        description = describe_graphs(
            exported, config, preprocess, names[:2], [f.name for f in extra]
        )
        save_json(place / DESCRIPTION_NAME, description)
        for file in extra:
            copy_file(file, place / file.name)
        written = sorted(path.name for path in place.iterdir())
        for name in written:
            os.replace(place / name, directory / name)
        for name in outdated:
            (directory / name).unlink(missing_ok=True)
    return [directory / name for name in written]


def _graphs_of(directory: Path) -> set[str]:
    """The graphs that an earlier export into a directory wrote, by its description."""
    ours = {f"{tower}{suffix}" for tower in _GRAPH_NAMES for suffix in SUFFIXES.values()}
    try:
        found = json.loads(read_small_file(directory / DESCRIPTION_NAME))
        return ours & {found[tower]["graph"] for tower in _GRAPH_NAMES}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def make_example(encoder: nn.Module) -> tuple[Tensor, dict[int, str]]:
    """An input of two rows, and the names of its open dimensions."""
    model = encoder.model
    assert isinstance(model, CLIP)
    config = model.config
    if isinstance(encoder, TextEncoder):
        tokens = torch.zeros(2, config.text.context_length, dtype=torch.long)
        return tokens, {0: "batch", 1: "length"}
    vision = config.vision
    fixed = isinstance(vision, CompactResNetConfig) and vision.pooling == "flatten"
    sizes = {} if fixed else {2: "height", 3: "width"}
    return torch.zeros(2, 3, *vision.image_sides), {0: "batch", **sizes}


def _write_graph(encoder: nn.Module, path: Path, to: GraphFormat) -> None:
    example, open_sizes = make_example(encoder)
    writers: dict[GraphFormat, Callable[..., None]] = {
        "onnx": _write_onnx,
        "torchscript": _write_torchscript,
        "pt2": _write_pt2,
    }
    with quiet():
        writers[to](encoder, example, open_sizes, path)


def _write_onnx(encoder: nn.Module, example: Tensor, sizes: dict[int, str], path: Path) -> None:
    is_text = isinstance(encoder, TextEncoder)
    program: Any = torch.onnx.export(
        encoder,
        (example,),
        dynamo=True,
        input_names=["tokens" if is_text else "images"],
        output_names=["features"],
        dynamic_shapes=(sizes,),
        verbose=False,
    )
    weights = sum(value.nbytes for value in encoder.state_dict().values())
    program.save(path, external_data=weights > _LARGEST_ONNX)


def _write_torchscript(encoder: nn.Module, example: Tensor, _: dict[int, str], path: Path) -> None:
    with torch.no_grad():
        traced: Any = torch.jit.trace(encoder, example, check_trace=False)  # type: ignore[no-untyped-call]
    path.write_bytes(traced.save_to_buffer())  # to a full disk, `save` ends the process


def _write_pt2(encoder: nn.Module, example: Tensor, sizes: dict[int, str], path: Path) -> None:
    shapes = (dict.fromkeys(sizes, torch.export.Dim.DYNAMIC),)
    program = torch.export.export(encoder, (example,), dynamic_shapes=shapes)
    buffer = io.BytesIO()  # to a full disk itself, `save` ends the process
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getbuffer())


def _require_packages(to: GraphFormat, check: bool) -> None:
    if to != "onnx":
        return
    needed = ("onnx", "onnxscript", *(("onnxruntime",) if check else ()))
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"the format onnx needs {' and '.join(missing)}; pip install 'clip-models[onnx]'"
        )
