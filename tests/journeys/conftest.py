"""Drawn photographs, captions and tiny models: the files that the pages of docs/journeys name."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent))

import pages

COLORS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 80, 220), "gray": (120,) * 3}
SHAPES = ("circle", "square")
TINY_VIT = (
    "--model.vision.width 32 --model.vision.num_layers 2 --model.vision.num_heads 2 "
    "--model.text.width 32 --model.text.num_layers 2 --model.text.num_heads 2"
)
TINY_RESNET = (
    "--model.vision.width 8 --model.vision.layers [1,1,1,1] --model.text.width 32 "
    "--model.text.num_layers 1 --model.text.num_heads 2"
)
"""Flags that make a model of any name small enough to train in a test."""


def draw(number: int, size: tuple[int, int] = (72, 60)) -> tuple[Image.Image, str]:
    """A picture that no other number has, and its caption."""
    color, shape = list(COLORS)[number % 4], SHAPES[number // 4 % 2]
    image = Image.new("RGB", size, (number % 251, number // 251 % 251, 90))
    left = 4 + number % 20
    place = (left, 6, left + 34, 40)
    picture = ImageDraw.Draw(image)
    (picture.ellipse if shape == "circle" else picture.rectangle)(place, fill=COLORS[color])
    return image, f"a {color} {shape}, picture {number}"


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory and cache; what a command changes of the process is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    state = torch.get_rng_state()
    yield tmp_path
    torch.set_rng_state(state)


@pytest.fixture
def photos() -> Callable[..., Path]:
    """Writes a folder of photographs and a table of their captions beside it."""

    def write(count: int = 48, folder: str = "photos", table: str = "captions.csv") -> Path:
        Path(folder).mkdir()
        lines = ["filepath,title"]
        for number in range(count):
            image, caption = draw(number)
            image.save(f"{folder}/{number:04}.jpg", quality=90)
            lines.append(f'{folder}/{number:04}.jpg,"{caption}"')
        Path(table).write_text("\n".join(lines) + "\n")
        return Path(table)

    return write


@pytest.fixture
def class_folders() -> Callable[..., Path]:
    """Writes DIR/train/CLASS and DIR/val/CLASS with a picture each."""

    def write(folder: str, train: int = 8, val: int = 3) -> Path:
        for split, first, count in (("train", 0, train), ("val", train, val)):
            for index, color in enumerate(COLORS):
                place = Path(folder) / split / color
                place.mkdir(parents=True)
                for number in range(first, first + count):
                    draw(4 * number + index)[0].save(place / f"{number}.png")
        return Path(folder)

    return write


@pytest.fixture
def tiny_clip() -> Callable[..., Path]:
    """Writes a CLIP with OpenAI's vocabulary, as transformers keeps one, and as we do."""

    def write(directory: str, *, to: str = "hugging-face", size: int = 32) -> Path:
        from clip_models import CLIP, CLIPConfig, save_model
        from clip_models.cli import main
        from clip_models.config import PreprocessConfig, TextConfig, ViTConfig

        torch.manual_seed(0)
        small = {"width": 32, "num_layers": 2, "num_heads": 2}
        config = CLIPConfig(
            embed_dim=32,
            vision=ViTConfig(image_size=size, patch_size=8, **small),
            text=TextConfig(**small),
        )
        own = directory if to == "clip-models" else f"{directory}-ours"
        save_model(own, CLIP(config), PreprocessConfig(size=size))
        if to != "clip-models":
            assert main(["convert", own, "--to", to, "--out", directory]) == 0
        return Path(directory)

    return write


@pytest.fixture
def page() -> type[pages.Page]:
    """A page whose blocks can be run."""
    return pages.Page
