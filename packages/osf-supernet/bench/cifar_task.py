"""CIFAR-10 as class captions: data, the two small CLIPs, training, and the measure.

B batch, N images.
"""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_models import CLIP, CLIPConfig
from clip_models.config import CompactResNetConfig, TextConfig, ViTConfig
from osf_supernet import count_parameters
from osf_supernet.training import Contrastive
from PIL import Image
from torch import Tensor, nn

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
END = 13  # ids: 0 padding, 1-10 class, 11 and 12 words of a template, 13 the end token
TEMPLATES = 2
TOWERS = {
    "vit": ViTConfig(image_size=32, patch_size=8, width=64, num_layers=4, num_heads=4),
    "resnet": CompactResNetConfig(image_size=32, widths=(16, 32, 64)),
}


def make_model(tower: str) -> CLIP:
    """A small CLIP with one of the two image towers."""
    text = TextConfig(
        context_length=4, vocab_size=14, width=64, num_layers=2, num_heads=4, eot_token_id=END
    )
    return CLIP(CLIPConfig(embed_dim=64, vision=TOWERS[tower], text=text))


def parts(model: nn.Module) -> tuple[int, int]:
    """Parameters of the image tower, and of the rest without the token embedding."""
    vision = count_parameters(model.get_submodule("visual"))
    tokens = count_parameters(model.get_submodule("token_embedding"))
    return vision, count_parameters(model) - vision - tokens


def read_split(folder: Path, cache: Path) -> tuple[Tensor, Tensor]:
    """uint8 images (N, 3, 32, 32) and labels (N,) of class folders in alphabetical order."""
    if not cache.exists():
        images, labels = [], []
        for label, directory in enumerate(sorted(p for p in folder.iterdir() if p.is_dir())):
            for path in sorted(directory.iterdir()):
                images.append(np.asarray(Image.open(path).convert("RGB")))
                labels.append(label)
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        torch.save((pixels, torch.tensor(labels)), cache)
    loaded: tuple[Tensor, Tensor] = torch.load(cache)
    return loaded


def normalized(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) to float."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def captions(labels: Tensor, template: int) -> Tensor:
    """Token ids (B, 4): a template's word, the class, the end."""
    rows = torch.zeros(len(labels), 4, dtype=torch.long)
    rows[:, 0], rows[:, 1], rows[:, 2] = 11 + template, labels + 1, END
    return rows


class Data:
    """Batches as a function of the step; `val` whole; every fiftieth training image held out."""

    def __init__(self, folder: Path, cache: Path, batch: int) -> None:
        images, labels = read_split(folder / "train", cache / "train.pt")
        rows = torch.arange(len(labels))
        self.images, self.labels = images[rows % 50 != 0], labels[rows % 50 != 0]
        self.held_out = images[::50], labels[::50]  # what searches see; never trained on
        self.val = read_split(folder / "val", cache / "val.pt")
        self.batch, self.seed = batch, 0

    def of_seed(self, seed: int) -> Data:
        """The same images in another order."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def __call__(self, step: int, batch: int | None = None) -> tuple[Tensor, Tensor]:
        """Shifted and flipped images (B, 3, 32, 32), and captions (B, 4)."""
        batch = batch or self.batch
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        rows = torch.randint(len(self.labels), (batch,), generator=generator)
        top, left, flip = torch.randint(9, (3, batch, 1), generator=generator)
        down, across = top + torch.arange(32), left + torch.arange(32)  # (B, 32)
        across = torch.where(flip % 2 == 1, across.flip(1), across)
        padded = nn.functional.pad(normalized(self.images[rows]), (4, 4, 4, 4))
        each = torch.arange(batch)[:, None, None]
        images = padded[each, :, down[:, :, None], across[:, None, :]]  # (B, 32, 32, 3)
        template = int(torch.randint(TEMPLATES, (), generator=generator))
        return images.permute(0, 3, 1, 2), captions(self.labels[rows], template)


def cosines(model: Any, images: Tensor) -> Tensor:
    """(N, 10): of images and the class embeddings, each the mean over the templates."""
    model.eval()
    with torch.no_grad():
        texts = [
            nn.functional.normalize(model.encode_text(captions(torch.arange(10), t)), dim=-1)
            for t in range(TEMPLATES)
        ]
        classes = nn.functional.normalize(torch.stack(texts).sum(0), dim=-1)
        features = [model.encode_image(normalized(part)) for part in images.split(500)]
    return nn.functional.normalize(torch.cat(features), dim=-1) @ classes.T


def correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """(N,) bool: the nearest class embedding is the right one."""
    return cosines(model, images).argmax(-1) == labels


def likelihood(model: Any, images: Tensor, labels: Tensor) -> float:
    """Mean log-probability of the right class, at the model's own logit scale."""
    logits = model.logit_scale.detach().exp() * cosines(model, images)
    return -float(nn.functional.cross_entropy(logits, labels))


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In percent."""
    return 100 * float(correct(model, images, labels).double().mean())


def schedule(share: float, step: int) -> float:
    """Warm-up over 50 steps, then a cosine to zero over the budget, of which `share` is used."""
    return min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def fit(
    model: nn.Module, data: Data, lr: float, *, steps: int = 0, seconds: float = 0.0, offset: int
) -> dict[str, float]:
    """Plain training for `steps`, or for processor `seconds`; what it took of both."""
    task, optimizer = Contrastive(), torch.optim.AdamW(model.parameters(), lr, weight_decay=0.05)
    start = time.process_time()
    step, share = 0, 0.0
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(share, step)
        model.train()
        optimizer.zero_grad()
        task(model, data(offset + step)).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        spent = time.process_time() - start
        share = step / steps if steps else spent / seconds
    model.eval()
    return {"seconds": spent, "steps": step}
