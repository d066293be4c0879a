"""Training step of the language model: pooled against unpooled, rotary against Transformer-XL.

`python bench/bench_language_model.py [--batch 1] [--length 1024] [--rounds 2]`.
All models have the published sizes (2 + 8 + 2 layers, width 512); pooling is `fixed` at the given
shortening, so that every run does the same work. A step is forward, backward and Adam.
"""

from __future__ import annotations

import argparse
import time

import torch
from dtp_pooling import BoundaryConfig, DynamicPoolingLM, LanguageModelConfig
from torch import Tensor
from torch.nn import functional as F

CLOCK = time.process_time  # one thread: its CPU time, which other processes do not stretch


class Contender:
    """A model with its optimizer."""

    def __init__(self, attention: str, shortening: int) -> None:
        kind = "none" if shortening == 1 else "fixed"
        torch.manual_seed(0)
        self.model = DynamicPoolingLM(
            LanguageModelConfig(
                attention=attention,
                norm="pre" if attention == "rotary" else "post",
                boundaries=BoundaryConfig(kind=kind, factor=shortening),
            )
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)
        self.best = float("inf")

    def step(self, tokens: Tensor) -> None:
        """One timed training step."""
        start = CLOCK()
        logits = self.model(tokens[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.best = min(self.best, CLOCK() - start)


def main(arguments: list[str] | None = None) -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--shortening", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tokens = torch.randint(0, 27, (options.batch, options.length + 1))
    cases = [(a, s) for a in ("rotary", "relative") for s in (1, options.shortening)]
    contenders = {case: Contender(*case) for case in cases}
    for _ in range(options.rounds + 1):  # the first round warms up
        for contender in contenders.values():
            contender.step(tokens)
    print(
        f"torch {torch.__version__}, one CPU thread, its CPU seconds, best of {options.rounds}, "
        f"B {options.batch}, L {options.length}"
    )
    print("\n| attention | shortening | step (s) | gain over unpooled |\n|---|---|---|---|")
    for (attention, shortening), contender in contenders.items():
        gain = contenders[attention, 1].best / contender.best
        print(f"| {attention} | {shortening} | {contender.best:.2f} | {gain:.2f} |")
    for shortening in (1, options.shortening):
        gain = contenders["relative", shortening].best / contenders["rotary", shortening].best
        print(f"\nrotary over relative at shortening {shortening}: {gain:.2f}")


if __name__ == "__main__":
    main()
