"""What an evaluation costs beside open_clip's, as ratios of one run: `nox -s bench -- clip-eval`.

Three questions, with random weights, which cost what trained ones do:

1. the ImageNet classifier (80 templates) against open_clip's builder at equal weights
2. a second evaluation of the same images with other prompts against the first
3. peak memory of a classifier and of top-5 against the number of classes

CPU time of one process and one thread, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from clip_eval import EvaluationConfig, build_classifier, evaluate
from clip_eval.data import open_source
from clip_eval.prompts.prompt_sets import get_prompt_set
from clip_eval.tasks.guesses import guess_classes
from clip_models import CLIP, Preprocess, get_config
from clip_models.config import PreprocessConfig
from clip_tokenizer import Tokenizer
from PIL import Image
from torch import Tensor


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it returns."""
    started = time.process_time()
    found = call()
    return time.process_time() - started, found


def classifier(model: CLIP, classes: int) -> None:
    """The same classifier by both builders."""
    peer = open_clip.create_model("ViT-B-32").eval()
    peer.load_state_dict(model.state_dict())
    prompt_set = get_prompt_set("imagenet1k")
    names = list(prompt_set.classnames or ())
    names = names[:: len(names) // classes][:classes]
    theirs, expected = timed(
        lambda: open_clip.build_zero_shot_classifier(
            peer, open_clip.get_tokenizer("ViT-B-32"), names, open_clip.OPENAI_IMAGENET_TEMPLATES
        )
    )
    ours, found = timed(
        lambda: build_classifier(model, Tokenizer.openai(), names, prompt_set.templates or ())
    )
    gap = float((found - expected.T).abs().max())
    print(
        f"classifier, {classes} classes x 80 templates: open_clip {theirs:.1f} s, "
        f"clip-eval {ours:.1f} s, ratio {theirs / ours:.1f}, largest difference {gap:.1e}"
    )


def second_evaluation(model: CLIP, images: int) -> None:
    """Ten classes; the second time with seven other templates."""
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for number in range(images):
            folder = root / "data" / f"class {number % 10}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")

        def run(templates: tuple[str, ...]) -> Any:
            return evaluate(
                model,
                open_source(root / "data"),
                tokenizer=Tokenizer.openai(),
                preprocess=Preprocess(PreprocessConfig()),
                config=EvaluationConfig(templates=templates, cache=root / "cache"),
            )

        prompt_set = get_prompt_set("cifar10").templates or ()
        first, _ = timed(lambda: run(prompt_set))
        second, _ = timed(lambda: run(tuple(f"itap of {n}: {{c}}." for n in range(7))))
        again, _ = timed(lambda: run(prompt_set))
    print(
        f"evaluation of {images} images: first {first:.1f} s, other prompts {second:.2f} s "
        f"(ratio {first / second:.0f}), same prompts {again:.2f} s (ratio {first / again:.0f})"
    )


class SmallTower(torch.nn.Module):
    """A text tower of next to no cost, so that what is measured is the memory around it."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.tensor(1.0))
        self.table = torch.nn.Embedding(49408, 32)

    def encode_image(self, images: Tensor) -> Tensor:
        """Not used here."""
        return images

    def encode_text(self, tokens: Tensor) -> Tensor:
        """The mean of the tokens' rows."""
        return self.table(tokens).mean(dim=1)


def peak(classes: int, queue: Any) -> None:
    """Resident megabytes at most, in a process of its own."""
    torch.manual_seed(0)
    templates = get_prompt_set("imagenet1k").templates or ()
    names = [f"class number {n}" for n in range(classes)]
    weights = build_classifier(SmallTower(), Tokenizer.openai(), names, templates)
    features = torch.nn.functional.normalize(torch.randn(256, 32), dim=-1)
    for _ in range(20):
        guess_classes(features, weights, scale=100.0, limit=5)
    status = Path("/proc/self/status").read_text()  # of this program, not of what started it
    queue.put(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def memory(counts: tuple[int, ...]) -> None:
    """Peak memory for each number of classes."""
    context = multiprocessing.get_context("spawn")
    for classes in counts:
        queue = context.Queue()
        process = context.Process(target=peak, args=(classes, queue))
        process.start()
        print(f"peak memory, {classes} classes x 80 templates: {queue.get():.0f} MB")
        process.join()


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=40)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--only", choices=("classifier", "second", "memory"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.only in (None, "memory"):
        memory((1000, 5000, 20000))
    if arguments.only == "memory":
        return
    model = CLIP(get_config("ViT-B-32")).eval()
    if arguments.only in (None, "classifier"):
        classifier(model, arguments.classes)
    if arguments.only in (None, "second"):
        second_evaluation(model, arguments.images)


if __name__ == "__main__":
    main()
