"""A CLIP trained on CIFAR-10 becomes a supernet: accuracy against size, with rivals at equal cost.

    python packages/osf-supernet/scripts/cifar_supernet.py FOLDER --tower vit --output DIR

FOLDER holds `train/CLASS/*.jpg` and `val/CLASS/*.jpg`. For each seed the script trains a CLIP
(class captions), makes it a supernet, trains that, and measures on the whole `val` split: the
full model, the Pareto front of the supernet, one subnet with at least 30 % fewer parameters in
the image tower and in the rest without the token embedding, and at equal parameters and equal
fine-tuning seconds a model pruned by torch-pruning and a small model trained from scratch. It
also ranks importance methods before any supernet training. Every number goes to DIR/results.json
as soon as it is measured; a run that is started again goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_models import CLIP, CLIPConfig, ModifiedResNetConfig, TextConfig, ViTConfig
from osf_supernet import Supernet, count_parameters, ratios
from osf_supernet.importance import METHODS
from osf_supernet.latency import milliseconds
from osf_supernet.training import Contrastive, Sandwich, recalibrate, recalibrated, train
from PIL import Image
from torch import Tensor, nn

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
END = 13  # ids: 0 padding, 1-10 class, 11 and 12 words of a template, 13 the end token


def read_split(folder: Path, limit: int | None) -> tuple[Tensor, Tensor]:
    """uint8 images (N, 3, 32, 32) and labels (N,) of class folders in alphabetical order."""
    images, labels = [], []
    for label, directory in enumerate(sorted(p for p in folder.iterdir() if p.is_dir())):
        for path in sorted(directory.iterdir())[:limit]:
            images.append(np.asarray(Image.open(path).convert("RGB")))
            labels.append(label)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(labels)


def captions(labels: Tensor, template: int) -> Tensor:
    """Token ids (N, 4): a template's word, the class, the end."""
    rows = torch.zeros(len(labels), 4, dtype=torch.long)
    rows[:, 0], rows[:, 1], rows[:, 2] = 11 + template, labels + 1, END
    return rows


def make_model(tower: str) -> CLIP:
    """A small CLIP with one of the two image towers."""
    vision: Any = (
        ViTConfig(image_size=32, patch_size=4, width=128, num_layers=6, num_heads=4, mlp_ratio=4.0)
        if tower == "vit"
        else ModifiedResNetConfig(image_size=32, layers=(1, 1, 1, 1), width=24, num_heads=8)
    )
    text = TextConfig(
        context_length=4, vocab_size=14, width=64, num_layers=2, num_heads=4, eot_token_id=END
    )
    return CLIP(CLIPConfig(embed_dim=64, vision=vision, text=text))


class Data:
    """Batches as a function of the step, and the whole validation split."""

    def __init__(self, folder: Path, limit: int | None, batch: int, seed: int) -> None:
        self.train = read_split(folder / "train", limit)
        self.val = read_split(folder / "val", limit)
        self.batch, self.seed = batch, seed

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Shifted and flipped images, and captions."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        rows = torch.randint(len(self.train[1]), (self.batch,), generator=generator)
        images = nn.functional.pad(normalised(self.train[0][rows]), (4, 4, 4, 4))
        top, left, flip = torch.randint(9, (3, self.batch), generator=generator)
        cropped = [
            images[i, :, y : y + 32, x : x + 32]
            for i, (y, x) in enumerate(zip(top, left, strict=True))
        ]
        out = torch.stack([c.flip(2) if f % 2 else c for c, f in zip(cropped, flip, strict=True)])
        template = int(torch.randint(2, (), generator=generator))
        return out, captions(self.train[1][rows], template)

    def calibration(self, batches: int = 8) -> list[tuple[Tensor, Tensor]]:
        """What batch norms are recalibrated with."""
        return [self(10_000_000 + i) for i in range(batches)]

    def correct(self, model: nn.Module) -> Tensor:
        """(N,) bool over the whole validation split, zero-shot over both templates."""
        model.eval()
        images, labels = self.val
        with torch.no_grad():
            text = sum(
                nn.functional.normalize(model.encode_text(captions(torch.arange(10), t)), dim=-1)
                for t in range(2)
            )
            guesses = [
                (model.encode_image(normalised(part)) @ text.T).argmax(-1)
                for part in images.split(500)
            ]
        return torch.cat(guesses) == labels


