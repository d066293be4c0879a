"""The config of a Hugging Face model that was cut: can it say the sizes that the model has now?

Nothing here knows a model. A class is built from changed copies of the config on the meta device,
until every parameter has the shape that the cut model has; which integers to change follows from
the shapes that differ. Then the config is right if the class, with the weights in it, computes
what the cut model computes.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from osf_supernet.subnets.comparison import difference, run

_MOST_CHANGES = 12
_Shapes = dict[str, tuple[int, ...]]
_Place = tuple[Any, ...]  # names of configs, the field's, and a position where it is a list


def is_pretrained_model(module: nn.Module) -> bool:
    """Whether a module has a config and `save_pretrained`, as the models of transformers."""
    config = getattr(module, "config", None)
    return hasattr(config, "to_dict") and hasattr(type(module), "save_pretrained")


def fit_config(module: Any, inputs: Any, tolerance: float) -> str | None:
    """Give a cut model a config of its own that says its sizes, where its class has one.

    Where it has none, `save_pretrained` of the module says why from now on.

    Args:
        module: What was extracted; its config is replaced, not changed.
        inputs: What the rebuilt model is compared on.
        tolerance: The largest difference allowed.

    Returns:
        Why the config cannot say the sizes, or None.
    """
    try:
        module.config = _find_config(module, inputs, tolerance)
    except _CannotSay as failure:
        reason = str(failure)
        vars(module)["save_pretrained"] = partial(refuse_saving, reason)
        return reason
    return None


def refuse_saving(reason: str, *args: Any, **kwargs: Any) -> None:
    """Stands in for `save_pretrained` of a model whose config cannot say its sizes.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{reason}; save it with osf_supernet.save_subnet instead")


class _CannotSay(Exception):
    """The config has no way to say a size."""


def _find_config(module: Any, inputs: Any, tolerance: float) -> Any:
    """The config that says the sizes; fewer heads are tried before smaller ones.

    Raises:
        _CannotSay: there is none.
    """
    wanted = {name: tuple(x.shape) for name, x in module.state_dict().items()}
    first: _CannotSay | None = None
    for numbers_first in (True, False):
        try:
            config = _search_config(module, wanted, numbers_first=numbers_first)
            return _checked(module, config, inputs, tolerance)
        except _CannotSay as failure:
            first = first or failure
    assert first is not None
    raise first


def _search_config(module: Any, wanted: _Shapes, *, numbers_first: bool) -> Any:
    """The config under which the class has the wanted shapes, changed integer by integer."""
    config = copy.deepcopy(module.config)
    missing = _differences(_shapes(module, config), wanted)
    for _ in range(_MOST_CHANGES):
        if not missing:
            return config
        best: tuple[bool, int] = (True, len(missing))
        chosen = None
        for place, value in _candidates(config, missing):
            changed = copy.deepcopy(config)
            _set(changed, place, value)
            found = _differences(_shapes(module, changed), wanted)
            if found is None or len(found) >= len(missing):
                continue
            rank = (numbers_first and "num" not in str(place[-1]), len(found))
            if rank < best:
                best, chosen = rank, (changed, found)
        if chosen is None:
            break
        config, missing = chosen
    raise _CannotSay(_explain(module, missing, wanted))


def _shapes(module: Any, config: Any) -> _Shapes | None:
    """The shapes of the class's state dict under a config, or None where it cannot be built."""
    try:
        with torch.device("meta"):
            built = type(module)(copy.deepcopy(config))
    except Exception:  # a model's own code may raise anything
        return None
    return {name: tuple(x.shape) for name, x in built.state_dict().items()}


