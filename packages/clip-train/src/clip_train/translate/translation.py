"""Another system's command line or recipe as TOML, and a list of what has no counterpart."""

from __future__ import annotations

import fnmatch
import json
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
from clip_train.translate.command_lines import (
    CommandLine,
    read_command,
    read_script,
    split_launcher,
)
from clip_train.translate.evaluations import translate_evaluation
from clip_train.translate.rules import NOTE, Missing, Rule
from clip_train.translate.systems import SYSTEMS


class Translation(NamedTuple):
    """A config as TOML, the command that takes it, and what could not be translated."""

    toml: str
    without_counterpart: list[str]  # `flag value: reason`
    command: str = ""  # with THIS.toml as its file; empty for `clip-train run`

    def text(self) -> str:
        """The TOML, with the rest as comments below it; an evaluation is its command alone."""
        if not self.toml:
            return f"{self.command}\n"
        start = f"\n# Run it with: {self.command}\n" if self.command else ""
        notes = "".join(f"# {line}\n" for line in self.without_counterpart)
        return self.toml + start + (f"\n# Without counterpart:\n{notes}" if notes else "")


def translate(
    system: str, words: Sequence[str], *, processes: int | None = None, lenient: bool = False
) -> Translation:
    """The config of another system's run.

    Args:
        system: A key of SYSTEMS.
        words: Its command, with or without launcher and program; or the path of a YAML or JSON
            file, or of a shell script with the command.
        processes: Number of processes of the original run, whose batch sizes are per process; None
            for the number that its launcher starts, or 1.
        lenient: List settings that change the result and have no counterpart, instead of raising.

    Raises:
        ConfigError: The system is unknown, a file cannot be read, a value is out of range, or a
            setting that changes the result has no counterpart.
    """
    if system not in SYSTEMS:
        raise ConfigError(f"unknown system {system!r}{nearest(system, SYSTEMS)}")
    given, launched, program = _read(words, processes)
    if evaluation := translate_evaluation(given, program):
        return Translation("", [], evaluation)
    known = SYSTEMS[system]
    number = processes or launched or 1
    found, missing = _apply(known.rules, {**known.defaults, **given}, given, number)
    if missing and not lenient:
        raise ConfigError(
            f"no counterpart of what changes the result: {_list_missing(missing)}; with --lenient "
            "they are left out, and listed"
        )
    return found._replace(command=f"{known.command} {found.command}" if found.command else "")


def _list_missing(missing: Sequence[tuple[str, str]], limit: int = 5) -> str:
    """Settings and why they have no counterpart, those of one reason together."""
    settings: dict[str, list[str]] = {}
    for setting, reason in missing:
        settings.setdefault(reason, []).append(setting)
    shown = [f"{', '.join(names)} ({reason})" for reason, names in settings.items()]
    more = [f"and {len(shown) - limit} more"] if len(shown) > limit else []
    return "; ".join([*shown[:limit], *more])


def _apply(
    rules: Mapping[str, Rule], values: Mapping[str, Any], given: Mapping[str, Any], processes: int
) -> tuple[Translation, list[tuple[str, str]]]:
    """The config by the rules; and settings that no rule takes and that matter, each with why."""
    config: dict[str, Any] = {}
    rest: list[str] = []
    missing: list[tuple[str, str]] = []
    options: list[str] = []
    for name, value in values.items():
        found = _translate_value(_find_rule(rules, name), value, values)
        if isinstance(found, str):
            found = {NOTE: found}
        for key, ours in found.items():
            if key == NOTE:
                if name in given:
                    rest.append(f"{name} {value}: {ours}")
                if isinstance(ours, Missing):
                    missing.append((f"{name} {value}", ours))
            elif key.startswith("--"):
                options += [key, shlex.quote(str(ours))]
            else:
                _put(config, key.split("."), ours)
    _complete(config, processes)
    from_dict(Config, config)  # raises on values that are out of range
    return Translation(tomli_w.dumps(config), rest, " ".join(options)), missing


