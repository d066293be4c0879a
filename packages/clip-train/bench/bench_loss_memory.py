"""Peak memory and time of forward and backward of tiled and plain InfoNCE, by batch size.

Each case runs in a separate process, whose peak resident memory is read before and after.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from clip_train.objectives.candidates import separate_candidates
from clip_train.objectives.losses import contrastive_loss
from torch.nn.functional import normalize

WIDTH = 512


def measure(batch: int, loss: str, tile: int) -> dict[str, float]:
    """Additional peak bytes, and seconds, of one case in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, texts = (normalize(torch.randn(batch, WIDTH), dim=1).requires_grad_() for _ in range(2))
    scale = torch.tensor(20.0, requires_grad=True)
    candidates = separate_candidates(torch.arange(batch))
    if loss == "open_clip":
        from open_clip.loss import ClipLoss

        theirs = ClipLoss()
        compute = lambda: theirs(images, texts, scale)  # noqa: E731
    else:
        side = tile if loss == "tiled" else None
        compute = lambda: contrastive_loss(images, texts, scale, candidates, tile=side)  # noqa: E731
    warm = contrastive_loss(images[:64], texts[:64], scale, separate_candidates(torch.arange(64)))
    warm.backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    compute().backward()
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"bytes": (after - before) * 1024.0, "seconds": seconds}


def main() -> None:
    """Print one line per batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[2048, 4096, 8192, 16384])
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--case", nargs=2, metavar=("B", "LOSS"), help="measure one, print JSON")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(int(options.case[0]), options.case[1], options.tile)))
        return
    print(f"InfoNCE forward and backward, D = {WIDTH}, fp32, one thread, tiles of {options.tile}")
    print(
        f"{'B':>6} {'plain MB':>9} {'open_clip MB':>13} {'tiled MB':>9} {'memory':>8} {'time':>6}"
    )
    for batch in options.batches:
        found = {}
        for loss in ("plain", "open_clip", "tiled"):
            command = [sys.executable, __file__, "--tile", str(options.tile)]
            done = subprocess.run(
                [*command, "--case", str(batch), loss], check=True, capture_output=True, text=True
            )
            found[loss] = json.loads(done.stdout)
        plain, theirs, tiled = (found[loss] for loss in ("plain", "open_clip", "tiled"))
        print(
            f"{batch:>6} {plain['bytes'] / 1e6:>9.0f} {theirs['bytes'] / 1e6:>13.0f} "
            f"{tiled['bytes'] / 1e6:>9.0f} {tiled['bytes'] / plain['bytes']:>8.3f} "
            f"{tiled['seconds'] / plain['seconds']:>6.2f}"
        )


if __name__ == "__main__":
    main()
