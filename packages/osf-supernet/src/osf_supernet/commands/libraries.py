"""Models by name for the command line, each with inputs to trace it with.

`module:factory` calls a factory; `torchvision:NAME`, `timm:NAME`, `open_clip:NAME`,
`clip-models:NAME` and `transformers:NAME` build that library's model. NAME is a directory on disk
for `clip-models` and `transformers` too. Only `transformers` loads weights by itself (and from
the Hub where NAME is no directory); the others start from random ones unless weights are given.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Made = tuple[nn.Module, Any]


def build_model(name: str, image_size: int | None = None, num_classes: int | None = None) -> Made:
    """The module that a name stands for, in evaluation mode, and example inputs.

    Args:
        name: `module:factory` or `LIBRARY:NAME`.
        image_size: side of the example image; the model's own, or 224, by default.
        num_classes: classes of an image classifier; its own by default.

    Raises:
        ValueError: there is no such model, or the factory returned something else.
        ImportError: the library is not installed.
    """
    library, _, rest = name.partition(":")
    if not rest:
        known = ", ".join(f"{prefix}:NAME" for prefix in _LIBRARIES)
        hint = f"; torchvision:{name} or timm:{name}, for example" if name.isidentifier() else ""
        raise ValueError(f"expected module:factory or one of {known}; got {name!r}{hint}")
    if num_classes is not None and library not in _CLASSIFIERS:
        raise ValueError(f"--num-classes is for {', '.join(_CLASSIFIERS)}, got {name}")
    if is_factory(name):
        model, inputs = _call_factory(name, image_size)
    else:
        package = _import_library(library)
        try:
            options = {} if num_classes is None else {"num_classes": num_classes}
            model, inputs = _LIBRARIES[library](package, rest, image_size, **options)
        except (KeyError, OSError, RuntimeError, ValueError) as error:  # each has its own
            reason = str(error).strip().split("\n")[0]
            raise ValueError(f"{name}: {reason}{_suggest_names(package, rest)}") from error
    return model.eval(), inputs


def is_factory(name: str) -> bool:
    """Whether a name is `module:factory`, code of the user's, rather than a library's model."""
    return name.partition(":")[0] not in _LIBRARIES


def _import_library(library: str) -> Any:
    """The package of a library's models."""
    package = _PACKAGES.get(library, library)
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if (error.name or "") not in (package, package.partition(".")[0]):
            raise
        install = _DISTRIBUTIONS.get(library, library)
        raise ImportError(f"models of {library} need {install}: pip install {install}") from error


def _suggest_names(package: Any, name: str) -> str:
    """The names of a library's models that are like one that it does not have."""
    names = package.list_models() if hasattr(package, "list_models") else []
    near = difflib.get_close_matches(name, names, n=3)
    return f"; near names: {', '.join(near)}" if near and name not in names else ""


def _call_factory(name: str, image_size: int | None) -> Made:
    """What a factory returns: a module, or a module and example inputs."""
    try:
        factory = find_factory(name, "a model")
    except ValueError as error:
        raise ValueError(f"{error}; libraries: {', '.join(_LIBRARIES)}") from error
    made = factory()
    pair = made if isinstance(made, tuple) else (made, _images(image_size or 224))
    if len(pair) != 2 or not isinstance(pair[0], nn.Module):
        raise ValueError(
            f"{name} must return a torch module, or a tuple of it and example inputs; "
            f"got {describe_types(made)}"
        )
    return pair


def find_factory(name: str, what: str) -> Callable[..., Any]:
    """The callable of the user's that `module:factory` names.

    Raises:
        ValueError: there is none.
    """
    module, _, factory = name.partition(":")
    if not factory:
        raise ValueError(f"{what} must be module:factory, got {name!r}")
    try:
        owner = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise  # something that the module itself imports
        raise ValueError(f"no module {module!r} in the current directory or installed") from error
    found: Callable[..., Any] | None = getattr(owner, factory, None)
    if not callable(found):
        raise ValueError(f"{module} has no callable {factory!r}")
    return found


def describe_types(made: Any) -> str:
    """The types of what a factory returned, for a message."""
    if isinstance(made, tuple):
        return f"({', '.join(type(part).__name__ for part in made)})"
    return type(made).__name__


def _images(size: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size)


def _texts(length: int, vocabulary: int, last: int | None = None) -> Tensor:
    ids = torch.randint(0, max(1, vocabulary - 1), (2, length))
    ids[:, -1] = vocabulary - 1 if last is None else last
    return ids


def _torchvision(library: Any, name: str, image_size: int | None, **options: int) -> Made:
    return library.get_model(name, **options), _images(image_size or 224)


def _timm(library: Any, name: str, image_size: int | None, **options: int) -> Made:
    model = library.create_model(name, **options)
    channels, *sides = model.default_cfg.get("input_size", (3, 224, 224))
    return model, _images(image_size or sides[0], channels)


def _open_clip(library: Any, name: str, image_size: int | None) -> Made:
    model = library.create_model(name)
    size = image_size or model.visual.image_size
    size = size if isinstance(size, int) else size[0]
    return model, (_images(size), _texts(model.context_length, model.vocab_size))


def _clip_models(library: Any, name: str, image_size: int | None) -> Made:
    model = library.create_model(name)
    config = model.config
    texts = _texts(config.text.context_length, config.text.vocab_size, config.text.eot_token_id)
    return model, (_images(image_size or config.vision.image_size), texts)


def _transformers(
    library: Any, name: str, image_size: int | None, num_classes: int | None = None
) -> Made:
    config = library.AutoConfig.from_pretrained(name)
    kind = (getattr(config, "architectures", None) or ["AutoModel"])[0]
    if num_classes is None:
        model = getattr(library, kind).from_pretrained(name)
    else:  # a new head where the stored one has another size, or where there is none
        model = library.AutoModelForImageClassification.from_pretrained(
            name, num_labels=num_classes, ignore_mismatched_sizes=True
        )
    text, vision = (getattr(config, f"{part}_config", config) for part in ("text", "vision"))
    accepted = inspect.signature(model.forward).parameters
    inputs: dict[str, Any] = {}
    if "pixel_values" in accepted:
        size = image_size or getattr(vision, "image_size", 224)
        size = size[0] if isinstance(size, list | tuple) else int(size or 224)
        pixels = _images(size, getattr(vision, "num_channels", 3))
        inputs["pixel_values"] = pixels.to(model.dtype)
    if "input_ids" in accepted:
        length = min(16, getattr(text, "max_position_embeddings", 16))
        inputs["input_ids"] = _texts(length, text.vocab_size, getattr(text, "eos_token_id", None))
        if getattr(config, "is_encoder_decoder", False):
            inputs["decoder_input_ids"] = inputs["input_ids"].clone()
        if hasattr(config, "use_cache") and "use_cache" in accepted:
            inputs["use_cache"] = False
    return model, inputs


_PACKAGES = {"torchvision": "torchvision.models", "clip-models": "clip_models"}
_DISTRIBUTIONS = {"open_clip": "open_clip_torch"}
_CLASSIFIERS = ("torchvision", "timm", "transformers")
_LIBRARIES: dict[str, Callable[..., Made]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "open_clip": _open_clip,
    "clip-models": _clip_models,
    "transformers": _transformers,
}
