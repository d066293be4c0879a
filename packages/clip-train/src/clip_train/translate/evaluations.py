"""Other systems' commands that only evaluate, as commands of clip-eval."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from clip_train.translate.model_names import find_model
from clip_train.translate.open_clip import validation_sets

_CORENET_WEIGHTS = "model.multi_modal_image_text.pretrained"
_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def translate_evaluation(given: Mapping[str, Any], program: str) -> str:
    """Our commands for a command line that only evaluates, else nothing.

    Args:
        given: The values of its flags.
        program: Its program; `corenet-eval` evaluates, the others where no training data is given.

    Raises:
        ConfigError: The model of weights in a file is not known.
    """
    if program.rpartition("/")[2].startswith("corenet-eval"):
        weights, data = str(given.get(_CORENET_WEIGHTS) or ""), given.get("dataset.root_val")
        return _evaluate("CoreNet-ViT-B-16", weights, [f"imagefolder:{data}"]) if data else ""
    weights = str(given.get("resume") or given.get("pretrained") or "")
    sets = validation_sets(given)
    if "train-data" in given or not sets or not weights:
        return ""
    name, plain = str(given.get("model", "RN50")), [spec for spec, names in sets if not names]
    commands = [_evaluate(name, weights, plain)] if plain else []
    for spec, names in sets:
        if names:  # its folders are numbers, so that it is evaluated by itself
            options = ("--classnames", names)
            out = f"results-{names}" if commands else "results"
            commands.append(_evaluate(name, weights, [spec], *options, out=out))
    return " && ".join(dict.fromkeys(part for line in commands for part in line.split(" && ")))


def _evaluate(name: str, weights: str, data: list[str], *options: str, out: str = "results") -> str:
    """The evaluation of a model, which is converted first where its weights are in a file."""
    evaluate = ["clip-eval", "run", "--data", *data, *options, "--out", out, "--model"]
    if "/" not in weights and not weights.endswith(_SUFFIXES):  # one of open_clip's tags
        return shlex.join([*evaluate, f"open_clip:{name}:{weights}"])
    file = weights.rpartition("/")[2] if "://" in weights else weights
    fetch = [shlex.join(["curl", "-LO", weights])] if file != weights else []
    convert = ["clip-models", "convert", file, "--to", "clip-models", "--out", "model"]
    convert += ["--model", find_model(name)]
    return " && ".join([*fetch, shlex.join(convert), shlex.join([*evaluate, "model"])])