def _differences(found: _Shapes | None, wanted: _Shapes) -> dict[str, tuple[Any, Any]] | None:
    """Names whose shape differs: (found, wanted), None where a name is missing."""
    if found is None:
        return None
    names = sorted(set(found) | set(wanted))
    pairs = {name: (found.get(name), wanted.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _candidates(
    config: Any, missing: dict[str, tuple[Any, Any]] | None
) -> Iterator[tuple[_Place, int]]:
    """Changes of one integer of the config (or of a config in it) that could explain a difference.

    A dimension of `factor × field` that became smaller asks for a smaller field, a list that lost
    members for a smaller number of them. Of fields that explain the same the numbers of something
    come first: fewer heads, rather than smaller ones.
    """
    changed = {
        pair
        for found, wanted in (missing or {}).values()
        if found and wanted and len(found) == len(wanted)
        for pair in zip(found, wanted, strict=True)
        if pair[0] != pair[1]
    }
    lengths = _list_lengths(missing or {})
    places = sorted(_integers(config), key=lambda pair: "num" not in ".".join(map(str, pair[0])))
    for place, value in places:
        found = {
            now * value // before
            for before, now in changed
            if before % value == 0 and now * value % before == 0
        }
        found |= {now for before, now in lengths if before == value}
        for change in sorted(found - {value, 0}):
            yield place, change


def _list_lengths(missing: dict[str, tuple[Any, Any]]) -> set[tuple[int, int]]:
    """(length, length now) of the lists some of whose members are not there any more."""
    gone: dict[str, set[int]] = {}
    for name, (_, wanted) in missing.items():
        parts = name.split(".")
        for position, part in enumerate(parts):
            if wanted is None and part.isdigit():
                gone.setdefault(".".join(parts[:position]), set()).add(int(part))
    return {(max(indices) + 1, min(indices)) for indices in gone.values()}


def _integers(config: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[_Place, int]]:
    """Where a config, its lists and the configs in it have an integer above 1."""
    items = enumerate(config) if isinstance(config, list | tuple) else vars(config).items()
    for key, value in items:
        if str(key).startswith("_") or str(key).endswith(("_id", "_ids")):
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            yield (*path, key), value
        elif hasattr(value, "to_dict") or (isinstance(value, list | tuple) and len(value) < 64):
            yield from _integers(value, (*path, key))


def _set(config: Any, place: _Place, value: Any) -> None:
    key, *rest = place
    setattr(config, key, _with(getattr(config, key), tuple(rest), value))


def _with(owner: Any, place: _Place, value: Any) -> Any:
    """What is at a place changed: in a config, or in a list (of lists), which is replaced."""
    if not place:
        return value
    key, rest = place[0], place[1:]
    if isinstance(owner, list | tuple):
        items = list(owner)
        items[key] = _with(owner[key], rest, value)
        return items if isinstance(owner, list) else tuple(items)
    setattr(owner, key, _with(getattr(owner, key), rest, value))
    return owner


def _explain(module: Any, missing: dict[str, tuple[Any, Any]] | None, wanted: _Shapes) -> str:
    kind = type(module.config).__name__
    if missing is None:
        return f"{type(module).__name__} cannot be built from its own {kind}"
    alike: dict[str, set[tuple[int, ...]]] = {}
    patterns = {_without_numbers(name) for name in missing}
    for name, shape in wanted.items():
        if _without_numbers(name) in patterns:
            alike.setdefault(_without_numbers(name), set()).add(shape)
    for pattern, shapes in alike.items():
        if len(shapes) > 1:
            sizes = ", ".join(str(list(shape)) for shape in sorted(shapes))
            return (
                f"{kind} has one size for all layers, but {pattern} has the shapes {sizes}: choose "
                "equal sizes"
            )
    name, (found, now) = next(iter(missing.items()))
    return f"{kind} cannot say the sizes: {name} is {now} here, {found} in the nearest config"


def _without_numbers(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _checked(module: Any, config: Any, inputs: Any, tolerance: float) -> Any:
    """The config, after a model that was built from it computed the same."""
    try:
        with tempfile.TemporaryDirectory() as folder:  # some configs are refused only then
            config.save_pretrained(folder)
            type(config).from_pretrained(folder)
        built = type(module)(copy.deepcopy(config))
        parameter: Tensor = next(module.parameters())
        built.to(device=parameter.device, dtype=parameter.dtype)
        built.load_state_dict(module.state_dict())
        built.train(module.training)
        error = difference(run(built, inputs), run(module, inputs))
    except Exception as failure:  # a model's own code may raise anything
        raise _CannotSay(f"{type(config).__name__} cannot say the sizes: {failure}") from failure
    if not error <= tolerance:
        raise _CannotSay(
            f"{type(config).__name__} can say the shapes, but a model built from it differs by "
            f"{error:.2g}: its forward computes something from the full sizes (such as the size "
            "of a head as width over heads)"
        )
    return config
