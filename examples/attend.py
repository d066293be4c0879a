"""Draw where a model looks for a text: `python examples/attend.py MODEL PHOTO --text … --out PNG`.

Warm colors mark the patches that raise the similarity of image and text.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from clip_models import create_model_and_transforms
from clip_models.model import compute_relevance
from clip_tokenizer import get_tokenizer
from PIL import Image


def draw(photo: Image.Image, relevance: torch.Tensor) -> Image.Image:
    """The photo, gray, under the relevance (rows, columns) from blue to red."""
    level = relevance / relevance.max().clamp(min=1e-12)
    heat = Image.fromarray((255 * level.numpy()).astype(np.uint8)).resize(
        photo.size, Image.Resampling.BICUBIC
    )
    strength = np.asarray(heat, np.float32)[:, :, None] / 255
    gray = np.asarray(photo.convert("L").convert("RGB"), np.float32)
    colors = np.array([0, 40, 160]) * (1 - strength) + np.array([255, 60, 0]) * strength
    return Image.fromarray((0.5 * gray + 0.5 * colors).clip(0, 255).astype(np.uint8))


def main() -> None:
    """Read the arguments, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="model directory or hf-hub:org/name")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--text", required=True)
    parser.add_argument("--out", type=Path, required=True, help="picture to write")
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists; name another --out")
    model, _, transform = create_model_and_transforms(options.model)
    pixels = transform(Image.open(options.photo))
    tokens = get_tokenizer(options.model)([options.text])
    relevance = compute_relevance(model, pixels[None], tokens)[0]
    config = transform.config
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    seen = ((pixels * std + mean) * 255).round().clamp(0, 255).byte()  # what the model sees
    photo = Image.fromarray(seen.permute(1, 2, 0).numpy())
    large = photo.resize((4 * photo.width, 4 * photo.height)) if photo.width < 128 else photo
    draw(large, relevance).save(options.out)


if __name__ == "__main__":
    main()
