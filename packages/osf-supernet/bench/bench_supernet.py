"""Times of the promises in docs/benchmarks.md, on torchvision's ViT-B/16 (random weights, CPU).

python packages/osf-supernet/bench/bench_supernet.py
"""

from __future__ import annotations

import time

import torch
from osf_supernet import Supernet
from osf_supernet.graph import build_graph
from torchvision.models import vit_b_16


def median(function: object, repeats: int = 5) -> float:
    """The median processor seconds of a call (what runs beside it does not count)."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()  # type: ignore[operator]
        times.append(time.process_time() - start)
    return sorted(times)[repeats // 2]


def main() -> None:
    """Print one line per promise."""
    torch.manual_seed(0)
    model, x = vit_b_16().eval(), torch.randn(1, 3, 224, 224)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"graph of ViT-B/16: {median(lambda: build_graph(model, x), 1):.1f} s")
    start = time.process_time()
    net = Supernet(model, x)
    print(f"supernet of ViT-B/16, every kind of group probed: {time.process_time() - start:.1f} s")
    start = time.process_time()
    generator = torch.Generator().manual_seed(0)
    table = {
        name: torch.tensor(values)[torch.randint(len(values), (10_000,), generator=generator)]
        for name, values in net.choices.items()
    }
    net.parameters_of(table)
    net.flops_of(table)
    print(f"10,000 candidates scored: {time.process_time() - start:.2f} s")
    config = net.largest | {name: v[1] for name, v in net.choices.items() if name.endswith("mlp")}
    small = net.extract(config)
    plains, shareds = [], []
    with torch.no_grad():
        for _ in range(9):  # in turn, so that a slow moment meets both
            plains.append(median(lambda: small(x), 3))
            with net.active(config):
                shareds.append(median(lambda: model(x), 3))
    plain, shared = sorted(plains)[4], sorted(shareds)[4]
    print(f"forward extracted {plain:.3f} s, in the supernet {shared:.3f} s: {shared / plain:.3f}×")


if __name__ == "__main__":
    main()
