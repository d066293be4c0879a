"""The small inputs of rows, made when a row first needs them: pictures, texts and tables."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import pickle
import tarfile
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

COLORS = {"blue": (40, 40, 200), "red": (200, 40, 40)}


def make(name: str, work: Path) -> Path:
    """The input of that name; made if it is not there."""
    path = work / name
    if not path.exists():
        files: Any = importlib.import_module("original_files")
        stem = name.partition(".")[0].replace("-", "_")
        kinds = {"space": {*files.SPACES, "clip_elastic_space"}, "script": set(files.SCRIPTS)}
        kinds["recipe"] = {"clip_vit_base", "clip_vit_base_range"}
        kind = next((kind for kind, names in kinds.items() if stem in names), stem)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            torch.manual_seed(0)
            _find_maker(f"make_{kind}")(path)
    return path


def _find_maker(name: str) -> Callable[[Path], None]:
    for module in (__name__, "small_models", "original_files"):
        maker: Callable[[Path], None] | None
        maker = getattr(importlib.import_module(module), name, None)
        if maker is not None:
            return maker
    raise ValueError(f"no row can have the input {name}")


def square(color: tuple[int, int, int], side: int = 16) -> Image.Image:
    """One color."""
    return Image.new("RGB", (side, side), color)


def make_pets(path: Path) -> None:
    """Class folders of two colors under train and val."""
    for part, count in (("train", 8), ("val", 4)):
        for name, color in COLORS.items():
            folder = path / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                square((color[0] + index, color[1] + index, color[2] + index)).save(
                    folder / f"{index}.png"
                )


def make_wiki(path: Path) -> None:
    """Texts for a language model."""
    path.mkdir()
    for part in ("train", "val"):
        (path / f"{part}.txt").write_text("a photo of blue . a photo of red . " * 40)


def make_text8(path: Path) -> None:
    """A text of 27 symbols, long enough for windows of the reduced presets."""
    path.write_text("the cat sat on the mat and the dog ran after the cat " * 400)


def make_shapes(path: Path) -> None:
    """The shapes data set: 64 captioned images in shards, an image of each held-out class."""
    from clip_train import write_shapes

    write_shapes(path, num_train=64, num_val_per_class=1, image_size=32, progress=False)


def make_imagenet(path: Path) -> None:
    """ImageNet's validation folders, three of them."""
    for name, color in (("n01440764", "red"), ("n02123045", "blue"), ("n04467665", "red")):
        folder = path / "val" / name
        folder.mkdir(parents=True)
        for index in range(3):
            square(COLORS[color], 32 + index).save(folder / f"{index}.JPEG")


def _captioned(folder: Path) -> list[tuple[str, str]]:
    folder.mkdir(parents=True)
    found = []
    for index in range(12):
        name = list(COLORS)[index % 2]
        square(tuple(c + index for c in COLORS[name]), 48).save(folder / f"{index}.jpg")  # type: ignore[arg-type]
        found.append((f"{index}.jpg", f"picture {index} of something {name}"))
    return found


def make_coco(path: Path) -> None:
    """COCO captions and the same as the table that Fast-CLIP trains on."""
    rows = _captioned(path / "images")
    images = [{"id": n, "file_name": name} for n, (name, _) in enumerate(rows)]
    notes = [{"image_id": n, "id": n, "caption": text} for n, (_, text) in enumerate(rows)]
    (path / "captions.json").write_text(json.dumps({"images": images, "annotations": notes}))
    lines = ["filepath\ttitle", *(f"images/{name}\t{text}" for name, text in rows)]
    (path / "train.csv").write_text("\n".join(lines) + "\n")


def make_laion(path: Path) -> None:
    """Shards as img2dataset writes them."""
    rows = _captioned(path.with_name("laion-images"))
    path.mkdir()
    with tarfile.open(path / "00000.tar", "w") as tar:
        for index, (name, text) in enumerate(rows):
            for suffix, data in (
                ("jpg", (path.with_name("laion-images") / name).read_bytes()),
                ("txt", text.encode()),
            ):
                member = tarfile.TarInfo(f"{index:09d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def make_datacomp(path: Path) -> None:
    """CoreNet's tars of pickles with their metadata."""
    images = path.with_name("datacomp-images")
    rows = _captioned(images)
    path.mkdir()
    half = len(rows) // 2
    for number in range(2):
        with tarfile.open(path / f"{number}.tar.gz", "w:gz") as tar:
            for index in range(number * half, number * half + half):
                name, text = rows[index]
                record = {"image": b64encode((images / name).read_bytes()), "text": text}
                data = pickle.dumps(record)
                member = tarfile.TarInfo(f"{number}/{index}.pkl")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    meta = {"total_tar_files": 2, "max_files_per_tar": half, "tar_file_names": ["0", "1"]}
    (path / "metadata.pkl").write_bytes(pickle.dumps(meta))


CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def make_cifar(path: Path) -> None:
    """CIFAR-10's classes as folders of images of 32 pixels."""
    for part, count in (("train", 2), ("val", 1)):
        for label, name in enumerate(CIFAR):
            folder = path / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                square((20 * label, 120 + index, 200 - 20 * label), 32).save(
                    folder / f"{index}.png"
                )


def make_templates(path: Path) -> None:
    """Templates of one's own."""
    path.write_text("a {c} thing\nsome {c}\n")


def make_tfds(path: Path) -> None:
    """TFRecords as img2dataset writes them."""
    from tfrecord.writer import TFRecordWriter

    images = path.with_name("tfds-images")
    rows = _captioned(images)
    path.mkdir()
    writer = TFRecordWriter(str(path / "00000.tfrecord"))
    for index, (name, text) in enumerate(rows):
        jpg = (images / name).read_bytes()
        writer.write(
            {
                "key": (f"{index:09d}".encode(), "byte"),
                "jpg": (jpg, "byte"),
                "caption": (text.encode(), "byte"),
            }
        )
    writer.close()


def make_imagenet_tfds(path: Path) -> None:
    """ImageNet's validation set as TFDS stores it, of its first three classes."""
    from tfrecord.writer import TFRecordWriter

    folder = path / "imagenet2012" / "5.1.0"
    folder.mkdir(parents=True)
    writer = TFRecordWriter(str(folder / "imagenet2012-validation.tfrecord-00000-of-00001"))
    for label in range(3):
        data = io.BytesIO()
        square((80 * label, 90, 20), 40).save(data, "JPEG")
        features = {"image": (data.getvalue(), "byte"), "label": (label, "int")}
        writer.write(features | {"file_name": (f"{label}.JPEG".encode(), "byte")})
    writer.close()


def make_files(path: Path) -> None:
    """img2dataset's output format `files`."""
    folder = path / "00000"
    for name, text in _captioned(folder):
        (folder / name).with_suffix(".txt").write_text(text)
        (folder / name).with_suffix(".json").write_text(json.dumps({"caption": text}))


def make_a(path: Path) -> None:
    """One template."""
    path.write_text("a {c}\n")
