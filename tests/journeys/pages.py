"""Runs the fenced blocks of a page in order, as its reader would, in this process.

What a test may change of a page is stated in docs/journeys/README.md: texts that it replaces
(`swap`), and what is added to a command (`flags`).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "clip-eval": "clip_eval.cli.main",
    "clip-models": "clip_models.cli",
    "clip-tokenizer": "clip_tokenizer.cli",
    "clip-train": "clip_train.cli.main",
    "dtp-lm": "dtp_pooling.cli",
    "osf": "osf_supernet.cli",
}
SMALL = {
    "clip-train run": "--steps 2 --batch-size 8 --workers 0 --device cpu --precision fp32 --quiet",
    "clip-train supernet": "--steps 2 --batch-size 8 --workers 0 --device cpu --precision fp32 "
    "--population 4 --quiet",
    "clip-eval run": "--workers 0 --no-cache --quiet",
    "clip-eval embed": "--workers 0 --quiet",
}
"""What makes a command short, added to it in every journey."""


class Page:
    """A page, or one section of it.

    Args:
        path: Of the page, from the root of the repository.
        swap: Texts of the page and what stands in their place; each has to occur.
        flags: What is added to commands that begin so, beside `SMALL`.
        section: The heading whose blocks run; None for all.
    """

    def __init__(
        self,
        path: str,
        *,
        swap: Mapping[str, str] | None = None,
        flags: Mapping[str, str] | None = None,
        section: str | None = None,
    ) -> None:
        text = (ROOT / path).read_text(encoding="utf-8")
        if section is not None:
            parts = re.split(r"^#+ (.*)\n", text, flags=re.MULTILINE)
            text = dict(zip(parts[1::2], parts[2::2], strict=True))[section]
        for old, new in (swap or {}).items():
            assert old in text, f"{path} does not say {old!r} any more"
            text = text.replace(old, new)
        self.blocks = re.findall(r"^```(sh|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        assert self.blocks, path
        self.path, self.flags = path, dict(flags or {})
        self.namespace: dict[str, Any] = {"__name__": path}
        self.printed = ""

    def run(self) -> dict[str, Any]:
        """Run every block in the working directory; the names that its programs defined."""
        for kind, text in self.blocks:
            output = io.StringIO()
            with contextlib.redirect_stdout(output), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a reader would see them, and go on
                if kind == "python":
                    exec(compile(text, self.path, "exec"), self.namespace)
                else:
                    self._run_shell(text)
            self.printed += output.getvalue()
        return self.namespace

    def _run_shell(self, text: str) -> None:
        """Commands with continued lines, `cat > FILE <<'END'`, and `> FILE`."""
        lines = iter(text.replace("\\\n", " ").splitlines())
        for line in lines:
            if found := re.fullmatch(r"cat > (\S+) <<'(\w+)'", line):
                inside = iter(lambda end=found[2]: next(lines, end), found[2])
                Path(found[1]).write_text("".join(f"{one}\n" for one in inside))
            elif words := shlex.split(line, comments=True):
                self._run_command(words)

    def _run_command(self, words: list[str]) -> None:
        target = None
        if len(words) > 2 and words[-2] == ">":
            target, words = Path(words[-1]), words[:-2]
        assert words[0] in COMMANDS, f"{self.path}: the test knows no command {words[0]!r}"
        for start, more in [*SMALL.items(), *self.flags.items()]:
            if words[:2] == start.split():
                words = [*words, *shlex.split(more)]
        main = importlib.import_module(COMMANDS[words[0]]).main
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            code = main(words[1:])
        assert code == 0, f"{shlex.join(words)}\n{errors.getvalue()[-2000:]}"
        if target is None:
            print(output.getvalue(), end="")
        else:
            target.write_text(output.getvalue())
