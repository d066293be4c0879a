"""EXIF orientation: as Pillow's `exif_transpose` where it is asked for, as in peers where not."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_eval.cli.main import main
from clip_eval.data import decode_image, open_source, summarize
from clip_eval.encoding.batches import hash_source
from clip_eval.encoding.embedding_parts import read_embedding_file
from clip_eval.encoding.thumbnails import make_thumbnails
from PIL import Image, ImageOps
from torchvision.datasets.folder import pil_loader
from transformers.image_utils import load_image

SIZE = (48, 32)
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")


def photo(orientation: object, kind: str = "JPEG", size: tuple[int, int] = SIZE) -> bytes:
    """A picture whose four corners differ, with a tag of EXIF."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    half = (size[1] // 2, size[0] // 2)
    pixels[: half[0], : half[1]] = (250, 10, 10)
    pixels[: half[0], half[1] :] = (10, 250, 10)
    pixels[half[0] :, half[1] :] = (10, 10, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, exif=exif, quality=95)
    return out.getvalue()


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_those_of_pillow_and_of_peers(
    orientation: int, kind: str, tmp_path: Path
) -> None:
    data = photo(orientation, kind)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    assert same(decode_image(data, exif_orientation=True), upright)
    (tmp_path / "x").write_bytes(data)
    assert same(decode_image(data, exif_orientation=True), load_image(str(tmp_path / "x")))
    assert same(decode_image(data), pil_loader(tmp_path / "x"))
    assert upright.size == ((32, 48) if orientation >= 5 else SIZE)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_jpegs_at_a_fraction_of_their_size_are_turned_too(orientation: int) -> None:
    data = photo(orientation, size=(480, 320))
    asked: list[tuple[int, int]] = []

    def least_size(width: int, height: int) -> tuple[int, int]:
        asked.append((width, height))
        return width // 4, height // 4

    found = decode_image(data, least_size=least_size, exif_orientation=True)
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, (120, 80))
        assert same(found, ImageOps.exif_transpose(image))
    sideways = orientation >= 5
    assert asked == [(320, 480) if sideways else (480, 320)]
    assert found.size == ((80, 120) if sideways else (120, 80))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_changes_nothing(orientation: int) -> None:
    data = photo(orientation)
    assert same(decode_image(data, exif_orientation=True), decode_image(data))


def test_damaged_exif_is_none() -> None:
    data = photo(6)
    place = data.index(b"Exif\0\0")
    broken = data[: place + 6] + b"\xff" * 8 + data[place + 14 :]
    assert same(decode_image(broken, exif_orientation=True), decode_image(broken))


def test_a_decoded_image_is_turned_by_what_it_still_knows() -> None:
    with Image.open(io.BytesIO(photo(6))) as image:
        upright = ImageOps.exif_transpose(image)
        assert same(decode_image(image, exif_orientation=True), upright)
    assert same(decode_image(upright, exif_orientation=True), upright)  # not turned twice


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """Two classes, whose images lie on their sides."""
    for name in ("red", "blue"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "0.jpg").write_bytes(photo(6))
    return tmp_path / "data"


def test_sources_say_whether_images_are_turned(turned: Path) -> None:
    plain, upright = open_source(turned), open_source(turned, exif_orientation=True)
    assert (plain.exif_orientation, upright.exif_orientation) == (False, True)
    assert hash_source(plain) != hash_source(upright)
    assert summarize(plain).percentiles["width"] == (48.0,) * 5
    assert summarize(upright).percentiles["width"] == (32.0,) * 5
    for source, size in ((plain, (16, 11)), (upright, (11, 16))):
        (made,) = make_thumbnails(source, [0], 16)
        assert decode_image(made).size == size


def run(words: Sequence[object]) -> None:
    assert main([*map(str, words), "--device", "cpu"]) == 0


def test_a_run_names_it_and_keeps_its_embeddings_apart(
    turned: Path, trained_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(name: str, *words: object) -> dict[str, Any]:
        out = tmp_path / name
        where = ("--model", trained_directory, "--data", turned, "--out", out)
        run(["run", *where, "--cache", tmp_path / "cache", "--quiet", *words])
        return dict(json.loads((out / "result.json").read_text(encoding="utf-8")))

    def count_rows() -> int:
        files = (tmp_path / "cache" / "images").glob("*/*.npy")
        return sum(len(np.load(file)) for file in files)

    plain = evaluate("plain")
    assert count_rows() == 1  # two files of the same bytes
    upright = evaluate("upright", "--exif-orientation")
    assert count_rows() == 2
    assert "exif_orientation" not in {**plain["details"], **plain["settings"]["data_options"]}
    assert upright["details"]["exif_orientation"] is True
    assert upright["settings"]["data_options"] == {"exif_orientation": True}
    assert plain["settings"]["key"] != upright["settings"]["key"]
    assert plain["content"] != upright["content"]
    capsys.readouterr()
    words = ["run", "--model", trained_directory, "--data", turned, "--out", tmp_path / "plain"]
    assert main([*map(str, words), "--quiet", "--exif-orientation"]) == 2
    assert "was made otherwise" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_embeddings_thumbnails_and_queries_are_turned_alike(
    turned: Path,
    trained_directory: Path,
    tmp_path: Path,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = {False: tmp_path / f"plain.{suffix}", True: tmp_path / f"upright.{suffix}"}
    for upright, file in files.items():
        flag = ["--exif-orientation"] if upright else []
        run(["embed", turned, "--model", trained_directory, "--out", file, "--quiet", *flag])
        found = read_embedding_file(file)
        assert found.exif_orientation is upright
        assert decode_image(found.thumbnails[0]).size == (SIZE[::-1] if upright else SIZE)
        capsys.readouterr()
        query = ["--image", turned / "red" / "0.jpg", "--json"]
        run(["search", "--in", file, "--model", trained_directory, *query])
        best = json.loads(capsys.readouterr().out)["found"][0]
        assert best["score"] == pytest.approx(1, abs=1e-5)
    plain, turned_too = (read_embedding_file(file).features for file in files.values())
    assert not np.allclose(plain, turned_too, atol=1e-4)
