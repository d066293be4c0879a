"""Training step of the language model: pooled against unpooled, rotary against Transformer-XL.

`python bench/bench_language_model.py [--batch 1] [--length 2048] [--rounds 1] [--cases ...]`.
All models have the published sizes (2 + 8 + 2 layers, width 512) and equal dropout; pooling is
`fixed` at the given shortening, so that every run does the same work. A step is forward, backward
and Adam. `relative` is this package's Transformer-XL attention; `published` is the same model with
attention and pooling in the published dense form: two einsums, a shift and a softmax per layer,
(B, L, S) weight matrices to pool and unpool. It is checked to give the logits of `relative`.
"""

from __future__ import annotations

import argparse
import time

import torch
from bench_pooling import dense
from dtp_pooling import BoundaryConfig, DynamicPoolingLM, LanguageModelConfig
from dtp_pooling.language_model.attention import LayerCache, RelativeAttention, RelativeTerms
from torch import Tensor, nn
from torch.nn import functional as F

CLOCK = time.process_time  # one thread: its CPU time, which other processes do not stretch
CASES = ("rotary", "relative", "published")


class DenseAttention(RelativeAttention):
    """Transformer-XL attention that holds every (B, H, L, L) intermediate."""

    def forward(
        self, x: Tensor, relative: RelativeTerms | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, LayerCache | None]:
        """(B, L, D) to (B, L, D)."""
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.num_heads, -1).unbind(2)  # (B, L, H, C)
        r = self.position(relative.table).view(length, self.num_heads, -1)
        content = torch.einsum("bihc,bjhc->bhij", q + relative.content_bias, k)
        distance = torch.einsum("bihc,phc->bhip", q + relative.position_bias, r)
        shifted = F.pad(distance, (1, 0)).view(batch, -1, length + 1, length)[:, :, 1:]
        scores = (content + shifted) * self.head_dim**-0.5
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        weights = F.dropout(weights, self.dropout, self.training)
        return self.out(torch.einsum("bhij,bjhc->bihc", weights, v).flatten(2)), None


class PublishedLM(DynamicPoolingLM):
    """The same model by the dense formulas."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__(config)
        for module in self.modules():
            if isinstance(module, RelativeAttention):
                module.__class__ = DenseAttention

    def _through_segments(
        self, x: Tensor, boundaries: Tensor, lengths: Tensor | None, max_segments: int | None
    ) -> Tensor:
        def shortened(segments: Tensor) -> Tensor:
            return self._run(self.shortened, self.pooled_norm(segments))

        return x + dense(x, boundaries, self.null, shortened)


class Contender:
    """A model with its optimizer."""

    def __init__(self, case: str, shortening: int, dropout: float) -> None:
        kind = "none" if shortening == 1 else "fixed"
        build = PublishedLM if case == "published" else DynamicPoolingLM
        torch.manual_seed(0)
        self.model = build(
            LanguageModelConfig(
                attention="rotary" if case == "rotary" else "relative",
                norm="pre" if case == "rotary" else "post",
                attention_dropout=dropout,
                boundaries=BoundaryConfig(kind=kind, factor=shortening),
            )
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)
        self.best = float("inf")

    def step(self, tokens: Tensor) -> float:
        """CPU seconds of one training step."""
        start = CLOCK()
        logits = self.model(tokens[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return CLOCK() - start


@torch.no_grad()
def check_published(shortening: int) -> None:
    """The dense form gives the logits of `relative`."""
    tokens = torch.randint(0, 27, (2, 64))
    models: list[nn.Module] = [
        Contender(case, shortening, 0.0).model.eval() for case in ("relative", "published")
    ]
    torch.testing.assert_close(models[0](tokens).logits, models[1](tokens).logits)


def main(arguments: list[str] | None = None) -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--shortening", type=int, default=5)
    parser.add_argument("--attention-dropout", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--pooled-only", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    check_published(options.shortening)
    tokens = torch.randint(0, 27, (options.batch, options.length + 1))
    shortenings = [options.shortening] if options.pooled_only else [1, options.shortening]
    contenders = {
        (case, shortening): Contender(case, shortening, options.attention_dropout)
        for case in options.cases
        for shortening in shortenings
    }
    for contender in contenders.values():
        contender.step(tokens[:, :257])  # warms up
    for _ in range(options.rounds):
        for contender in contenders.values():
            contender.best = min(contender.best, contender.step(tokens))
    print(
        f"torch {torch.__version__}, one CPU thread, its CPU seconds, best of {options.rounds}, "
        f"B {options.batch}, L {options.length}, attention dropout {options.attention_dropout}"
    )
    pooled = contenders[options.cases[0], options.shortening].best
    name = f"{options.cases[0]} at shortening {options.shortening}"
    print(f"\n| attention | shortening | step (s) | {name} is so many times as fast |")
    print("|---|---|---|---|")
    for (case, shortening), contender in contenders.items():
        gain = contender.best / pooled
        print(f"| {case} | {shortening} | {contender.best:.2f} | {gain:.2f} |")


if __name__ == "__main__":
    main()
