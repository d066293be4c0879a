"""The data that `--images`, `--texts` or `--data` names, on the device of the model."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from osf_supernet.commands.libraries import describe_types, find_factory
from osf_supernet.commands.preprocessing import encoder_of, normalization_of, tokenize_prompts
from osf_supernet.search.scoring import bytes_of
from osf_supernet.supernet import Supernet
from osf_supernet.trace.tracing import call_model, evaluation_mode
from osf_supernet.training.experiment import Experiment, from_image_folder, read_image_folder
from osf_supernet.training.tasks import Classification, Task, TaskResult
from osf_supernet.training.text_files import from_text_folder

PRUNING_BATCHES = 4
"""Training batches that subnets are chosen by."""


def require_data(options: argparse.Namespace) -> None:
    """Refuse data that is nowhere, before anything is computed.

    Raises:
        FileNotFoundError: There is no such directory.
    """
    for flag, place in (("--images", options.images), ("--texts", options.texts)):
        if place and not Path(place).is_dir():
            raise FileNotFoundError(f"{flag} {place}: no such directory")


def make_experiment(net: Supernet, options: argparse.Namespace) -> Experiment:
    """Task, batches and score, on the device of the model, in the precision that is asked for.

    Raises:
        ValueError: the data do not fit the model, or the factory returned something else.
    """
    device = next(net.model.parameters()).device

    def move(batch: object) -> object:
        return pytree.tree_map_only(Tensor, lambda x: x.to(device), batch)

    if options.data:
        made = _call_factory(options.data, options.batch_size)
    elif options.texts:
        made = _read_texts(net, options, device)
    else:
        made = _read_images(net, options, device)
    found = made._replace(
        batch_of=lambda step: move(made.batch_of(step)),
        calibration=[move(batch) for batch in made.calibration],
    )
    return _in_precision(found, options.precision, device)


def _read_images(net: Supernet, options: argparse.Namespace, device: torch.device) -> Experiment:
    """Classification of images, or for a model of images and texts zero-shot classification."""
    inputs = net.inputs
    pixels = [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor) and x.dim() == 4]
    tokens = [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor) and x.dim() == 2]
    others = [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
    if len(pixels) != 1 or len(tokens) > 1 or len(others) != len(pixels) + len(tokens):
        raise ValueError(
            "--images needs a model that is called with one image tensor, or with images and "
            "tokens; use --data"
        )
    prompts = _class_prompts(net, options) if tokens else None
    made = from_image_folder(
        options.images,
        image_size=pixels[0].shape[-1],
        batch_size=options.batch_size,
        seed=options.seed,
        device=device,
        normalization=normalization_of(options.model, net.model),
        workers=options.workers,
        prompts=prompts,
    )
    if prompts is None:
        _require_outputs(net, options)

    def form(images: Tensor) -> Any:
        """The inputs of the example with these images in the place of its own."""
        count = len(images)

        def replace(old: Any) -> Any:
            if old is pixels[0]:
                return images
            return old[:1].expand(count, -1) if isinstance(old, Tensor) else old

        return pytree.tree_map(replace, inputs)

    def batch_of(step: int) -> Any:
        images, targets = made.batch_of(step)
        return images if prompts is not None else form(images), targets

    calibration = [form(images) for images in made.calibration]
    return made._replace(batch_of=batch_of, calibration=calibration)


def _class_prompts(net: Supernet, options: argparse.Namespace) -> Tensor:
    """Tokens (C, T), a row for each class folder.

    Raises:
        ValueError: two classes have the same tokens, or the template leaves out the class.
    """
    words = [name.replace("_", " ") for name in read_image_folder(options.images)[0].classes]
    if "{}" not in options.template:
        raise ValueError(f"--template must have {{}} for the class, got {options.template!r}")
    texts = [options.template.replace("{}", word) for word in words]
    prompts = tokenize_prompts(options.model, net.model, texts)
    known: dict[tuple[int, ...], str] = {}
    for word, row in zip(words, prompts.tolist(), strict=True):
        if (other := known.setdefault(tuple(row), word)) != word:
            raise ValueError(
                f"the prompts of {other} and {word} have the same {len(row)} tokens: give a "
                "shorter --template, or another tokenizer"
            )
    return prompts


def _require_outputs(net: Supernet, options: argparse.Namespace) -> None:
    """Refuse a classifier of fewer classes than there are folders.

    Raises:
        ValueError: it has fewer, or its outputs are no logits.
    """
    classes = len(read_image_folder(options.images)[0].classes)
    with evaluation_mode(net.model), torch.no_grad():
        output = call_model(net.model, net.inputs)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ValueError(
            f"{options.model} returns no logits (B, classes): give a classifier "
            f"(for transformers and timm --num-classes {classes}), or use --data"
        )
    if logits.shape[1] < classes:
        raise ValueError(
            f"{options.images} has {classes} classes and {options.model} {logits.shape[1]}: pass "
            f"--num-classes {classes}"
        )


def _read_texts(net: Supernet, options: argparse.Namespace, device: torch.device) -> Experiment:
    """Next-token prediction."""
    leaves = [x for x in pytree.tree_leaves(net.inputs) if isinstance(x, Tensor)]
    if len(leaves) != 1 or leaves[0].is_floating_point():
        raise ValueError("--texts needs a language model that is called with tokens; use --data")
    inputs = net.inputs

    def form(tokens: Any) -> Any:
        return pytree.tree_map(lambda old: tokens if old is leaves[0] else old, inputs)

    def call(model: nn.Module, tokens: Tensor) -> Tensor:
        output = call_model(model, form(tokens))
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits

    made = from_text_folder(
        options.texts,
        encoder_of(options.model, net.model),
        length=options.context_length,
        batch_size=options.batch_size,
        seed=options.seed,
        device=device,
        call=call,
    )
    return made._replace(calibration=[form(tokens) for tokens in made.calibration])


class _InPrecision:
    """A task whose forward and loss run under autocast."""

    def __init__(self, task: Task, device: str, precision: torch.dtype) -> None:
        self.task, self.device, self.precision = task, device, precision

    def __call__(self, model: nn.Module, batch: Any, teacher: Any = None) -> TaskResult:
        with torch.autocast(self.device, self.precision):
            return self.task(model, batch, teacher)


def _in_precision(made: Experiment, name: str, device: torch.device) -> Experiment:
    """The experiment in float32 as it is, or in bfloat16 where operators allow it."""
    if name == "fp32":
        return made

    def evaluate(model: nn.Module) -> float:
        with torch.autocast(device.type, torch.bfloat16):
            return made.evaluate(model)

    task = _InPrecision(made.task, device.type, torch.bfloat16)
    return made._replace(task=task, evaluate=evaluate)


def pruning_batches(
    experiment: Experiment, options: argparse.Namespace
) -> tuple[list[Any], Callable[..., Tensor] | None]:
    """Batches to choose a subnet by, and their loss; of other tasks than classification
    their calibration inputs alone.
    """
    batches = [experiment.batch_of(-1 - i) for i in range(PRUNING_BATCHES)]
    if options.data or options.texts or not isinstance(experiment.task, Classification):
        return list(experiment.calibration), None
    return batches, lambda output, labels: F.cross_entropy(
        output if isinstance(output, Tensor) else output.logits, labels
    )


def digest_of(experiment: Experiment, options: argparse.Namespace) -> str:
    """SHA-256 of what scores depend on besides the supernet, as far as can be seen.

    The first training batch, the calibration inputs, and of an image folder the names
    and sizes of the files in `val`, wherever it lies; of texts `val.txt`.
    """
    found = hashlib.sha256()
    for leaf in pytree.tree_leaves([experiment.batch_of(0), experiment.calibration]):
        found.update(bytes_of(leaf) if isinstance(leaf, Tensor) else repr(leaf).encode())
    if options.texts:
        found.update((Path(options.texts) / "val.txt").read_bytes())
    if options.images:
        val = Path(options.images) / "val"
        for file in sorted(path for path in val.rglob("*") if path.is_file()):
            found.update(f"{file.relative_to(val)} {file.stat().st_size}\n".encode())
    return found.hexdigest()


def _call_factory(name: str, batch_size: int) -> Experiment:
    """The experiment that `module:factory` returns when called with the batch size."""
    made = find_factory(name, "data")(batch_size)
    if not isinstance(made, tuple) or len(made) != len(Experiment._fields):
        fields = ", ".join(Experiment._fields)
        raise ValueError(f"{name} must return a tuple ({fields}), got {describe_types(made)}")
    return Experiment(*made)
