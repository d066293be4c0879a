"""Six commands, one contract: exit codes, one line per error, flags, help without torch."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest


class Command(NamedTuple):
    """A command with what its rows of the contract need."""

    entry: str
    subcommands: tuple[str, ...]
    missing_input: tuple[str, ...]
    """Arguments that name an input which is not there, `{absent}`."""
    taken_output: tuple[str, ...]
    """Arguments that write to `{taken}`, a directory or file that exists."""


COMMANDS = {
    "clip-tokenizer": Command(
        "clip_tokenizer.cli:main",
        ("encode", "decode", "count", "train", "export"),
        ("encode", "{absent}"),
        ("export", "--out", "{taken}"),
    ),
    "clip-models": Command(
        "clip_models.cli:main",
        ("convert", "info", "list"),
        ("info", "{absent}/x"),
        ("convert", "{absent}/x", "--out", "{taken}", "--to", "hugging-face"),
    ),
    "dtp-lm": Command(
        "dtp_pooling.cli:main",
        ("train", "resume", "eval", "generate", "presets", "curves"),
        ("eval", "{absent}", "{absent}"),
        ("train", __file__, "--out", "{taken}"),
    ),
    "osf": Command(
        "osf_supernet.cli:main",
        ("explain", "sample", "extract", "verify", "train", "resume", "search"),
        ("explain", "torchvision:resnet18", "--weights", "{absent}"),
        ("extract", "torchvision:resnet18", "--out", "{taken}"),
    ),
    "clip-eval": Command(
        "clip_eval.cli.main:main",
        ("run", "predict", "inspect", "embed", "compare", "report", "import-results", "export"),
        ("embed", "--model", "{absent}", "--data", "{absent}", "--out", "{absent}.npz"),
        ("embed", "--model", "{absent}", "--data", "{absent}", "--out", "{taken}"),
    ),
    "clip-train": Command(
        "clip_train.cli.main:main",
        ("run", "resume", "translate", "presets", "plan", "supernet", "data"),
        ("resume", "{absent}"),
        ("run", "shapes-tiny", "--out", "{taken}"),
    ),
}
HELP = [(prog, sub) for prog, command in COMMANDS.items() for sub in ("", *command.subcommands)]
HELP += [("clip-train", f"data {sub}") for sub in ("shapes", "convert", "inspect")]
TAKEN = ("config.json", "model.safetensors", "vocab.json")
"""Files of a directory that no command may replace unasked."""
CALL = """
import pkgutil, sys
class Interrupt:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch" and {interrupt}:
            raise KeyboardInterrupt
if {interrupt}:
    sys.meta_path.insert(0, Interrupt)
try:
    sys.exit(pkgutil.resolve_name({entry!r})({arguments!r}))
finally:
    if {report}:
        print("torch" in sys.modules, file=sys.stderr)
"""


class Done(NamedTuple):
    """How a process ended."""

    code: int
    out: str
    err: str


def call(
    prog: str, *arguments: str, cwd: Path, interrupt: bool = False, report: bool = False
) -> Done:
    """Call the entry point of a command in a process of its own."""
    code = CALL.format(
        entry=COMMANDS[prog].entry, arguments=list(arguments), interrupt=interrupt, report=report
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, timeout=120
    )
    return Done(run.returncode, run.stdout, run.stderr)


def fill(arguments: tuple[str, ...], directory: Path) -> list[str]:
    """The arguments with paths below a directory."""
    (directory / "taken").mkdir(exist_ok=True)
    for name in TAKEN:
        (directory / "taken" / name).write_text("of the user's\n")
    places = {"absent": str(directory / "absent"), "taken": str(directory / "taken")}
    return [argument.format(**places) for argument in arguments]


def is_one_error(done: Done, prog: str) -> bool:
    """Whether stderr is one line `prog: error: …`, or that of a sub-command's parser."""
    lines = done.err.splitlines()
    return len(lines) == 1 and lines[0].startswith(prog) and ": error: " in lines[0]


def test_every_console_script_is_in_the_table() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts")
    ours = {script.name: script.value for script in scripts if script.name in COMMANDS}
    assert ours == {prog: command.entry for prog, command in COMMANDS.items()}


