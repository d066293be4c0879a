"""ViT-B/32 here and in open_clip: same weights, same inputs, float32, times as ratios of one run.

Captions have natural lengths: 16 of 77 positions on average, at most 40 in a batch of 64.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import open_clip
import torch
import torch.nn.functional as F
from clip_models import CLIP, get_config
from torch import Tensor, nn

NAME, TEXT_BATCH, BATCH, CONTEXT, END = "ViT-B-32", 64, 32, 77, 49407


def captions(batch: int) -> Tensor:
    """Token ids (B, 77) whose lengths are spread log-normally, the longest 40."""
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.randn(batch, generator=generator) * 0.42 + 2.65).exp().round().long()
    lengths = lengths.clamp(5, 40)
    lengths[0] = 40
    tokens = torch.zeros(batch, CONTEXT, dtype=torch.long)
    for row, length in zip(tokens, lengths.tolist(), strict=True):
        row[: length - 1] = torch.randint(1, 49406, (length - 1,), generator=generator)
        row[length - 1] = END
    return tokens


def ratio(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> float:
    """Median of their time over our time, measured in turn after one call of each."""
    ours(), theirs()
    times: list[tuple[float, float]] = []
    for _ in range(repeats):
        start = time.perf_counter()
        theirs()
        middle = time.perf_counter()
        ours()
        times.append((middle - start, time.perf_counter() - middle))
    return statistics.median(first / second for first, second in times)


def training_step(model: nn.Module, images: Tensor, tokens: Tensor) -> Callable[[], None]:
    """Forward, contrastive loss, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        image_features, text_features, scale, *_ = model(images, tokens)
        logits = scale * image_features @ text_features.T
        labels = torch.arange(len(images))
        loss = F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Print one line per measurement."""
    torch.manual_seed(0)
    theirs = open_clip.create_model(NAME).eval()
    ours = CLIP(get_config(NAME)).eval()
    ours.load_state_dict(theirs.state_dict())
    tokens, images = captions(TEXT_BATCH), torch.randn(BATCH, 3, 224, 224)
    lengths = tokens.argmax(dim=1).float() + 1
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"captions: mean {lengths.mean():.1f}, longest {lengths.max():.0f} of {CONTEXT}")
    with torch.no_grad():
        difference = (ours.encode_text(tokens) - theirs.encode_text(tokens)).abs().max()
        text = ratio(lambda: ours.encode_text(tokens), lambda: theirs.encode_text(tokens), 3)
        image = ratio(lambda: ours.encode_image(images), lambda: theirs.encode_image(images), 3)
    print(f"encode_text, batch {TEXT_BATCH}: {text:.2f} x (largest difference {difference:.1e})")
    print(f"encode_image, batch {BATCH}: {image:.2f} x")
    short = tokens[:BATCH]
    step = ratio(training_step(ours, images, short), training_step(theirs, images, short), 2)
    print(f"training step, batch {BATCH}: {step:.2f} x")


if __name__ == "__main__":
    main()
