"""A tiny Mamba on characters becomes a supernet: perplexity against size over the front.

    python packages/osf-supernet/bench/mamba_supernet.py TRAIN.txt VALID.txt --out DIR \
        --picture packages/osf-supernet/docs/mamba-perplexity.svg

The model is transformers' `MambaForCausalLM`. Its reference scan has a backward that grows with the
square of the length, so the script trains with the parallel scan of mambapy, which transformers
calls where it is installed; the supernet is traced and verified with the reference, and the two
are compared first. Subnets are chosen on the last part of the training text, which is not trained
on, and measured on VALID as they are, without tuning. Files may be gzipped.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path
from typing import Any

import torch
from cifar_task import schedule
from osf_supernet import SearchConfig, Supernet, count_parameters, ratios, search_subnets
from osf_supernet.training import LanguageModel, Sandwich, train
from results import Results
from torch import Tensor, nn
from transformers import MambaConfig, MambaForCausalLM

SPACE = {
    "ssm_inner": ratios(0.25, 0.5, 0.75, 1, multiple_of=8),
    "depth": ratios(0.5, 0.75, 1),
}
LENGTH = 64  # characters of a training sample; 256 in evaluations
Config = dict[str, int]


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """(B, T, V) for tokens (B, T)."""
    output: Any = model(input_ids=tokens, use_cache=False)
    found: Tensor = output.logits
    return found


TASK = LanguageModel(call=logits)


def read_text(path: Path, alphabet: str) -> tuple[Tensor, str]:
    """Positions in the alphabet (N,), which is that of the text if none is given."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    alphabet = alphabet or "".join(sorted(set(text)))
    place = {letter: index for index, letter in enumerate(alphabet)}
    return torch.tensor([place[letter] for letter in text]), alphabet


def windows(text: Tensor, count: int, length: int = 256) -> list[Tensor]:
    """The first windows of a text, in batches of 16."""
    return list(text[: count * length].view(-1, length).split(16))


def use_parallel_scan(model: MambaForCausalLM, tokens: Tensor) -> None:
    """Switch to mambapy's scan, if it computes what the reference does."""
    with torch.no_grad():
        reference = logits(model, tokens)
        for layer in model.backbone.layers:
            layer.mixer.use_mambapy = True
        error = float((logits(model, tokens) - reference).abs().max())
    if error > 1e-4:
        raise RuntimeError(f"the parallel scan differs from the reference by {error:.3g}")