def normalised(images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def fit(
    model: nn.Module, data: Data, steps: int, lr: float, *, offset: int = 0, seconds: float = 0.0
) -> float:
    """Plain training for `steps`, or for `seconds` where given; the seconds it took."""
    task, optimizer = Contrastive(), torch.optim.AdamW(model.parameters(), lr, weight_decay=0.05)
    start = time.perf_counter()
    step = 0
    while (time.perf_counter() - start < seconds) if seconds else (step < steps):
        share = (time.perf_counter() - start) / seconds if seconds else step / steps
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * share))
        model.train()
        optimizer.zero_grad()
        task(model, data(offset + step)).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
    model.eval()
    return time.perf_counter() - start


def parts(model: nn.Module) -> tuple[int, int]:
    """Parameters of the image tower, and of the rest without the token embedding."""
    vision = count_parameters(model.get_submodule("visual"))
    tokens = count_parameters(model.get_submodule("token_embedding"))
    return vision, count_parameters(model) - vision - tokens


SPACE = {
    "mlp": ratios(0.25, 0.5, 0.75, 1, multiple_of=8),
    "heads": ratios(0.5, 0.75, 1),
    "channel": ratios(0.5, 0.75, 1, multiple_of=4),
    "depth": ratios(0.6, 0.8, 1),
}


def make_supernet(model: nn.Module, data: Data) -> Supernet:
    """The supernet of a CLIP, over those of the kinds that it has."""
    images, tokens = data(0)
    example = (images[:2], tokens[:2])
    kinds = {g.kind for g in Supernet(model, example).graph.elastic()} | {"depth"}
    return Supernet(model, example, {k: v for k, v in SPACE.items() if k in kinds})


def cut_of(net: Supernet, config: dict[str, int]) -> tuple[float, float]:
    """Which share of the image tower's and of the rest's parameters a config removes."""
    full = parts(net.model)
    with net.active(config):
        small = parts(net.model)
    return 1 - small[0] / full[0], 1 - small[1] / full[1]


def chosen_config(net: Supernet, score: Callable[[dict[str, int]], float]) -> dict[str, int]:
    """The best of 40 sampled configs that cut at least 30 % of both parts."""
    found: list[dict[str, int]] = []
    seed = 0
    while len(found) < 40 and seed < 4000:
        config = net.sample(seed=seed, max_params=0.72)
        if min(cut_of(net, config)) >= 0.30 and max(cut_of(net, config)) < 0.45:
            found.append(config)
        seed += 1
    return max(found, key=score)


def pruned(model: nn.Module, data: Data, target: tuple[int, int]) -> nn.Module:
    """torch-pruning's magnitude pruning of the same model to at most the target parameters.

    It prunes hidden units of MLPs and channels of convolutions; attention here is one bare
    parameter for queries, keys and values, which it would cut along the wrong axis.
    """
    import torch_pruning

    warnings.filterwarnings("ignore", message=".*Unwrapped parameters.*")
    images, tokens = data(0)
    for ratio in (0.2 + 0.05 * i for i in range(16)):
        other = CLIP(model.config)
        other.load_state_dict(model.state_dict())
        kept = [
            module
            for name, module in other.named_modules()
            if not list(module.children())
            and not name.endswith("mlp.c_fc")
            and not (isinstance(module, nn.Conv2d) and "layer" in name)
        ]
        pruner = torch_pruning.pruner.MagnitudePruner(
            other,
            (images[:2], tokens[:2]),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=kept,
            round_to=4,
            output_transform=lambda out: out.image_features.sum() + out.text_features.sum(),
        )
        pruner.step()
        other(images[:2], tokens[:2])  # raises where what is left does not fit together
        if sum(parts(other)) <= sum(target):
            return other
    raise RuntimeError("torch-pruning did not reach the target")


