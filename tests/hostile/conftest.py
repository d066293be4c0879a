"""The process that runs commands, and the good artefacts that cases are made from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import artefacts  # noqa: E402


class Forge:
    """Runs commands in forks of one process."""

    def __init__(self, root: Path) -> None:
        (root / "modules").mkdir()
        (root / "modules" / "tiny_module.py").write_text(artefacts.TINY_MODULE)
        path = [str(root / "modules"), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "XDG_CACHE_HOME": str(root / "cache"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "TQDM_DISABLE": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "forge.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, argv: tuple[str, ...], cwd: Path, **more: Any) -> dict[str, Any]:
        """The answer to one command."""
        assert self.process.stdin
        assert self.process.stdout
        request = {"argv": argv, "cwd": str(cwd), "seconds": 10, **more}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def call(self, *command: object) -> None:
        """Run a command that must end well."""
        answer = self.run(tuple(map(str, command)), Path("/"), seconds=120)
        assert answer["code"] == 0, answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    """The process that runs commands."""
    made = Forge(tmp_path_factory.mktemp("forge"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory, forge: Forge) -> Path:
    """Good data, lists, a model, a tokenizer and results; made in a second or two."""
    root = tmp_path_factory.mktemp("good")
    artefacts.write_data(root)
    artefacts.write_model(root / "model")
    artefacts.write_vocabulary(root / "vocabulary", forge.call)
    artefacts.write_results(root, forge.call)
    return root


@pytest.fixture(scope="session")
def good_runs(good: Path, forge: Forge) -> Path:
    """The same, with runs of all trainers."""
    artefacts.write_runs(good, forge.call)
    return good