@pytest.mark.parametrize(("prog", "sub"), HELP)
def test_help_needs_no_torch(prog: str, sub: str, tmp_path: Path) -> None:
    done = call(prog, *sub.split(), "--help", cwd=tmp_path, report=True)
    assert done.code == 0
    assert done.out.startswith("usage: ")
    assert done.err == "False\n"


@pytest.mark.parametrize("prog", COMMANDS)
def test_version(prog: str, tmp_path: Path) -> None:
    done = call(prog, "--version", cwd=tmp_path, report=True)
    distribution = COMMANDS[prog].entry.partition(".")[0].replace("_", "-")
    version = importlib.metadata.version(distribution)
    assert done == Done(0, f"{distribution} {version}\n", "False\n")


@pytest.mark.parametrize(("prog", "sub"), HELP)
def test_an_unknown_flag_is_one_line(prog: str, sub: str, tmp_path: Path) -> None:
    done = call(prog, *sub.split(), "--no-such-flag", cwd=tmp_path)
    assert done.code == 2
    assert is_one_error(done, prog), done.err


@pytest.mark.parametrize("prog", COMMANDS)
def test_an_unknown_subcommand_is_one_line(prog: str, tmp_path: Path) -> None:
    for arguments in ([], ["no-such-command"]):
        done = call(prog, *arguments, cwd=tmp_path)
        assert done.code == 2
        assert is_one_error(done, prog), done.err


@pytest.mark.parametrize("prog", COMMANDS)
def test_a_missing_input_is_one_line(prog: str, tmp_path: Path) -> None:
    done = call(prog, *fill(COMMANDS[prog].missing_input, tmp_path), cwd=tmp_path)
    assert done.code == 2
    assert is_one_error(done, prog), done.err
    assert "absent" in done.err
    assert "Errno" not in done.err


@pytest.mark.parametrize("prog", COMMANDS)
def test_nothing_is_overwritten_unasked(prog: str, tmp_path: Path) -> None:
    done = call(prog, *fill(COMMANDS[prog].taken_output, tmp_path), cwd=tmp_path)
    assert done.code == 2
    assert is_one_error(done, prog), done.err
    assert "--overwrite" in done.err
    found = {file.name: file.read_text() for file in (tmp_path / "taken").iterdir()}
    assert found == dict.fromkeys(TAKEN, "of the user's\n")


@pytest.mark.parametrize("prog", [prog for prog in COMMANDS if prog != "clip-tokenizer"])
def test_an_interruption_while_torch_is_imported_is_one_line(prog: str, tmp_path: Path) -> None:
    # arguments that are accepted, so that the body of the sub-command begins
    arguments = fill(COMMANDS[prog].missing_input, tmp_path)
    done = call(prog, *arguments, cwd=tmp_path, interrupt=True)
    assert done.code == 130
    assert len(done.err.splitlines()) == 1, done.err
    assert done.err.startswith(f"{prog}: ")


@pytest.mark.parametrize(
    ("prog", "arguments"),
    [
        ("clip-models", ["list"]),
        ("clip-train", ["presets"]),
        ("dtp-lm", ["presets", "text8-gumbel"]),
        ("osf", ["explain", "torchvision:resnet18"]),
    ],
)
def test_a_reader_that_leaves_ends_it_quietly(
    prog: str, arguments: list[str], tmp_path: Path
) -> None:
    code = CALL.format(
        entry=COMMANDS[prog].entry, arguments=arguments, interrupt=False, report=False
    )
    read, write = os.pipe()
    os.close(read)  # the reader of the output has left already
    run = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, cwd=tmp_path
    )
    os.close(write)
    assert run.returncode == 0
    assert run.stderr == b""


@pytest.mark.parametrize(
    ("prog", "arguments"),
    [
        ("clip-models", ["list", "--json"]),
        ("clip-train", ["plan", "shapes-tiny", "--json"]),
        ("osf", ["sample", "torchvision:resnet18", "--json"]),
    ],
)
def test_json_is_json(prog: str, arguments: list[str], tmp_path: Path) -> None:
    done = call(prog, *arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    json.loads(done.out)
