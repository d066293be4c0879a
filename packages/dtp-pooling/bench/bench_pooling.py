"""Pool and unpool, forward and backward, against the dense einsum formula.

Prints a markdown table of ratios: `python bench/bench_pooling.py [--rounds 3]`.
Both sides use the same tokens, boundaries and upstream gradient; the rounds alternate between the
sides and the fastest counts. The dense side is written after the published formula: weights of
shape (B, L, S) from the distance to each segment, normalized, contracted by einsum.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from dtp_pooling import closed_segment_of, pool, unpool
from torch import Tensor

CLOCK = time.process_time  # one thread: its CPU time, which other processes do not stretch

# name, B, L, D, shortening
CASES = [
    ("text, shortening 5", 8, 2048, 512, 5),
    ("text, shortening 2", 8, 2048, 512, 2),
    ("image patches, shortening 4", 64, 196, 768, 4),
]


def dense(
    h: Tensor,
    boundaries: Tensor,
    null: Tensor,
    between: Callable[[Tensor], Tensor] = lambda segments: segments,
) -> Tensor:
    """Causal pool, what happens to the segments, and unpool, as weight matrices."""
    size = int(boundaries.detach().sum(1).max())
    distance = torch.arange(size, dtype=h.dtype) - (boundaries.cumsum(1) - boundaries)[..., None]
    down = (1 - distance) * (distance.detach() == 0)  # (B, L, S)
    down = down / (down.sum(1, keepdim=True) + 1e-9)
    segments = torch.einsum("bls,bld->bsd", down, h)
    segments = between(torch.cat([null.expand(len(h), 1, -1), segments], dim=1))
    distance = torch.arange(size + 1, dtype=h.dtype) - boundaries.cumsum(1)[..., None]
    up = (1 - distance) * (distance.detach() == 0)  # (B, L, S + 1)
    up = up / (up.sum(2, keepdim=True) + 1e-9)
    return torch.einsum("bls,bsd->bld", up, segments)


def linear(h: Tensor, boundaries: Tensor, null: Tensor) -> Tensor:
    """The same by `pool` and `unpool`."""
    pooled = pool(h, boundaries, tail="drop", null=null)
    return unpool(pooled.values, closed_segment_of(boundaries))


Formula = Callable[[Tensor, Tensor, Tensor], Tensor]


def run(formula: Formula, leaves: list[Tensor], grad: Tensor) -> tuple[float, list[Tensor]]:
    """Seconds of one forward and backward, and what it computed."""
    start = CLOCK()
    out = formula(*leaves)
    gradients = torch.autograd.grad(out, leaves, grad)
    seconds = CLOCK() - start
    return seconds, [out.detach(), *gradients]


def compare(batch: int, length: int, width: int, shortening: float, rounds: int) -> list[float]:
    """Seconds dense, seconds linear, largest difference of values, of token gradients."""
    generator = torch.Generator().manual_seed(0)
    boundaries = (torch.rand(batch, length, generator=generator) < 1 / shortening).float()
    leaves = [torch.randn(batch, length, width, generator=generator), boundaries]
    leaves = [leaf.requires_grad_() for leaf in [*leaves, torch.randn(width, generator=generator)]]
    grad = torch.randn(batch, length, width, generator=generator)
    best = {dense: float("inf"), linear: float("inf")}
    results: dict[Formula, list[Tensor]] = {}
    for _ in range(rounds + 1):  # the first round warms up
        for formula in best:
            seconds, results[formula] = run(formula, leaves, grad)
            best[formula] = min(best[formula], seconds)
    pairs = zip(results[dense], results[linear], strict=True)
    differences = [float((a - b).abs().max()) for a, b in pairs]
    return [best[dense], best[linear], *differences[:2]]


def main(arguments: list[str] | None = None) -> None:
    """Run every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one CPU thread, its CPU seconds, best of {options.rounds}")
    print("\n| case | B | L | D | dense (s) | linear (s) | ratio | max. diff. value | token grad |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, *shape, shortening in CASES:
        slow, fast, value, gradient = compare(*shape, shortening, options.rounds)
        cells = [name, *map(str, shape), f"{slow:.3f}", f"{fast:.4f}", f"{slow / fast:.1f}"]
        print("| " + " | ".join([*cells, f"{value:.1e}", f"{gradient:.1e}"]) + " |")


if __name__ == "__main__":
    main()
