"""Good data, models, runs and results, from which hostile ones are made."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from clip_eval.data import open_source
from clip_eval.data.shards.crc32c import masked_crc32c
from clip_models import CLIP, CLIPConfig, save_model
from clip_models.config import CompactResNetConfig, PreprocessConfig, TextConfig
from clip_tokenizer import Tokenizer
from PIL import Image
from safetensors.torch import load_file

COLORS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}
TINY_MODULE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16 * 9, 3)), torch.randn(2, 3, 16, 16)
"""
Call = Callable[..., object]
"""Runs a command of the packages, which must end well."""
RUN_CONFIG = """
extends = "shapes-tiny"
[data]
val = ""
train = "{data}"
workers = 0
cache_images = false
[tokenizer]
kind = "bytes"
[model]
name = "Compact-32"
[train]
steps = 2
batch_size = 2
[checkpoint]
every_steps = 1
"""


def image_file(name: str = "red", kind: str = "PNG", size: int = 16, seed: int = 0) -> bytes:
    """A noisy image of one color as a file."""
    noise = np.random.default_rng(seed).integers(-4, 5, (size, size, 3))
    pixels = np.clip(np.array(COLORS[name]) + noise, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def tar_file(files: Mapping[str, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar of files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def good_tar() -> bytes:
    """Three samples with captions and labels."""
    files: dict[str, bytes] = {}
    for number, name in enumerate(COLORS):
        files[f"{number}.png"] = image_file(name)
        files[f"{number}.txt"] = f"a {name} thing".encode()
        files[f"{number}.cls"] = str(number).encode()
    return tar_file(files)


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features: Mapping[str, bytes | int]) -> bytes:
    """A `tf.train.Example`."""
    entries = b""
    for key, value in features.items():
        kind = 1 if isinstance(value, bytes) else 3
        inner = field(1, value) if isinstance(value, bytes) else field(1, varint(value))
        entries += field(1, field(1, key.encode()) + field(2, field(kind, inner)))
    return field(1, entries)


def record(message: bytes) -> bytes:
    """A record of a TFRecord file."""
    length = struct.pack("<Q", len(message))
    check = struct.pack("<I", masked_crc32c(length))
    return length + check + message + struct.pack("<I", masked_crc32c(message))


def good_records() -> bytes:
    """Three records with captions."""
    return b"".join(
        record(example({"png": image_file(name), "caption": f"a {name} thing".encode()}))
        for name in COLORS
    )


def png_file(width: int, height: int, color: int, depth: int, channels: int) -> bytes:
    """A PNG of zeros, compressed to nearly nothing."""
    packer, out = zlib.compressobj(9), b""
    row = b"\0" + bytes((width * depth * channels + 7) // 8)
    for _ in range(height):
        out += packer.compress(row)
    out += packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(*one) for one in ((b"IHDR", header), (b"IDAT", out), (b"IEND", b""))
    )


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def write_folder(root: Path) -> None:
    """Three class folders of two images."""
    for name in COLORS:
        for number in range(2):
            path = root / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image_file(name, seed=number))


def write_table(root: Path) -> None:
    """Images and a CSV file of them."""
    write_folder(root)
    with (root / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "caption"])
        writer.writerows([f"{name}/0.png", f"a {name} thing"] for name in COLORS)


def coco() -> dict[str, list[dict[str, object]]]:
    """COCO's layout for the images of `write_folder`."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, name in enumerate(COLORS):
        images.append({"id": number, "file_name": f"{name}/0.png"})
        annotations.append({"image_id": number, "id": number, "caption": f"a {name} thing"})
    return {"images": images, "annotations": annotations}


def write_corenet(root: Path) -> None:
    """CoreNet's layout: metadata and one tar.gz of pickles."""
    root.mkdir(parents=True, exist_ok=True)
    files = {}
    for number, name in enumerate(COLORS):
        text = {"image": base64.b64encode(image_file(name)), "text": f"a {name} thing"}
        files[f"0/{number}.pkl"] = pickle.dumps(text)
    (root / "0.tar.gz").write_bytes(gzip.compress(tar_file(files)))
    (root / "metadata.pkl").write_bytes(pickle.dumps({"total_tar_files": 1}))