def _find_rule(rules: Mapping[str, Rule], name: str) -> Rule:
    """The rule of a name, or of the first pattern that fits it."""
    if name in rules:
        return rules[name]
    fits = (rule for key, rule in rules.items() if "*" in key and fnmatch.fnmatch(name, key))
    return next(fits, Missing("unknown flag or key"))


def _translate_value(rule: Rule, value: Any, values: Mapping[str, Any]) -> dict[str, Any] | str:
    if isinstance(rule, str):
        return rule
    try:
        return rule(value, values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return Missing(f"no counterpart; {error}")


def _complete(config: dict[str, Any], processes: int) -> None:
    """Set the values that depend on several flags."""
    train = config.setdefault("train", {})
    parts = train.get("grad_accum_steps", 1)
    if "batch_size" in train:
        train["batch_size"] *= parts * processes
    sizes = config.get("data", {}).get("variable_sizes")
    if sizes is not None:
        sizes["batch_multiple"] = parts * processes
    if "samples" in train:
        train.pop("epochs", None)
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


class _Read(NamedTuple):
    """What a command line or a file says."""

    values: dict[str, Any]
    processes: int | None = None  # of its launcher
    program: str = ""


def _read(words: Sequence[str], processes: int | None) -> _Read:
    """The values of a command line or a file."""
    if len(words) == 1 and not words[0].startswith("-"):
        if " " not in words[0].strip():
            return _read_file(Path(words[0]), processes)
        command = read_command(words[0], processes)  # quoted
    else:
        command = split_launcher(words, processes=processes)
    return _read_command_line(command)


def _read_command_line(command: CommandLine) -> _Read:
    flags = _with_recipe(_read_flags(command.flags))
    return _Read(flags, command.processes, command.program)


def _with_recipe(given: dict[str, Any]) -> dict[str, Any]:
    """The flags of a command, with the recipe that one of CoreNet's names."""
    if "common.config_file" in given:  # CoreNet's recipe, which its flags override
        recipe = _read_file(Path(given.pop("common.config_file"))).values
        overrides = str(given.pop("common.override_kwargs", "")).split()
        pairs = (pair.partition("=") for pair in overrides)
        changes = {key.replace("-", "_"): yaml.safe_load(value) for key, _, value in pairs}
        given = {**given, **recipe, **changes}  # in its order of precedence
    return given


def _read_flags(words: Sequence[str]) -> dict[str, Any]:
    """Values by flag name; True for a flag alone, several words are joined.

    Raises:
        ConfigError: The words do not begin with a flag.
    """
    found: dict[str, Any] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            name = name[2:].replace("_", "-") if "." not in name else name[2:].replace("-", "_")
            found[name] = value if equals else True
        elif name:
            before = found[name]
            found[name] = word if before is True else f"{before} {word}"
        else:
            raise ConfigError(f"unexpected {word!r}; give flags, such as --model ViT-B-32")
    return found


def _read_file(file: Path, processes: int | None = None) -> _Read:
    """The dotted keys of a YAML file, the plan of a JSON file, or the command in a script."""
    text = read_script(file)
    try:
        if file.suffix in (".yaml", ".yml"):
            return _Read(dict(_dotted(yaml.safe_load(text) or {})))
        if file.suffix == ".json":
            return _Read(_read_plan(file, json.loads(text)))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    return _read_command_line(read_command(text, processes))


def _read_plan(file: Path, plan: Any) -> dict[str, Any]:
    """The settings of a JSON file; one that holds several plans is not guessed at."""
    if not isinstance(plan, dict):
        raise ConfigError(f"{file} cannot be read: expected a JSON object of settings")
    tables = {key: value for key, value in plan.items() if isinstance(value, dict)}
    if len(tables) > 1:
        raise ConfigError(
            f"{file} holds several plans, {', '.join(map(str, tables))}; give a file with one"
        )
    for table in tables.values():
        plan = {key: value for key, value in plan.items() if key not in tables} | table
    return {str(key).replace("_", "-"): value for key, value in plan.items()}


def _dotted(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(values, Mapping):
        return [(prefix.replace("-", "_"), values)]
    return [
        item
        for key, value in values.items()
        for item in _dotted(value, f"{prefix}.{key}" if prefix else str(key))
    ]
