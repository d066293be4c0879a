"""Run a script in several processes that form a gloo group, without paying for imports each time.

A fork server imports torch and clip_train once; every process is forked from it and runs the
script with `RANK` and the like set, as torchrun would set them.
"""

from __future__ import annotations

import multiprocessing
import runpy
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).parent


class WorkerError(AssertionError):
    """A process of a group failed."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start_processes(world: int, script: str, **values: Any) -> list[tuple[Any, Connection]]:
    """Processes and the connections on which they report."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["clip_train.engine.runs", "clip_train.distributed.torchrun"])
    port = str(free_port())
    started = []
    for rank in range(world):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        receiver, sender = context.Pipe(duplex=False)
        given = {"SENDER": sender, "SCRIPT": str(WORKERS / script), "VALUES": values}
        process = context.Process(
            target=runpy.run_path,  # importable, as the target must be
            args=(str(WORKERS / "child.py"), {**given, "ENVIRONMENT": environment}, "child"),
        )
        process.start()
        sender.close()
        started.append((process, receiver))
    return started


def run_processes(world: int, script: str, *, timeout: float = 600, **values: Any) -> list[Any]:
    """What `main(**values)` of a script next to this file returns on each rank."""
    started = start_processes(world, script, **values)
    deadline = time.monotonic() + timeout
    results: list[Any] = []
    try:
        for rank, (_, receiver) in enumerate(started):
            if not receiver.poll(max(0.0, deadline - time.monotonic())):
                raise WorkerError(f"rank {rank} of {world} did not report in {timeout} s")
            try:
                good, value = receiver.recv()
            except EOFError:
                raise WorkerError(f"rank {rank} of {world} died") from None
            if not good:
                raise WorkerError(f"rank {rank} of {world}:\n{value}")
            results.append(value)
    finally:
        for process, receiver in started:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()
            receiver.close()
    return results
