"""Command lines as words: launchers, quoted commands, shell scripts with variables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from clip_models import ConfigError
from clip_models.command_line import read_small_file


class CommandLine(NamedTuple):
    """A training command without its launcher and program."""

    flags: list[str]
    processes: int | None  # that its launcher starts; None without a launcher
    program: str = ""  # such as `corenet-eval`; empty for flags alone


_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=('[^']*'|\"[^\"]*\"|[^\s'\"]*)(?:\s+#.*)?$")
_CONTINUED = re.compile(r"\\[ \t]*(?:#[^\n]*)?\n")  # also with a comment, as OFM's are published
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_LAUNCHERS = ("torchrun", "torch.distributed.run", "torch.distributed.launch")
_STARTERS = ("srun", "mpirun", "mpiexec", "launch_xla.py")
_COUNTS = {
    "nproc-per-node": "per node",
    "nnodes": "nodes",
    "ntasks": "tasks",
    "n": "tasks",
    "ntasks-per-node": "per node",
    "gpus-per-node": "gpus per node",
    "nodes": "nodes",
    "N": "nodes",
    "num-devices": "per node",
    "num-gpus": "per node",
}
_PROGRAM = re.compile(r"\.py$|^[\w.]*(?:main|train\w*|task\d_clip)$|^corenet-\w+$")


def read_command(text: str, processes: int | None = None) -> CommandLine:
    """The training command in a text: a quoted command line, or a shell script.

    Comments, line continuations, variables that the script sets and `sbatch` options are read; of
    several commands the last one that trains or evaluates counts.

    Raises:
        ConfigError: There is no command with flags, or quotes are not closed.
    """
    variables: dict[str, str] = {}
    found: CommandLine | None = None
    tasks: dict[str, str] = {}
    for line in _CONTINUED.sub(" ", text).splitlines():
        if line.startswith("#SBATCH"):
            tasks |= _counts(line.split()[1:])
            continue
        if assigned := _ASSIGNMENT.match(line.strip()):
            variables[assigned[1]] = _expand(assigned[2].strip("'\""), variables)
            continue
        try:
            words = shlex.split(_expand(line, variables), comments=True)
        except ValueError as error:
            raise ConfigError(f"the command cannot be read: {error}: {line.strip()[:60]}") from None
        if any(word.startswith("--") for word in words):
            here = split_launcher(words, tasks, processes)
            found = here if here.program or not (found and found.program) else found
    if found is None:
        raise ConfigError("no command with flags was found; give a line such as `… --model RN50`")
    return found


def split_launcher(
    words: Sequence[str], tasks: Mapping[str, str] | None = None, processes: int | None = None
) -> CommandLine:
    """A command without environment variables, launcher and program.

    Args:
        words: The words of the command.
        tasks: What a batch script asks of its scheduler, by names of `_COUNTS`.
        processes: Their number, where it is known otherwise.

    Raises:
        ConfigError: The number of processes is no number.
    """
    rest = list(words)
    while rest and re.match(r"[A-Za-z_]\w*=", rest[0]):
        rest.pop(0)
    start = next((i for i, word in enumerate(rest) if _is_program(rest, i)), None)
    if start is None:
        return CommandLine(rest, None)
    before, flags = rest[:start], rest[start + 1 :]
    launched = any(name in word for word in before for name in _LAUNCHERS)
    by_srun = any(Path(word).name in _STARTERS for word in before)
    if not (launched or by_srun):
        return CommandLine(flags, None, rest[start])
    number = processes or _count_processes({**(tasks or {}), **_counts(before)})
    return CommandLine(flags, number, rest[start])


def _is_program(words: Sequence[str], index: int) -> bool:
    """Whether a word is the training program: the last of its kind before the program's flags."""
    word = words[index]
    if word.startswith("-") or not _PROGRAM.search(word) or "launch" in word:
        return False
    before = words[index - 1] if index else ""
    return not (before.startswith("--") and "=" not in before and before != "--module")


def _counts(words: Sequence[str]) -> dict[str, str]:
    """Numbers of nodes and processes among the options of a launcher."""
    found: dict[str, str] = {}
    for index, word in enumerate(words):
        if not word.startswith("-"):
            continue
        name, equals, value = word.partition("=")
        name = name.lstrip("-").replace("_", "-")
        if name in _COUNTS:
            following = words[index + 1] if index + 1 < len(words) else ""
            found[_COUNTS[name]] = value if equals else following
    return found


def _count_processes(found: Mapping[str, str]) -> int:
    numbers: dict[str, int] = {}
    for name, text in found.items():
        text = text.rpartition(":")[2]  # torchrun's MIN:MAX
        if not text.isdecimal() or int(text) < 1:
            raise ConfigError(
                f"the number of processes is not known: the launcher's {name} is {text!r}; add "
                "--processes N"
            )
        numbers[name] = int(text)
    each = numbers.get("per node", numbers.get("gpus per node", 1))
    return numbers.get("tasks") or each * numbers.get("nodes", 1)


def _expand(text: str, variables: Mapping[str, str]) -> str:
    """The text with the values of variables that the script sets; others stay."""
    return _VARIABLE.sub(lambda found: variables.get(found[1] or found[2], found[0]), text)


def read_script(file: Path) -> str:
    """The text of a file.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return read_small_file(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