def from_scratch(model: CLIP, target: tuple[int, int]) -> CLIP:
    """A uniformly narrower CLIP of at most as many parameters, with new weights."""
    config = model.config
    for scale in (1 - 0.02 * i for i in range(40)):
        vision: Any = config.vision
        if isinstance(vision, ViTConfig):
            width = max(16, round(vision.width * scale / 16) * 16)
            vision = replace(vision, width=width)
        else:
            width = max(8, round(vision.width * scale / 2) * 2)
            heads = next(h for h in (8, 4, 2, 1) if width * 32 % h == 0)
            vision = replace(vision, width=width, num_heads=heads)
        text = replace(config.text, width=max(16, round(config.text.width * scale / 8) * 8))
        other = CLIP(replace(config, vision=vision, text=text))
        if sum(parts(other)) <= sum(target):
            return other
    raise RuntimeError("no narrower model fits")


class Results:
    """Measured numbers by seed and name, written as soon as they are there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def measure(self, seed: int, name: str, function: Callable[[], Any]) -> Any:
        """The stored value, or the function's, stored and printed."""
        rows = self.data.setdefault(str(seed), {})
        if name not in rows:
            rows[name] = function()
            self.path.write_text(json.dumps(self.data, indent=1) + "\n")
            shown = {k: v for k, v in rows[name].items() if k != "correct"}
            print(f"seed {seed} {name}: {shown}", flush=True)
        return rows[name]


def measured(model: nn.Module, data: Data, **more: Any) -> dict[str, Any]:
    """Accuracy over the whole split, the answers, and the sizes of both parts."""
    correct = data.correct(model)
    return {
        "accuracy": 100 * float(correct.double().mean()),
        "evaluated": len(correct),
        "parts": parts(model),
        "correct": "".join("1" if c else "0" for c in correct.tolist()),
        **more,
    }


def one_seed(seed: int, options: argparse.Namespace, results: Results) -> None:
    """Everything for one seed."""
    data = Data(options.folder, options.limit, options.batch, seed)
    torch.manual_seed(seed)
    model = make_model(options.tower)
    weights = options.output / f"clip-{seed}.pt"
    if weights.exists():
        model.load_state_dict(torch.load(weights, weights_only=True))
    else:
        taken = fit(model, data, options.steps, 1e-3)
        torch.save(model.state_dict(), weights)
        print(f"seed {seed}: trained in {taken:.0f} s", flush=True)
    results.measure(seed, "full", lambda: measured(model, data))
    compare_importance(seed, model, data, results)

    net = make_supernet(model, data)
    net.reorder("magnitude")
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, weight_decay=0.05)
    start = time.perf_counter()
    train(
        Sandwich(net, Contrastive(), num_random=2, seed=seed),
        lambda step: data(options.steps + step),
        optimizer,
        options.supernet_steps,
        learning_rate=lambda s: 3e-4 * 0.5 * (1 + math.cos(math.pi * s / options.supernet_steps)),
        max_grad_norm=1.0,
        folder=options.output / f"supernet-{seed}",
    )
    spent = time.perf_counter() - start
    calibration = data.calibration()
    results.measure(seed, "supernet", lambda: measured(model, data, seconds=spent))

    held_out = Data(options.folder, options.limit, options.batch, seed)
    held_out.val = (data.train[0][::25], data.train[1][::25])  # the search never sees `val`

    def score(config: dict[str, int]) -> float:
        with net.active(config), recalibrated(model, calibration):
            return 100 * float(held_out.correct(model).double().mean())

    config = chosen_config(net, score)
    small = net.extract(config)
    recalibrate(small, calibration)
    results.measure(
        seed, "subnet", lambda: measured(small, data, cut=cut_of(net, config), config=config)
    )
    target = parts(small)
    tuned = fit(small, data, options.tune_steps, 2e-4, offset=5_000_000)
    results.measure(seed, "subnet, fine-tuned", lambda: measured(small, data, seconds=tuned))
    example = (normalised(data.val[0][:1]), captions(data.val[1][:1], 0))
    results.measure(
        seed,
        "latency",
        lambda: {
            "full_ms": milliseconds(net, net.largest, example, 21),
            "subnet_ms": milliseconds(net, config, example, 21),
        },
    )
    rivals(seed, options, data, results, weights, target, spent + tuned)

    def evaluate(_: nn.Module) -> float:
        with recalibrated(model, calibration):
            return 100 * float(held_out.correct(model).double().mean())

    front = net.search(
        evaluate, population=12, generations=4, seed=seed, folder=options.output / f"search-{seed}"
    )
    front.save(options.output / f"front-{seed}.json")
    front.draw(options.output / f"front-{seed}.svg", "accuracy (%) on held-out training images")


