"""The main job on data that needs no network: draw, train, evaluate.

Runs the commands a user would type, prints each one, and leaves everything in a new directory:
`demo/`, or `demo-2/`, … when that exists.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path


def run(*command: str | Path) -> None:
    """Print a command, and run it with the scripts of this Python's environment."""
    words = [str(word) for word in command]
    print(f"\n$ {' '.join(words)}", flush=True)
    script = Path(sys.executable).with_name(words[0])
    process = subprocess.Popen([str(script), *words[1:]])
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            continue  # Ctrl-C reached the command too: let it save and say so
    if code:
        sys.exit(code)


def main() -> None:
    """Draw the set, train on it, evaluate on held-out combinations."""
    began = time.monotonic()
    out = new_directory(Path("demo"))
    data, trained, evaluation = out / "shapes", out / "run", out / "evaluation"
    run("clip-train", "data", "shapes", "--out", data)
    sources = ("--data.train", f"wds:{data / 'train'}", "--data.val", data / "val")
    run("clip-train", "run", "shapes", *sources, "--out", trained, *sys.argv[1:])
    run("clip-eval", "run", "--model", trained, "--data", data / "val", "--out", evaluation)
    result = json.loads((evaluation / "result.json").read_text(encoding="utf-8"))
    minutes = (time.monotonic() - began) / 60
    print(
        f"\nDone in {minutes:.1f} minutes: {100 * result['metrics']['acc1']:.1f} % of "
        f"{result['n']} images of {result['n_classes']} held-out combinations were named "
        f"exactly right; chance is {100 * result['chance']:.2f} %.\n"
        f"Open {evaluation / 'report.html'} in a browser."
    )


def new_directory(path: Path) -> Path:
    """`path`, or the first `path-K` that does not exist yet."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


if __name__ == "__main__":
    main()
