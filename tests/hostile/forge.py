"""Runs commands of the packages one by one, each in a fork of a process that has imported them.

A request is a line of JSON on standard input: `argv` (the command's name first), `cwd`, `seconds`.
The answer is a line of JSON: exit code, output, seconds, peak memory above that of a command that
does nothing, and whatever the command did that no reader of data may: programs started, connections
made, modules imported from the working directory.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

COMMANDS = {
    "clip-eval": "clip_eval.cli.main:main",
    "clip-train": "clip_train.cli.main:main",
    "clip-models": "clip_models.cli:main",
    "clip-tokenizer": "clip_tokenizer.cli:main",
    "dtp-lm": "dtp_pooling.cli:main",
    "osf": "osf_supernet.cli:main",
}
PRELOADED = (
    *("clip_eval.cli.model_commands", "clip_eval.cli.data_commands", "clip_eval.cli.main"),
    *("clip_eval.cli.result_commands", "clip_eval.data.readers.webdataset", "pyarrow.parquet"),
    *("clip_eval.data.readers.tfrecord", "clip_eval.data.readers.corenet_tars"),
    *("clip_eval.data.readers.parquet_table", "clip_eval.data.readers.coco_captions"),
    *("clip_train.cli.main", "clip_train.cli.training", "clip_train.cli.data", "clip_models.cli"),
    *("clip_models.commands", "clip_tokenizer.cli", "clip_tokenizer.commands", "dtp_pooling.cli"),
    *("dtp_pooling.commands.training", "dtp_pooling.commands.evaluation", "osf_supernet.cli"),
    *("osf_supernet.commands.models", "osf_supernet.commands.subnets"),
)
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
MOST_DATA = 6 * 2**30  # bytes of memory, so that no input takes the machine's


def main() -> None:
    """Serve requests until standard input ends."""
    for name in PRELOADED:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever imports print is no answer
    baseline = serve({"argv": ["clip-eval", "--version"], "cwd": ".", "seconds": 60})["peak_mb"]
    for line in sys.stdin:
        answer = serve(json.loads(line))
        answer["peak_mb"] = max(0, answer["peak_mb"] - baseline)
        print(json.dumps(answer), file=answers, flush=True)


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """Run one command in a fork."""
    reader, writer = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()
        os._exit(run(request, writer))
    os.close(writer)
    output, timed_out = collect(reader, started + request["seconds"])
    if timed_out:
        os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    os.close(reader)
    text = output.decode("utf-8", "replace")
    return {
        "code": os.waitstatus_to_exitcode(status),
        "output": text[-1_000_000:],
        "seconds": round(time.monotonic() - started, 2),
        "peak_mb": usage.ru_maxrss // 1024,
        "timed_out": timed_out,
    }


def collect(reader: int, deadline: float) -> tuple[bytes, bool]:
    """What a child prints until it ends, and whether it did not in time."""
    output = bytearray()
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return bytes(output), True
        part = os.read(reader, 65536)
        if not part:
            return bytes(output), False
        output = (output + part)[-1_000_000:]


def run(request: dict[str, Any], writer: int) -> int:
    """Call the command in this process; its exit code."""
    for number in (1, 2):
        os.dup2(writer, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    os.chdir(request["cwd"])
    os.environ.update(request.get("environment", {}))
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_DATA, MOST_DATA))
    if "largest_file" in request:  # stands for a disk that is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
    sys.addaudithook(report_forbidden)
    prog, *arguments = request["argv"]
    module, _, function = COMMANDS[prog].partition(":")
    sys.argv = [prog, *arguments]
    try:
        code = getattr(importlib.import_module(module), function)(arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code or 0)


def report_forbidden(event: str, arguments: tuple[Any, ...]) -> None:
    """Print what no reader may do; an audit hook."""
    if event.startswith(FORBIDDEN):
        os.write(2, f"FORBIDDEN: {event} {arguments!r:.200}\n".encode())
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        os.write(2, f"FORBIDDEN: {event} {arguments[1]!r:.200}\n".encode())
    elif event == "import" and arguments[1] and str(arguments[1]).startswith(str(Path.cwd())):
        os.write(2, f"FORBIDDEN: {event} {arguments!r:.200}\n".encode())


if __name__ == "__main__":
    main()