def rivals(
    seed: int,
    options: argparse.Namespace,
    data: Data,
    results: Results,
    weights: Path,
    target: tuple[int, int],
    seconds: float,
) -> None:
    """torch-pruning and a small model, each trained as long as supernet and subnet together."""
    original = make_model(options.tower)
    original.load_state_dict(torch.load(weights, weights_only=True))

    def by_pruning() -> dict[str, Any]:
        other = pruned(original, data, target)
        fit(other, data, 0, 3e-4, offset=6_000_000, seconds=seconds)
        return measured(other, data, seconds=seconds)

    def by_scratch() -> dict[str, Any]:
        torch.manual_seed(seed)
        other = from_scratch(original, target)
        fit(other, data, 0, 1e-3, offset=7_000_000, seconds=seconds)
        return measured(other, data, seconds=seconds)

    for name, function in (("torch-pruning", by_pruning), ("from scratch", by_scratch)):
        try:
            results.measure(seed, name, function)
        except Exception as error:  # another library may fail on this model: say so, go on
            message = f"{type(error).__name__}: {error}"[:300]
            results.measure(seed, name, lambda message=message: {"failed": message})


def compare_importance(seed: int, model: nn.Module, data: Data, results: Results) -> None:
    """Accuracy without any training of subnets kept by each method, on the same trained CLIP."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    images, tokens = data(9_000_000)

    def loss(output: Any) -> Tensor:
        logits = output.logit_scale * output.image_features @ output.text_features.T
        same = (tokens[:, None] == tokens[None]).all(-1)
        return nn.functional.cross_entropy(logits, same / same.sum(1, keepdim=True))

    for method in METHODS:

        def rows(method: str = method) -> dict[str, Any]:
            net = Supernet(model, (images, tokens))
            net.reorder(method, [(images, tokens)], loss)
            found = {}
            for keep in (0.9, 0.75, 0.5):
                sizes = {
                    g.name: max(1, round(g.size * keep))
                    for g in net.graph.elastic()
                    if g.kind in ("mlp", "channel")
                }
                with net.active(sizes), recalibrated(model, data.calibration(4)):
                    found[str(keep)] = 100 * float(data.correct(model).double().mean())
            return found

        results.measure(seed, f"importance {method}", rows)
        model.load_state_dict(state)


def summary(results: Results) -> str:
    """The table, with the paired upper bound of the subnet's loss over seeds."""
    seeds = sorted(results.data)
    lines = ["| model | accuracy per seed (%) | parameters (image, rest) |", "|---|---|---|"]
    for name in results.data[seeds[0]]:
        rows = [results.data[s].get(name, {}) for s in seeds]
        if all("accuracy" in row for row in rows):
            values = ", ".join(f"{row['accuracy']:.2f}" for row in rows)
            lines.append(f"| {name} | {values} | {rows[0]['parts']} |")
    losses = [
        results.data[s]["full"]["accuracy"] - results.data[s]["subnet, fine-tuned"]["accuracy"]
        for s in seeds
        if "subnet, fine-tuned" in results.data[s]
    ]
    if len(losses) == 3:  # Student's t, two degrees of freedom, one-sided 95 %
        bound = statistics.mean(losses) + 2.920 * statistics.stdev(losses) / math.sqrt(3)
        lines.append(
            f"\nloss of the subnet: mean {statistics.mean(losses):.2f}, at most {bound:.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the seeds one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tower", choices=("vit", "resnet"), default="vit")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--supernet-steps", type=int, default=2000)
    parser.add_argument("--tune-steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--limit", type=int, help="images per class, for a quick look")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    results = Results(options.output / "results.json")
    for seed in range(options.seeds):
        one_seed(seed, options, results)
    print(summary(results))


if __name__ == "__main__":
    main()
