"""The weights among the other things that a trainer saved: which table, under which names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_models.converters.dialects import find_prefixes
from clip_models.errors import CheckpointError

_KNOWN_KEYS = ("state_dict", "model_state_dict", "model")
_NO_WEIGHTS = ("optim", "sched", "lr_", "scaler", "loops", "callbacks", "rng", "param_shapes")
"""How the keys of tables begin that hold the state of something other than a model."""
_BOOKKEEPING = ("n_averaged",)
"""Numbers that `torch.optim.swa_utils.AveragedModel` keeps beside its weights."""
_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
_LOGITS = ("logit_scale", "logit_bias")
_DEPTH = 5


def find_state(loaded: Any, *, source: Path, key: str | None) -> dict[str, Tensor]:
    """The state dict in what a file holds.

    Args:
        loaded: A state dict, or tables in which there is one.
        source: Name of the file, for messages.
        key: Keys of the tables on the way to it, joined by dots. None takes the only state dict,
            or the only one that is a CLIP's.

    Raises:
        CheckpointError: There is none, there are several, or it holds more than tensors.
    """
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{source} holds a {type(loaded).__name__}, expected a state dict")
    holding = {path: table for path, table in _walk(loaded, "", set()) if _names(table)}
    if key is None:
        return _require_tensors(*_choose(loaded, holding, source))
    table = _look_up(loaded, key)
    if table is None:
        found = _list(sorted(path for path in holding if path)) or "none"
        raise CheckpointError(f"{source} has no table {key!r}; those with tensors: {found}")
    return _require_tensors(table, source, key)


def _choose(
    loaded: Mapping[Any, Any], holding: Mapping[str, Mapping[Any, Any]], source: Path
) -> tuple[Mapping[Any, Any], Path, str]:
    """The state dict of the model, with the file and its key."""
    nested = {
        path: table
        for path, table in holding.items()
        if path and not any(part.lower().startswith(_NO_WEIGHTS) for part in path.split("."))
    }
    clips = {path: table for path, table in nested.items() if find_prefixes(_names(table))}
    if not nested or find_prefixes(_names(loaded)):
        return loaded, source, ""
    if len(clips or nested) == 1:
        path = next(iter(clips or nested))
        return nested[path], source, path
    if not clips:
        for path in _KNOWN_KEYS:
            if path in nested:
                return nested[path], source, path
    choices = sorted(clips or nested)
    raise CheckpointError(
        f"{source} holds weights in {_list(choices)}; choose with key={choices[-1]!r} "
        f"(clip-models convert --key {choices[-1]})"
    )


def strip_prefix(
    tensors: Mapping[str, Tensor], *, source: str | Path, prefix: str | None
) -> dict[str, Tensor]:
    """The tensors under their names in the CLIP, without those of what surrounded it.

    Prefixes of `DistributedDataParallel`, `torch.compile` and similar wrappers are removed. A scale
    or bias of the logits that stands outside the prefix, once, belongs to the model.

    Args:
        tensors: By their names in the file.
        source: Name of the file, for messages.
        prefix: How the names of the model begin; None finds out, if there is one CLIP among them.

    Raises:
        CheckpointError: No name begins so, or there are several CLIPs.
    """
    plain = strip_wrappers(tensors, source=source)
    if prefix is not None:
        raw = any(name.startswith(prefix) for name in tensors)
        named = tensors if raw else plain
        return _cut(named, _find_given(named, prefix, source), source)
    plain = {name: value for name, value in plain.items() if name not in _BOOKKEEPING}
    prefixes = find_prefixes(plain)
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{source} holds models under {_list(prefixes)}; choose with "
            f"prefix={prefixes[-1]!r} (clip-models convert --prefix {prefixes[-1]})"
        )
    return _cut(plain, prefixes[0], source) if any(prefixes) else plain


def strip_wrappers(tensors: Mapping[str, Tensor], *, source: str | Path) -> dict[str, Tensor]:
    """The tensors under their names in the module that was wrapped."""
    plain: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        while name.startswith("module."):
            name = name.removeprefix("module.")
        if name in plain:
            raise CheckpointError(f"{source} has {name} twice, once as {key}")
        plain[name] = value
    return plain


def require_numbers(tensors: Mapping[str, Tensor], source: Path) -> None:
    """Check that every tensor holds plain numbers.

    Raises:
        CheckpointError: One does not; the message says how to save it.
    """
    for name, value in tensors.items():
        reason = None
        if value.is_meta:
            reason = "is on the meta device: the file has its shape without numbers; save the model"
            reason += " after its weights were loaded"
        elif value.is_quantized:
            reason = "is quantized; save it after .dequantize()"
        elif value.layout is not torch.strided:
            reason = f"is sparse ({value.layout}); save it after .to_dense()"
        elif type(value) not in (Tensor, torch.nn.Parameter):
            reason = f"is a {type(value).__name__}; save the whole tensor"
        if reason:
            raise CheckpointError(f"{source}: {name} {reason}")


def require_no_adapters(names: Iterable[str], source: Path) -> None:
    """Check that no layer is split into itself and an adapter.

    Raises:
        CheckpointError: One is; the message says how to merge them.
    """
    for name in names:
        if ".lora_" in name or ".base_layer." in name:
            raise CheckpointError(
                f"{source} holds adapters, such as {name}; load the model with peft and save what "
                "its merge_and_unload returns"
            )


def _walk(
    table: Mapping[Any, Any], path: str, seen: set[int]
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every table with names for keys, once, by its dotted path."""
    seen.add(id(table))
    yield path, table
    for key, value in table.items():
        is_new = isinstance(value, Mapping) and id(value) not in seen
        if is_new and isinstance(key, str) and path.count(".") < _DEPTH:
            yield from _walk(value, f"{path}.{key}" if path else key, seen)


