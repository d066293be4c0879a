"""Tiny stand-ins that honour the protocols: a model that sees colors and reads color words."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from clip_models import CLIP, CLIPConfig, Preprocess, save_model
from clip_models.config import CompactResNetConfig, PreprocessConfig, TextConfig
from clip_tokenizer import Tokenizer
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

COLORS = {
    "red": (250, 10, 10),
    "green": (10, 250, 10),
    "blue": (10, 10, 250),
    "yellow": (240, 240, 10),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
}


class ColorTokenizer:
    """One token per text: the number of the color word in it, 0 if there is none."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, texts: list[str]) -> Tensor:
        self.seen += texts
        words = [[n for n, c in enumerate(COLORS, start=1) if c in text] for text in texts]
        return torch.tensor([[found[0] if found else 0] for found in words])


class ColorModel(nn.Module):
    """Embeds an image as its mean color and a text as the color it names."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(3.0))
        self.dropout = nn.Dropout(0.9)
        colors = torch.tensor([(128, 128, 128), *COLORS.values()]).float() / 255 - 0.5
        self.register_buffer("colors", colors)

    def encode_image(self, images: Tensor) -> Tensor:
        return self.dropout(images.mean(dim=(2, 3)))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.colors[tokens[:, 0]] * 3)


class ColorPreprocess:
    """8 x 8 pixels, values around zero."""

    def __call__(self, image: Image.Image) -> Tensor:
        assert image.mode == "RGB"
        pixels = np.asarray(image.resize((8, 8)))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)

    def normalize(self, images: Tensor) -> Tensor:
        return images.float() / 255 - 0.5


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def color_model() -> ColorModel:
    return ColorModel()


@pytest.fixture
def color_tokenizer() -> ColorTokenizer:
    return ColorTokenizer()


@pytest.fixture
def color_preprocess() -> ColorPreprocess:
    return ColorPreprocess()


def encoded(color: tuple[int, int, int], kind: str = "PNG", seed: int = 0) -> bytes:
    """A noisy one-color image as a file."""
    noise = np.random.default_rng(seed).integers(-4, 5, (16, 16, 3))
    pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


@pytest.fixture
def encode() -> Callable[..., bytes]:
    return encoded


@pytest.fixture
def color_folder(tmp_path: Path) -> Path:
    """Three classes of four images each."""
    root = tmp_path / "colors"
    for name in ("red", "green", "blue"):
        (root / name).mkdir(parents=True)
        for number in range(4):
            (root / name / f"{number}.png").write_bytes(encoded(COLORS[name], seed=number))
    return root


def add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def write_tar() -> Callable[..., Path]:
    def write(path: Path, files: Mapping[str, bytes], format: int = tarfile.USTAR_FORMAT) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=format) as tar:
            for name, data in files.items():
                add_file(tar, name, data)
        return path

    return write


@pytest.fixture
def color_shards(tmp_path: Path, write_tar: Callable[..., Path]) -> Path:
    """CLIP_benchmark's layout: three classes, two shards of six images."""
    root = tmp_path / "wds"
    names = ["red", "green", "blue"]
    for shard in range(2):
        files: dict[str, bytes] = {}
        for number in range(6):
            stem, label = f"s{shard * 6 + number:07d}", number % 3
            files[f"{stem}.png"] = encoded(COLORS[names[label]], seed=number)
            files[f"{stem}.cls"] = str(label).encode()
        write_tar(root / "test" / f"{shard}.tar", files)
    (root / "test" / "nshards.txt").write_text("2\n")
    (root / "classnames.txt").write_text("\n".join(names) + "\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\nthe {c} one\n")
    return root


@pytest.fixture
def read_json() -> Callable[[Path], dict[str, object]]:
    def reject(constant: str) -> None:
        raise AssertionError(f"{constant} is not strict JSON")

    return lambda path: json.loads(path.read_text(encoding="utf-8"), parse_constant=reject)


@pytest.fixture(scope="session")
def trained_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a real, very small CLIP that was taught three colors."""
    directory = tmp_path_factory.mktemp("runs") / "colors-run"
    tokenizer = Tokenizer.from_bytes(context_length=24)
    preprocess = PreprocessConfig(size=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    config = CLIPConfig(
        embed_dim=8,
        vision=CompactResNetConfig(image_size=16, widths=(4, 8)),
        text=TextConfig(
            context_length=24,
            vocab_size=tokenizer.vocab_size,
            width=16,
            num_layers=1,
            num_heads=2,
        ),
    )
    torch.manual_seed(0)
    model = CLIP(config)
    tokens = tokenizer([f"a {name} thing" for name in ("red", "green", "blue")])
    files = [encoded(COLORS[name], seed=9) for name in ("red", "green", "blue")]
    host = Preprocess(preprocess)
    images = host.normalize(torch.stack([host(Image.open(io.BytesIO(file))) for file in files]))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        output = model(images, tokens)
        logits = output.logit_scale * output.image_features @ output.text_features.T
        loss = cross_entropy(logits, torch.arange(3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_model(directory, model, preprocess)
    tokenizer.save(directory)
    (directory / "zeroshot_classification_templates.txt").write_text("a {c} thing\n")
    return directory


@pytest.fixture
def caption_retrieval() -> Callable[..., dict[str, float | None]]:
    """The recall of the retrieval task for embeddings of images and of the texts that they own."""
    from clip_eval.tasks.retrieval import CaptionedImage, Retrieval

    def measure(images: Any, texts: Any, owner: Any, ks: tuple[int, ...]) -> Any:
        encoder = SimpleNamespace(describe_cut=lambda *_: ())
        task, rows = Retrieval(cast(Any, encoder), ks), []
        for number, image in enumerate(images):
            own = np.asarray(texts)[np.asarray(owner) == number]
            captions = tuple(f"caption {number} {n}" for n in range(len(own)))
            rows.append(CaptionedImage(str(number), bytes([number]), captions, image, own))
        return task.result(rows).metrics

    return measure
