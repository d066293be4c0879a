"""Every input of the corpus: no command runs, nothing hangs, one line or a counted fault."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import cases
import pytest
from conftest import Forge

SECONDS = 10
MOST_MEGABYTES = 1536
PART = 60
"""Inputs of the part that every run of the tests checks."""


def judge(case: cases.Case, answer: dict[str, Any], clean: dict[str, Any] | None) -> str:
    """What is wrong with the answer to a case; empty if nothing is."""
    output, code = answer["output"], answer["code"]
    if answer["timed_out"]:
        return f"no end after {SECONDS} s"
    if "FORBIDDEN" in output:
        return f"it did what no reader may: {output[-500:]}"
    if "Traceback" in output:
        return f"a traceback: {output[-1500:]}"
    if code not in (0, 2):
        return f"exit code {code}: {output[-500:]}"
    if answer["peak_mb"] > MOST_MEGABYTES:
        return f"{answer['peak_mb']} MB: {output[-200:]}"
    if "not enough memory" in output or "Cannot allocate memory" in output:
        return f"it asked for all memory: {output[-500:]}"
    if code == 2:
        return judge_error(case, output)
    if case.expected == "error":
        return f"no error: {output[-500:]}"
    if case.argv[: len(cases.INSPECT)] == cases.INSPECT:
        return judge_summary(case, output)
    if clean is not None and output != clean["output"]:
        return f"another output, and no word of it: {output[-500:]} instead of {clean['output']}"
    return ""


def judge_error(case: cases.Case, output: str) -> str:
    """What is wrong with an error."""
    lines = [line for line in output.splitlines() if f"{case.argv[0]}: error: " in line]
    if len(lines) != 1 or not output.rstrip().endswith(lines[0].rstrip()):
        return f"expected one line of an error, got {output[-800:]}"
    if len(lines[0]) > 2000:
        return f"a line of {len(lines[0]):,} characters: {lines[0][:300]}"
    if case.expected in ("counted",):
        return f"an error instead of a counted fault: {lines[0]}"
    return ""


def judge_summary(case: cases.Case, output: str) -> str:
    """What is wrong with the summary of a data set."""
    try:
        found = json.loads(output[output.index("{") :])
    except ValueError:
        return f"no summary: {output[-500:]}"
    told = found["broken"] or found["faults"] or found["warnings"]
    if case.expected == "counted" and not told:
        return f"the fault is not told: {output[-500:]}"
    return ""


def snapshot(directory: Path) -> dict[str, tuple[int, int, int]]:
    """What files a directory holds; indices and outputs of the commands left out."""
    found = {}
    for place, _, files in os.walk(directory):
        for name in files:
            path = Path(place) / name
            is_made = name.endswith((".idx", "page.html", "page.md", "table.csv.new"))
            status = path.lstat()
            if not is_made:
                key = str(path.relative_to(directory))
                found[key] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def check(case: cases.Case, here: Path, forge: Forge, cleans: dict[Any, dict[str, Any]]) -> str:
    """Make, run and judge a case; what is wrong with it."""
    here.mkdir()
    case.make(here)
    before = snapshot(here)
    clean = None
    if case.good:
        if case.good not in cleans:
            cleans[case.good] = forge.run(case.good, here.parent)
        clean = cleans[case.good]
    argv = tuple(part.replace("{here}", str(here)) for part in case.argv)
    answer = forge.run(argv, here, environment=dict(case.environment))
    for output in ("out", "page.html", "page.md", "c.png"):
        path = here / output
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    wrong = judge(case, answer, clean)
    changes_itself = case.argv[1] == "resume" or "export" in case.argv
    if not wrong and not changes_itself and snapshot(here) != before:
        wrong = f"files of the input changed: {sorted(snapshot(here).items() ^ before.items())[:4]}"
    for place in (here, here.parent):
        if (place / "PWNED").exists():
            wrong = "a command ran"
    shutil.rmtree(here, ignore_errors=True)
    return f"{case.name} ({answer['seconds']} s, {answer['peak_mb']} MB): {wrong}" if wrong else ""


def check_all(
    chosen: list[cases.Case], tmp_path: Path, forge: Forge, report: Path | None = None
) -> list[str]:
    """What is wrong with each case that is."""
    cleans: dict[Any, dict[str, Any]] = {}
    wrong = []
    for number, case in enumerate(chosen):
        found = check(case, tmp_path / str(number), forge, cleans)
        if found:
            wrong.append(found)
            if report:
                with report.open("a") as file:
                    file.write(found + "\n")
    return wrong


def test_a_part_of_the_corpus(tmp_path: Path, good: Path, forge: Forge) -> None:
    found = [case for case in cases.quick_cases(good) if "300-MB" not in case.name]
    chosen = found[:: max(1, len(found) // PART)]
    assert check_all(chosen, tmp_path, forge) == []


@pytest.mark.hostile
def test_the_whole_corpus(tmp_path: Path, good_runs: Path, forge: Forge) -> None:
    found = list(cases.every_case(good_runs))
    names = Counter(case.name for case in found)
    assert not [name for name, count in names.items() if count > 1]
    assert len(found) >= 400
    report = os.environ.get("HOSTILE_REPORT")
    wrong = check_all(found, tmp_path, forge, Path(report) if report else None)
    assert not wrong, f"{len(wrong)} of {len(found)}:\n" + "\n".join(wrong)
