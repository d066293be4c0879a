"""Where the time of a training step goes, and the image tower's FLOP/s beside matrix products'.

python packages/clip-train/bench/bench_step.py cifar10-cpu --data.train imagefolder:cifar/train

All other flags are keys of the config. The parts are timed one after the other in one process, each
as the least of a few repeats: matrix products of a size that fits the caches, decoding, and the
parts of a step. What a whole step takes beyond its parts stands in the last row.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from clip_train.config.keys import apply_flags
from clip_train.config.presets import load_config
from clip_train.cost.flops import pair_cost
from clip_train.distributed.single import SingleBackend
from clip_train.engine.components import PRECISIONS, RunComponents, build_components
from clip_train.engine.data_components import build_data_components
from clip_train.engine.gradients import normalized_embeddings
from clip_train.engine.precision import resolve_precision
from clip_train.engine.weight_update import clip_gradients, update_weights
from clip_train.model.towers import TowerFeatures
from clip_train.objectives.batch import StepInputs
from clip_train.objectives.from_config import make_objective

SIDE, IMAGES, REPEATS = 1024, 512, 5


def least(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of the fastest of some calls, after one that is not timed."""
    work()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def product_rate(kind: torch.dtype) -> float:
    """FLOP/s of products of square matrices."""
    a, b = torch.randn(SIDE, SIDE, dtype=kind), torch.randn(SIDE, SIDE, dtype=kind)
    return 2 * SIDE**3 / least(lambda: a @ b)


def convolution_rate(kind: torch.dtype) -> float:
    """FLOP/s of one 3x3 convolution of 256 channels, forward: what the library can do at best."""
    layer = torch.nn.Conv2d(256, 256, 3, padding=1, bias=False).to(kind)
    layer = layer.to(memory_format=torch.channels_last)
    x = torch.randn(128, 256, 14, 14, dtype=kind).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        return 2 * x.numel() * 256 * 9 / least(lambda: layer(x))


def main() -> None:
    """Print one row for each part."""
    config = apply_flags(load_config(sys.argv[1]), ["--data.val", "", *sys.argv[2:]])
    backend = SingleBackend(torch.device("cpu"))
    config = resolve_precision(config, backend)
    data = build_data_components(config)
    run = build_components(data, backend)
    kind = PRECISIONS[config.train.precision]
    reader = data.make_reader(cache=False)
    start = time.perf_counter()
    for index in range(IMAGES):
        reader.pixels.read(index, (), reader.size)
    decoding = (time.perf_counter() - start) / IMAGES
    reader = data.make_reader()
    batch = reader[1]
    inputs = run.make_inputs(batch)
    count = len(batch.keys)
    images = data.clip_config.vision.image_side
    cost = pair_cost(data.clip_config, image_size=images, caption_tokens=batch.tokens.shape[1])
    print(f"{torch.get_num_threads()} threads, {config.train.precision}, {count} images a step")
    rates = [product_rate(torch.float32), convolution_rate(torch.float32)]
    if kind is not None:
        rates += [product_rate(kind), convolution_rate(kind)]
    print("matrix product, convolution:", ", ".join(f"{rate / 1e9:.0f} GFLOP/s" for rate in rates))
    parts = {
        "assemble the batch": lambda: reader[1],
        "augment, normalize, candidates": lambda: run.make_inputs(batch),
        "image tower, forward": lambda: image_features(run, inputs),
        "image tower, backward": None,
        "text tower, forward and backward": lambda: backward(text_features(run, inputs)),
        "loss, forward and backward": loss_of(run, inputs),
        "optimizer": lambda: update(run),
    }
    both = least(lambda: backward(image_features(run, inputs)))
    seconds = {name: least(work) for name, work in parts.items() if work is not None}
    seconds["image tower, backward"] = both - seconds["image tower, forward"]
    step = least(lambda: whole_step(run, inputs)) + seconds["assemble the batch"]
    step += seconds["augment, normalize, candidates"]
    for name in parts:
        print(f"| {name} | {1e3 * seconds[name]:.1f} ms | {100 * seconds[name] / step:.1f} % |")
    print(
        f"| whole step | {1e3 * step:.1f} ms | other: {1e3 * (step - sum(seconds.values())):.1f} |"
    )
    rate = count * 3 * cost.image_flops / both
    print(
        f"image tower {rate / 1e9:.0f} GFLOP/s, {cost.image_flops / 1e9:.3f} GFLOP an image forward"
    )
    print(f"{count / step:.0f} images/s; {1e3 * decoding:.3f} ms to decode an image, once")


def image_features(run: RunComponents, inputs: StepInputs) -> torch.Tensor:
    """Forward pass of the image tower as in training."""
    kind = PRECISIONS[run.data.config.train.precision]
    with torch.autocast("cpu", kind, enabled=kind is not None):
        return run.model.run_image_tower(inputs.images).features


def text_features(run: RunComponents, inputs: StepInputs) -> torch.Tensor:
    """Forward pass of the text tower."""
    return run.model.run_text_tower(inputs.tokens).features


def backward(features: torch.Tensor) -> None:
    """A gradient for every weight behind features."""
    torch.autograd.backward(features.float().square().mean())


def loss_of(run: RunComponents, inputs: StepInputs) -> Callable[[], None]:
    """The objective on given features."""
    objective = make_objective(run.data.config.loss, run.backend)
    images, texts = image_features(run, inputs).detach(), text_features(run, inputs).detach()

    def work() -> None:
        leaves = [images.float().requires_grad_(), texts.requires_grad_()]
        scale = run.model.logit_scale.exp()
        out = TowerFeatures(*leaves, scale, None, {}, {}, {}, {})
        losses = objective(normalized_embeddings(out), inputs.candidates)
        torch.autograd.backward(sum(losses.values()))

    return work


def update(run: RunComponents) -> None:
    """Clip and step, with the gradients that there are; the rate is zero."""
    run.state.optimizers.set_rate(0.0)
    norm = clip_gradients(run.state, max_norm=run.data.config.optim.clip_norm)
    update_weights(run.state, norm)


def whole_step(run: RunComponents, inputs: StepInputs) -> None:
    """What the trainer does with a batch on its device."""
    run.state.optimizers.zero_grad()
    run.gradient.compute(inputs, make_objective(run.data.config.loss, run.backend))
    update(run)


if __name__ == "__main__":
    main()
