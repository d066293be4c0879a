"""Another system's command line or recipe as TOML, and a list of what has no counterpart."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
import yaml
from clip_models import ConfigError
from clip_models.config import from_dict, nearest

from clip_train.config.run import Config
from clip_train.config.training import OptimConfig
from clip_train.translate.rules import NOTE, Rule
from clip_train.translate.systems import SYSTEMS


class Translation(NamedTuple):
    """A config as TOML, the command that takes it, and what could not be translated."""

    toml: str
    without_counterpart: list[str]  # `flag value: reason`
    command: str = ""  # with THIS.toml as its file; empty for `clip-train run`

    def text(self) -> str:
        """The TOML, with the rest as comments below it."""
        start = f"\n# Run it with: {self.command}\n" if self.command else ""
        notes = "".join(f"# {line}\n" for line in self.without_counterpart)
        return self.toml + start + (f"\n# Without counterpart:\n{notes}" if notes else "")


def translate(system: str, words: Sequence[str], *, processes: int = 1) -> Translation:
    """The config of another system's run.

    Args:
        system: A key of SYSTEMS.
        words: Its flags; or the path of a YAML file, or of a shell script with the command.
        processes: Number of processes of the original run, whose batch sizes are per process.

    Raises:
        ConfigError: The system is unknown, a file cannot be read, or a value is out of range.
    """
    if system not in SYSTEMS:
        raise ConfigError(f"unknown system {system!r}{nearest(system, SYSTEMS)}")
    if len(words) == 1 and not words[0].startswith("-"):
        given = _read_file(Path(words[0]))
    else:
        given = _read_flags(words)
    known = SYSTEMS[system]
    found = _apply(known.rules, {**known.defaults, **given}, given, processes)
    return found._replace(command=f"{known.command} {found.command}" if found.command else "")


def _apply(
    rules: Mapping[str, Rule], values: Mapping[str, Any], given: Mapping[str, Any], processes: int
) -> Translation:
    """The config by the rules, and what the user gave that no rule takes."""
    config: dict[str, Any] = {}
    rest: list[str] = []
    options: list[str] = []
    for name, value in values.items():
        rule = rules.get(name)
        if rule is None:
            rest.append(f"{name} {value}: unknown flag or key")
            continue
        if isinstance(rule, str):
            if name in given:
                rest.append(f"{name} {value}: {rule}")
            continue
        try:
            found = rule(value, values)
        except (AttributeError, TypeError, ValueError) as error:
            found = f"no counterpart; {error}"
        if isinstance(found, str):
            found = {NOTE: found}
        for key, ours in found.items():
            if key == NOTE:
                rest.append(f"{name} {value}: {ours}")
            elif key.startswith("--"):
                options += [key, shlex.quote(str(ours))]
            else:
                _put(config, key.split("."), ours)
    _complete(config, processes)
    from_dict(Config, config)  # raises on values that are out of range
    return Translation(tomli_w.dumps(config), rest, " ".join(options))


def _complete(config: dict[str, Any], processes: int) -> None:
    """Set the values that depend on several flags."""
    train = config.setdefault("train", {})
    parts = train.get("grad_accum_steps", 1)
    if "batch_size" in train:
        train["batch_size"] *= parts * processes
    sizes = config.get("data", {}).get("variable_sizes")
    if sizes is not None:
        sizes["batch_multiple"] = parts * processes
    if "steps" in train:
        train.pop("epochs", None)
    betas = config.get("optim", {}).get("betas")
    if betas is not None:
        default = OptimConfig().betas
        config["optim"]["betas"] = [betas.get("0", default[0]), betas.get("1", default[1])]


def _put(config: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        config = config.setdefault(key, {})
    config[path[-1]] = value


def _read_flags(words: Sequence[str]) -> dict[str, Any]:
    """Values by flag name; True for a flag alone, several words are joined."""
    found: dict[str, Any] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            name = name[2:].replace("_", "-") if "." not in name else name[2:]
            found[name] = value if equals else True
        elif name:
            before = found[name]
            found[name] = word if before is True else f"{before} {word}"
    return found


def _read_file(file: Path) -> dict[str, Any]:
    """The dotted keys of a YAML file, or the flags of the command in a script."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix in (".yaml", ".yml"):
            return dict(_dotted(yaml.safe_load(text) or {}))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    return _read_flags(shlex.split(text.replace("\\\n", " "), comments=True))


def _dotted(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(values, Mapping):
        return [(prefix, values)]
    return [
        item
        for key, value in values.items()
        for item in _dotted(value, f"{prefix}.{key}" if prefix else str(key))
    ]
