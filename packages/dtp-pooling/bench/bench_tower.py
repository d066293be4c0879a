"""Gain in time of pooling inside ViT-B/16 against the gain in FLOPs, forward on CPU.

`python bench/bench_tower.py [--rate 0.25] [--layer 4] [--batch 4] [--rounds 3]`.
The tower is open_clip's with random weights; exact top-k pooling stands between its blocks. FLOPs
are those that torch's counter sees in the run itself, the predictor's included.
"""

from __future__ import annotations

import argparse
import time

import open_clip
import torch
from dtp_pooling import token_pooling
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

CLOCK = time.process_time  # one thread: its CPU time, which other processes do not stretch


class Pool(nn.Module):
    """Takes a residual block's place in the list."""

    def __init__(self, width: int, rate: float) -> None:
        super().__init__()
        self.pooling = token_pooling(width, kind="top_k", rate=rate)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(B, L, D) to (B, S, D), the class token apart."""
        apart = torch.zeros(x.shape[:2], dtype=torch.bool)
        apart[:, 0] = True
        return self.pooling(x, keep_apart=apart).tokens


def build(rate: float | None, layer: int) -> nn.Module:
    """The image tower, pooled after `layer` blocks unless rate is None."""
    torch.manual_seed(0)
    config = open_clip.get_model_config("ViT-B-16")
    text = {"context_length": 8, "vocab_size": 8, "width": 64, "heads": 1, "layers": 1}
    tower = open_clip.CustomTextCLIP(512, config["vision_cfg"], text).visual.eval()
    if rate is not None:
        blocks = list(tower.transformer.resblocks)
        blocks.insert(layer, Pool(768, rate).eval())
        tower.transformer.resblocks = nn.ModuleList(blocks)
    return tower


def flops(tower: nn.Module, images: Tensor) -> int:
    """Of one forward pass; with gradients on, as the counter does not see into fused attention."""
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        tower(images)
    return counter.get_total_flops()


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=0.25)
    parser.add_argument("--layer", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    images = torch.randn(options.batch, 3, 224, 224)
    towers = [build(None, options.layer), build(options.rate, options.layer)]
    counts = [flops(tower, images) for tower in towers]
    best = [float("inf")] * 2
    for _ in range(options.rounds + 1):  # the first round warms up
        for which, tower in enumerate(towers):
            start = CLOCK()
            tower(images)
            best[which] = min(best[which], CLOCK() - start)
    print(f"torch {torch.__version__}, one CPU thread, its CPU seconds, best of {options.rounds}")
    print("\n| tower | GFLOPs per image | seconds per image |\n|---|---|---|")
    names = ["ViT-B/16", f"rate {options.rate} after layer {options.layer}"]
    for name, count, seconds in zip(names, counts, best, strict=True):
        print(f"| {name} | {count / options.batch / 1e9:.2f} | {seconds / options.batch:.3f} |")
    by_flops, by_time = counts[0] / counts[1], best[0] / best[1]
    print(f"\nFLOP ratio {by_flops:.2f}, time ratio {by_time:.2f}: {by_time / by_flops:.0%} of it")


if __name__ == "__main__":
    main()
