"""In a process that a fork server made: run a command in a process group of its own."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import NoReturn


def call(module: str, words: list[str], folder: str, log: str) -> NoReturn:
    """Call `module.main(words)` in a folder; what it prints goes to a file."""
    os.setsid()
    os.chdir(folder)
    sys.path.insert(0, folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(descriptor, number)
    try:
        code = importlib.import_module(module).main(words)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code or 0)