def _look_up(table: Mapping[Any, Any], key: str) -> Mapping[Any, Any] | None:
    """The table at a dotted path; None if there is none."""
    for name, inner in table.items():
        if not isinstance(name, str) or not isinstance(inner, Mapping):
            continue
        if name == key:
            return inner
        if name and key.startswith(f"{name}."):
            found = _look_up(inner, key.removeprefix(f"{name}."))
            if found is not None:
                return found
    return None


def _names(table: Mapping[Any, Any]) -> list[str]:
    """Names of the tensors of a table."""
    return [k for k, value in table.items() if isinstance(k, str) and isinstance(value, Tensor)]


def _require_tensors(table: Mapping[Any, Any], source: Path, key: str) -> dict[str, Tensor]:
    others = [str(name) for name, value in table.items() if not isinstance(value, Tensor)]
    if others:
        what = f"{source}, {key}," if key else f"{source}"
        raise CheckpointError(
            f"{what} is not a state dict: {', '.join(others[:4])}"
            f"{' and more' if len(others) > 4 else ''} are not tensors"
        )
    return {str(name): value for name, value in table.items()}


def _find_given(tensors: Mapping[str, Tensor], prefix: str, source: str | Path) -> str:
    """The prefix as the names have it, with its dot."""
    given = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    if any(name.startswith(given) for name in tensors):
        return given
    found = sorted({name.partition(".")[0] + "." for name in tensors if "." in name})
    raise CheckpointError(f"{source} has no names under {prefix!r}; they begin {_list(found[:8])}")


def _cut(tensors: Mapping[str, Tensor], prefix: str, source: str | Path) -> dict[str, Tensor]:
    """The tensors whose names begin so, without the prefix."""
    inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    for logit in _LOGITS:
        outside = [key for key in tensors if key == logit or key.endswith(f".{logit}")]
        if len(outside) == 1:
            inside.setdefault(logit, tensors[outside[0]])
    return strip_wrappers(inside, source=source)


def _list(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
