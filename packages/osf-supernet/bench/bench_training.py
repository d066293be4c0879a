"""Cost of a supernet training step on ViT-B/16: against plain steps, and against copying subnets.

    python packages/osf-supernet/bench/bench_training.py [--batch 2] [--rounds 3]

One step of largest, smallest and two random subnets (forward, backward, one AdamW step) is timed
beside the plain steps of the four extracted modules (each with its own AdamW) and beside the way
that copies every subnet out of the supernet: copy, build layers, copy weights, a new AdamW, a
snapshot, a step, and the difference added back. The three are timed in turn, several rounds, and
the medians of processor seconds compared. Random weights, float32, CPU.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import torch
from osf_supernet import Supernet, ratios
from osf_supernet.subnets.surgery import extract_module, take
from osf_supernet.training import Classification, Sandwich
from torch import Tensor, nn
from torchvision.models import vit_b_16

TASK = Classification(distill=0.0)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    """One plain training step."""
    optimizer.zero_grad()
    TASK(model, batch).loss.backward()
    optimizer.step()


def copied_step(net: Supernet, config: dict[str, int], batch: tuple[Tensor, Tensor]) -> None:
    """One subnet's step by copying it out of the supernet and its change back in."""
    surgery = net.plan(config).surgery
    small = extract_module(copy.deepcopy(net.model), surgery)
    for layer in small.modules():  # new layers are initialized before weights are copied in
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    small.load_state_dict(extract_module(net.model, surgery).state_dict())
    optimizer = torch.optim.AdamW(small.parameters(), 1e-4)
    before = {name: p.detach().clone() for name, p in small.named_parameters()}
    step(small, optimizer, batch)
    full = dict(net.model.named_parameters())
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            keep = surgery.keep.get(name, (None,) * parameter.dim())
            take(full[name], keep).sub_(before[name] - parameter)


def main() -> None:
    """Print the three times and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = vit_b_16()
    space = {"mlp": ratios(0.25, 0.5, 0.75, 1), "depth": ratios(0.5, 0.75, 1)}
    images = torch.randn(options.batch, 3, 224, 224)
    net = Supernet(model, images[:1], space)
    batch = (images, torch.arange(options.batch))
    sandwich = Sandwich(net, TASK, num_random=2)
    configs = sandwich.configs(0)
    plain = [extract_module(model, net.plan(config).surgery).train() for config in configs]
    optimizers = [torch.optim.AdamW(p.parameters(), 1e-4) for p in plain]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    model.train()

    def ours() -> None:
        optimizer.zero_grad()
        sandwich.backward(batch, 0)
        optimizer.step()

    def separate() -> None:
        for module, own in zip(plain, optimizers, strict=True):
            step(module, own, batch)

    def copying() -> None:
        for config in configs:
            copied_step(net, config, batch)

    ways: dict[str, Callable[[], None]] = {
        "supernet": ours,
        "plain steps": separate,
        "copy per subnet": copying,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            times[name].append(time.process_time() - start)
    medians = {name: sorted(t[1:])[options.rounds // 2] for name, t in times.items()}
    print(f"torch {torch.__version__}, batch {options.batch}, {torch.get_num_threads()} threads")
    for name, seconds in medians.items():
        print(f"{name}: {seconds:.2f} s ({medians['supernet'] / seconds:.3f}× of it is ours)")


if __name__ == "__main__":
    main()
