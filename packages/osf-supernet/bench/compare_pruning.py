"""Accuracy of pruned networks after equal fine-tuning: `prune` against torch-pruning.

A CNN and a ViT, trained on CIFAR-10 (a folder with train/CLASS/* and val/CLASS/*), are pruned to
shares of their parameters and fine-tuned for equally many processor seconds of one thread (or
equally many steps). Every fiftieth training image is held out: what is measured before fine-tuning
is measured there, and each fine-tuned network sees `val` once.

    python compare_pruning.py cifar10 --out results              # hours on one core
    python compare_pruning.py cifar10 --out small --small        # about half an hour

What is in the results already is not measured again, so that it can be stopped at any time;
`--most 1` measures one missing network and stops. `table.md` there is the table.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import time
import warnings
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from osf_supernet import count_parameters, prune
from pruning_models import MODELS, Attention, Images
from results import Results
from torch import nn
from torch.nn import functional as F

PRUNING_BATCHES = 4


def main() -> None:
    """Measure what is missing, and write the table."""
    torch.set_num_threads(1)  # processor seconds of several threads would not be comparable
    options = parse_options()
    results = Results(options.out)
    missing = [work for work in all_work(options) if not is_measured(results, *work)]
    for kind, seed, keep, method in missing[: options.most]:
        data = Images(options.data, options.out / "cache", options.batch_size, seed)
        model = trained(kind, seed, data, options)
        results.measure(f"{kind} {seed}", "full", partial(data.accuracy, model))
        work = partial(measured, method, model, keep, data, options)
        results.measure(f"{kind} {seed} {keep:g}", method, work)
    (options.out / "table.md").write_text(table(results.data, options))
    print(table(results.data, options))


def all_work(options: argparse.Namespace) -> list[tuple[str, int, float, str]]:
    """Network, seed, share and method of every fine-tuning; a seed after the other."""
    parts = (options.seeds, options.models, options.keep, options.methods)
    return [(kind, seed, keep, method) for seed, kind, keep, method in itertools.product(*parts)]


def is_measured(results: Results, kind: str, seed: int, keep: float, method: str) -> bool:
    """Whether a fine-tuning is in the results."""
    return method in results.data.get(f"{kind} {seed} {keep:g}", {})


def parse_options() -> argparse.Namespace:
    """The command line; `--small` changes defaults."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="one seed, short trainings")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--keep", type=float, nargs="+", default=[0.7, 0.5, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--base-steps", type=int)
    parser.add_argument("--steps", type=int, default=0, help="of fine-tuning, instead of seconds")
    parser.add_argument("--seconds", type=float, help="processor seconds of fine-tuning")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--most", type=int, help="missing networks to measure now")
    options = parser.parse_args()
    defaults = ([0], 600, 30.0) if options.small else ([0, 1, 2], 3000, 180.0)
    for name, value in zip(("seeds", "base_steps", "seconds"), defaults, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def trained(kind: str, seed: int, data: Images, options: argparse.Namespace) -> nn.Module:
    """The network of a seed, trained once and kept."""
    torch.manual_seed(seed)
    model = MODELS[kind]()
    file = options.out / f"{kind}-{seed}-{options.base_steps}.pt"
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
    else:
        fit(model, data, 2 * options.lr, steps=options.base_steps)
        torch.save(model.state_dict(), file)
    return model.eval()


def fit(
    model: nn.Module,
    data: Images,
    lr: float,
    *,
    steps: int = 0,
    seconds: float = 0,
    offset: int = 0,
) -> int:
    """Train for `steps`, or for processor `seconds`, with a cosine to zero; the steps it took."""
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.05)
    start, step, share = time.process_time(), 0, 0.0
    model.train()
    while share < 1:
        for group in optimizer.param_groups:
            warmup = min(1.0, (step + 1) / 20)
            group["lr"] = lr * warmup * 0.5 * (1 + math.cos(math.pi * share))
        images, labels = data(offset + step)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        share = step / steps if steps else (time.process_time() - start) / seconds
    model.eval()
    return step


def measured(
    method: str, model: nn.Module, keep: float, data: Images, options: argparse.Namespace
) -> dict[str, float]:
    """Prune a copy, fine-tune it, and measure it before and after."""
    start = time.process_time()
    small = METHODS[method](copy.deepcopy(model), keep, data)
    pruning = time.process_time() - start
    share = count_parameters(small) / count_parameters(model)
    assert share <= keep, f"{method} kept {share:.3f} of the parameters, more than {keep:g}"
    before = data.accuracy(small, data.held_out)
    steps = fit(
        small, data, options.lr, steps=options.steps, seconds=options.seconds, offset=1_000_000
    )
    return {
        "after": data.accuracy(small),
        "before": before,
        "share": share,
        "steps": steps,
        "pruning_seconds": pruning,
    }


def batches_of(data: Images) -> list[Any]:
    """The batches that every method may look at."""
    return [data(2_000_000 + index) for index in range(PRUNING_BATCHES)]


def osf(model: nn.Module, keep: float, data: Images) -> nn.Module:
    """`osf_supernet.prune` with its defaults."""
    example = torch.randn(2, 3, 32, 32)
    return prune(
        model, example, keep=keep, batches=batches_of(data), loss=F.cross_entropy, quiet=True
    )


def torch_pruning(method: str, model: nn.Module, keep: float, data: Images) -> nn.Module:
    """torch-pruning's pruner at the smallest ratio that reaches the share."""
    warnings.filterwarnings("ignore", message=".*[Uu]nwrapped parameters.*")
    limit, low, high = keep * count_parameters(model), 0.0, 0.95
    small = model
    for _ in range(8):
        ratio = (low + high) / 2
        other = pruned_by_ratio(method, copy.deepcopy(model), ratio, data)
        if count_parameters(other) <= limit:
            small, high = other, ratio
        else:
            low = ratio
    return small


def pruned_by_ratio(method: str, model: nn.Module, ratio: float, data: Images) -> nn.Module:
    """One pruning step of torch-pruning; attention loses head dimensions, as its examples do."""
    import torch_pruning as tp

    magnitude = tp.importance.GroupMagnitudeImportance(p=2)
    importance = magnitude if method == "magnitude" else tp.importance.GroupTaylorImportance()
    heads = {m.qkv: m.num_heads for m in model.modules() if isinstance(m, Attention)}
    pruner = tp.pruner.BasePruner(
        model,
        torch.randn(2, 3, 32, 32),
        importance=importance,
        pruning_ratio=ratio,
        ignored_layers=[model.get_submodule("head")],
        num_heads=heads,
        prune_head_dims=True,
        round_to=2,
        unwrapped_parameters=[(p, 2) for n, p in model.named_parameters() if n == "positions"],
    )
    if method == "taylor":
        model.zero_grad()
        for images, labels in batches_of(data):
            F.cross_entropy(model(images), labels).backward()
    pruner.step()
    model.zero_grad()
    return model


METHODS = {
    "osf": osf,
    "tp-magnitude": lambda model, keep, data: torch_pruning("magnitude", model, keep, data),
    "tp-taylor": lambda model, keep, data: torch_pruning("taylor", model, keep, data),
}


def table(data: dict[str, Any], options: argparse.Namespace) -> str:
    """Mean accuracy over the seeds for which every method was measured, and the differences."""
    lines = [
        f"| model | keep | {' | '.join(options.methods)} | osf ahead of the others, per seed |",
        "|---|---|" + "---|" * (len(options.methods) + 1),
    ]
    for kind, keep in itertools.product(options.models, options.keep):
        rows = {seed: data.get(f"{kind} {seed} {keep:g}", {}) for seed in options.seeds}
        rows = {seed: row for seed, row in rows.items() if set(options.methods) <= row.keys()}
        if rows:
            full = mean(data[f"{kind} {seed}"]["full"] for seed in rows)
            cells = [cell([row[method] for row in rows.values()]) for method in options.methods]
            ahead = ", ".join(f"{lead(row, options.methods):+.1f}" for row in rows.values())
            first = f"{kind} ({full:.1f} %)"
            lines.append(f"| {first} | {keep:g} | {' | '.join(cells)} | {ahead} |")
    return "\n".join(lines) + "\n"


def cell(rows: list[dict[str, float]]) -> str:
    """Means over seeds: after fine-tuning (before it; share of the parameters; steps)."""
    after, before, share, steps = (
        mean(row[name] for row in rows) for name in ("after", "before", "share", "steps")
    )
    return f"{after:.1f} ({before:.1f}; {100 * share:.0f} %; {steps:.0f})"


def lead(row: dict[str, dict[str, float]], methods: list[str]) -> float:
    """By how many points ours is above the best of the others."""
    others = [row[method]["after"] for method in methods if method != "osf"]
    return row["osf"]["after"] - max(others, default=math.nan)


if __name__ == "__main__":
    main()
