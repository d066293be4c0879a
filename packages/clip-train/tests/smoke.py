"""Run by the isolation session: the installed wheels train and resume nothing else of ours."""

import subprocess
import sys
import tempfile
from pathlib import Path

from clip_train import list_presets

command = Path(sys.executable).with_name("clip-train")
with tempfile.TemporaryDirectory() as directory:
    subprocess.run([command, "presets"], check=True)
    subprocess.run(
        [command, "data", "shapes", "--out", "shapes", "--train", "64", "--val-per-class", "1"],
        cwd=directory,
        check=True,
    )
    short = ["--train.steps", "2", "--train.batch-size", "8", "--out", "run"]
    subprocess.run([command, "run", "shapes-tiny", *short], cwd=directory, check=True)
    assert (Path(directory) / "run" / "model.safetensors").is_file()
assert "shapes-tiny" in list_presets()
print("clip-train works")
