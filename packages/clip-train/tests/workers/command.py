"""The `clip-train` command in a process of a group; what it printed goes to a file of the rank."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from clip_train.cli.main import main as command


def main(arguments: list[str], output: str) -> int:
    """Run the command line; its exit status."""
    file = Path(f"{output}.{os.environ['RANK']}")
    with file.open("a") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        return command(arguments)