def batches(text: Tensor, size: int, seed: int) -> Any:
    """step → (size, LENGTH) tokens from random places."""

    def batch_of(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        starts = torch.randint(len(text) - LENGTH, (size, 1), generator=generator)
        return text[starts + torch.arange(LENGTH)]

    return batch_of


def fit(model: nn.Module, batch_of: Any, steps: int, lr: float) -> float:
    """Plain training; its processor seconds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.05)
    start = time.process_time()
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step / steps, step)
        optimizer.zero_grad()
        TASK(model, batch_of(step)).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    return time.process_time() - start


def run(options: argparse.Namespace, results: Results) -> None:
    """Model, supernet, and front."""
    train_text, alphabet = read_text(options.train, "")
    valid_text, _ = read_text(options.valid, alphabet)
    train_text, chosen_on = train_text[:-20_000], windows(train_text[-20_000:], 32)
    measured_on = windows(valid_text, options.windows)
    torch.manual_seed(options.seed)
    config = MambaConfig(
        vocab_size=len(alphabet), hidden_size=64, state_size=4, num_hidden_layers=4, use_cache=False
    )
    model = MambaForCausalLM(config)
    batch_of = batches(train_text, options.batch, options.seed)

    def row(**more: Any) -> dict[str, Any]:
        found = {"perplexity": TASK.perplexity(model, measured_on)}
        return found | {"parameters": count_parameters(model)} | more

    name, file = f"mamba {options.seed}", options.out / f"mamba-{options.seed}.pt"
    tokens = measured_on[0][:2, :LENGTH]
    net = Supernet(model.eval(), {"input_ids": tokens[:, :12], "use_cache": False}, SPACE)
    use_parallel_scan(model, tokens)
    if not file.exists():
        took = fit(model, batch_of, options.steps, 3e-3)
        torch.save((model.state_dict(), took), file)
    state, took = torch.load(file)
    model.load_state_dict(state)
    results.measure(name, "plain", lambda: row(seconds=took, steps=options.steps))

    untrained = file.with_suffix(".supernet.pt")
    net.reorder("magnitude")
    before = {size: net.sample(seed=size, max_params=0.8) for size in range(4)}

    def untrained_rows() -> list[dict[str, Any]]:
        rows = []
        for config in before.values():
            with net.active(config):
                rows.append(row(config=config))
        return rows

    results.measure(name, "subnets of the plain model", untrained_rows)
    if not untrained.exists():
        start = time.process_time()
        train(
            Sandwich(net, TASK, num_random=1, seed=options.seed),
            lambda step: batch_of(1_000_000 + step),
            torch.optim.AdamW(model.parameters(), 1.5e-3, weight_decay=0.05),
            options.supernet_steps,
            learning_rate=lambda s: 1.5e-3 * schedule(s / options.supernet_steps, s),
            max_grad_norm=1.0,
        )
        took = time.process_time() - start
        torch.save((model.state_dict(), net.depth_orders, took), untrained)
    state, net.depth_orders, took = torch.load(untrained)
    model.load_state_dict(state)
    more = {"seconds": took, "steps": options.supernet_steps}
    results.measure(name, "supernet's largest", lambda: row(**more))

    def front() -> list[dict[str, Any]]:
        found = search_subnets(
            net,
            lambda active: TASK.evaluate(active, chosen_on),
            SearchConfig(population=10, generations=3, greedy=10, seed=options.seed),
            folder=options.out / f"search-{options.seed}",
        )
        rows = []
        for candidate in found.front:
            with net.active(candidate.config):
                rows.append(row(config=candidate.config, origin=candidate.origin))
        return rows

    results.measure(name, "front", front)


def table(rows: dict[str, Any]) -> str:
    """Perplexity and size of everything that was measured."""
    lines = ["| model | parameters | perplexity per character | cost |", "|---|---|---|---|"]
    full = rows["plain"]["parameters"]

    def line(name: str, row: dict[str, Any]) -> str:
        cost = f"{row['steps']:,} steps, {row['seconds']:.0f} s" if "steps" in row else ""
        share = row["parameters"] / full
        return (
            f"| {name} | {row['parameters']:,} ({share:.0%}) | {row['perplexity']:.2f} | {cost} |"
        )

    lines.append(line("plain, before", rows["plain"]))
    lines += [line("its subnets, untrained", row) for row in rows["subnets of the plain model"]]
    lines.append(line("supernet's largest", rows["supernet's largest"]))
    lines += [line("front", row) for row in reversed(rows["front"])]
    return "\n".join(lines)


def draw(rows: dict[str, Any], path: Path) -> None:
    """Perplexity against parameters."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    front = sorted(rows["front"], key=lambda row: row["parameters"])
    for found, style, label in (
        (front, "o-", "front of the supernet, not tuned"),
        ([rows["plain"]], "k*", "plain model before"),
        (rows["subnets of the plain model"], "x", "subnets of the plain model, untrained"),
    ):
        axes.plot(
            [row["parameters"] / 1e3 for row in found],
            [row["perplexity"] for row in found],
            style,
            label=label,
        )
    axes.set_xlabel("parameters (thousands)")
    axes.set_ylabel("perplexity per character on valid")
    axes.set_yscale("log")
    axes.set_yticks([4, 5, 6, 8, 10, 20, 40], labels=["4", "5", "6", "8", "10", "20", "40"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Measure what is not there yet, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("valid", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--supernet-steps", type=int, default=220)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--windows", type=int, default=128, help="of 256 characters, of VALID")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results = Results(options.out)
    run(options, results)
    rows = results.data[f"mamba {options.seed}"]
    print(table(rows))
    if options.picture:
        draw(rows, options.picture)


if __name__ == "__main__":
    main()