def write_parquet(path: Path) -> None:
    """Three rows with the images inside."""
    import pyarrow
    import pyarrow.parquet

    rows = [{"image": image_file(n), "caption": f"a {n} thing"} for n in COLORS]
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_model(root: Path) -> None:
    """A very small CLIP with its tokenizer."""
    tokenizer = Tokenizer.from_bytes(context_length=24)
    text = TextConfig(
        context_length=24, vocab_size=tokenizer.vocab_size, width=16, num_layers=1, num_heads=2
    )
    vision = CompactResNetConfig(image_size=16, widths=(4, 8))
    torch.manual_seed(0)
    model = CLIP(CLIPConfig(embed_dim=8, vision=vision, text=text))
    preprocess = PreprocessConfig(size=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    save_model(root, model, preprocess)
    tokenizer.save(root)
    torch.save(load_file(root / "model.safetensors"), root.parent / "weights.pt")
    np.savez(root.parent / "weights.npz", **{"params/a": np.zeros((3, 4), np.float32)})


def write_vocabulary(root: Path, call: Call) -> None:
    """A tokenizer learned from a few words, in our files and in Hugging Face's."""
    text = root.parent / "words.txt"
    text.write_text("a red thing and a green thing\n" * 9)
    call("clip-tokenizer", "train", text, "--vocab-size", 530, "--out", root)
    call("clip-tokenizer", "export", "--tokenizer", root, "--out", root.parent / "tokenizer")
    for name in ("vocab.json", "merges.txt"):  # tokenizer.json is read where these are not
        (root.parent / "tokenizer" / name).unlink()
    merges = (root / "merges.txt").read_bytes()
    (root.parent / "merges.txt.gz").write_bytes(gzip.compress(merges))


def write_results(root: Path, call: Call) -> None:
    """A result of the model on the folder, twice, and one of another tool."""
    options = ("--quiet", "--no-cache", "--task", "classify", "--out", root / "results")
    folder, model = root / "folder", root / "model"
    call("clip-eval", "run", "--model", model, "--data", folder, *options)
    shutil.copytree(root / "results", root / "results-b")
    (root / "foreign.json").write_text(
        json.dumps({"dataset": "d", "model": "m", "task": "t", "metrics": {"acc1": 0.5}})
    )
    line = {"dataset": "d", "metrics": {"main_metric": 0.5, "acc1": 0.5}}
    (root / "foreign.jsonl").write_text(json.dumps(line) + "\n")


def write_runs(root: Path, call: Call) -> None:
    """Runs of all trainers, one step from their end."""
    write_folder(root / "images")
    (root / "train.toml").write_text(RUN_CONFIG.format(data=f"imagefolder:{root / 'images'}"))
    call("clip-train", "run", root / "train.toml", "--out", root / "train-run", "--quiet")
    text = root / "text.txt"
    text.write_text("the cat sat on the mat and looked at the hat of the bat " * 200)
    (root / "short.txt").write_text("the cat sat on the mat and looked at the hat of the bat " * 9)
    sizes = ("--model.width", 16, "--model.num_heads", 2, "--steps", 2, "--batch_size", 2)
    call("dtp-lm", "train", text, "--out", root / "dtp-run", *sizes, "--quiet")
    for part in ("train", "val"):
        write_folder(root / "split" / part)
    options = ("--images", root / "split", "--image-size", 16, "--steps", 1, "--batch-size", 2)
    call("osf", "train", "tiny_module:make", *options, "--out", root / "osf-run", "--quiet")


def write_data(root: Path) -> None:
    """Good data of every format, each in a directory of its own, and lists."""
    write_folder(root / "folder")
    write_table(root / "table")
    (root / "table" / "coco.json").write_text(json.dumps(coco()))
    write_corenet(root / "corenet")
    write_parquet(root / "parquet" / "a.parquet")
    for folder, name, data in (
        ("wds", "a.tar", good_tar()),
        ("tfrecord", "a.tfrecord", good_records()),
        ("shards", "0.tar", good_tar()),
    ):
        (root / folder).mkdir()
        (root / folder / name).write_bytes(data)
    for folder, name in (("wds", "a.tar"), ("tfrecord", "a.tfrecord")):
        open_source(f"{folder}:{root / folder / name}")  # writes the index
        for copied in (root / folder).iterdir():
            age = 10**9 if copied.suffix == ".idx" else 0
            os.utime(copied, ns=(age, age))
    (root / "shards" / "nshards.txt").write_text("1\n")
    (root / "shards" / "classnames.txt").write_text("red\ngreen\nblue\n")
    (root / "shards" / "zeroshot_classification_templates.txt").write_text("a {c} thing\n")
    (root / "names.txt").write_text("red\ngreen\nblue\n")
    (root / "names.json").write_text(json.dumps(list(COLORS)))
