"""Rows of docs/originals.md: a feature of an original, our command or program, and the verdict.

A row is executed in an empty directory that holds the small inputs it names.  The verdict is `yes`
if everything ran and the check held, `partly` if also what the row says is missing was shown to be
missing, `no` if the row says that there is no counterpart and that was shown, and otherwise the
failure.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_eval.cli.main import main as clip_eval
from clip_models.cli import main as clip_models
from clip_tokenizer.cli import main as clip_tokenizer
from clip_train.cli.main import main as clip_train
from dtp_pooling.cli import main as dtp_lm
from osf_supernet.cli import main as osf
from small_inputs import make

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "clip-eval": clip_eval,
    "clip-models": clip_models,
    "clip-tokenizer": clip_tokenizer,
    "clip-train": clip_train,
    "dtp-lm": dtp_lm,
    "osf": osf,
}
LAUNCHERS = ("torchrun",)
MODULES = {"osf": "osf_supernet", "dtp-lm": "dtp_pooling", "clip-train": "clip_train"}

Check = Callable[[str], None]
"""Called with what the commands printed, in the directory where they ran."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What a row lacks.

    Attributes:
        reason: Why, in the words of the page.
        shown_by: A command that is refused, or a program that ends well where the lack is there.
        message: Part of the refusal.
        whole: Whether there is no counterpart at all.
    """

    reason: str
    shown_by: str
    message: str = ""
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """One feature of an original.

    Attributes:
        there: The feature as the original names it.
        here: Commands, one on each line, or a Python program.
        needs: Names of inputs that are made before, see `small_inputs.py`.
        check: What must hold afterwards; programs check themselves by `assert`.
        limit: What is missing.
        slow: Whether it takes more than a few seconds.
    """

    there: str
    here: str
    needs: str = ""
    check: Check | None = None
    limit: Limit | None = None
    slow: bool = False

    @property
    def is_command(self) -> bool:
        """Whether it is a row of commands rather than a program."""
        return self.here.split()[0] in (*COMMANDS, *LAUNCHERS)


def execute(row: Row, work: Path, directory: Path) -> str:
    """The verdict on a row.

    Args:
        row: What to do.
        work: Where inputs are kept between rows.
        directory: Where to do it, empty.
    """
    for name in row.needs.split():
        (directory / name).symlink_to(make(name, work))
    with contextlib.chdir(directory):
        try:
            printed = run(row.here)
            if row.check is not None:
                row.check(printed)
            if row.limit is None:
                return "yes"
            _show(row.limit)
        except Exception as error:
            return f"fails: {type(error).__name__}: {' '.join(str(error).split())[-300:]}"
    return f"{'no' if row.limit.whole else 'partly'}: {row.limit.reason}"


def run(text: str) -> str:
    """Run commands, or a program; what they printed.

    Raises:
        RuntimeError: a command ended with another code than 0.
    """
    if text.split()[0] not in (*COMMANDS, *LAUNCHERS):
        exec(compile(text, "row", "exec"), {"__name__": "row"})
        return ""
    printed = []
    for line in text.replace("\\\n", " ").strip().splitlines():
        line, _, file = line.partition(" > ")
        code, output = call(shlex.split(line))
        printed.append(output)
        if file:
            Path(file.strip()).write_text(output)
        if code != 0:
            raise RuntimeError(f"exit code {code} of {line}: {output[-600:]}")
    return "".join(printed)


def call(words: Sequence[str]) -> tuple[int, str]:
    """One command in this process, or with a launcher in others; its code and its output."""
    if words[0] in LAUNCHERS:
        module = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
        done = subprocess.run(module, capture_output=True, text=True, check=False, timeout=600)
        return done.returncode, done.stdout + done.stderr
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), _settings():
        try:
            code = COMMANDS[words[0]](list(words[1:]))
        except SystemExit as end:
            code = int(end.code or 0)
    return code, output.getvalue()


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    before = dict(os.environ)
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _show(limit: Limit) -> None:
    """Show that something is missing: a program ends well, a command is refused in one line."""
    if limit.shown_by.split()[0] not in COMMANDS:
        run(limit.shown_by)
        return
    code, output = call(shlex.split(limit.shown_by))
    if code != 2 or limit.message not in output:
        raise AssertionError(f"{limit.shown_by} was not refused: {code} {output[-300:]}")


def line(row: Row, verdict: str) -> str:
    """A row of the page."""
    here = row.here.strip().replace("\\\n", " ")
    if row.is_command:
        cells = "<br>".join(f"`{' '.join(part.split())}`" for part in here.splitlines())
    else:
        cells = "<br>".join(f"`{part}`" for part in here.splitlines() if part.strip())
    return f"| {row.there} | {cells.replace('|', chr(92) + '|')} | {verdict} |"
