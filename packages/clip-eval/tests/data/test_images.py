from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clip_eval.data import BadImage, decode_image, image_suffix, open_source
from clip_eval.data.images import SUFFIXES_OF
from PIL import Image, features


def file_of(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_rgb_png_is_returned_pixel_for_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    decoded = decode_image(file_of(Image.fromarray(pixels), "PNG"))
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LA", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("L", (6, 4), 255)
    image = Image.new("I;16", (6, 4), 65535) if mode == "I;16" else image.convert(mode)
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    decoded = decode_image(file_of(image, kind))
    assert (decoded.mode, decoded.size) == ("RGB", (6, 4))
    assert np.asarray(decoded).min() >= 250


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 256 * 128, 65535]], dtype=np.uint16)
    decoded = decode_image(file_of(Image.fromarray(values), "PNG"))
    assert np.asarray(decoded)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_thirty_two_bits_out_of_range_are_refused() -> None:
    image = Image.fromarray(np.array([[70000]], dtype=np.int32))
    with pytest.raises(BadImage, match="unsupported-mode"):
        decode_image(file_of(image, "TIFF"))


def test_floating_point_is_refused() -> None:
    image = Image.fromarray(np.array([[0.5]], dtype=np.float32))
    with pytest.raises(BadImage, match="unsupported-mode"):
        decode_image(file_of(image, "TIFF"))


def test_alpha_is_laid_over_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (200, 0, 0, 255))
    decoded = np.asarray(decode_image(file_of(image, "PNG")))
    assert decoded[0].tolist() == [[255, 255, 255], [200, 0, 0]]


def test_palette_transparency_is_laid_over_white() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    decoded = np.asarray(decode_image(file_of(image, "PNG", transparency=0)))
    assert decoded[0].tolist() == [[255, 255, 255], [40, 50, 60]]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_grey_is_laid_over_white(bits: int) -> None:
    top = 2**bits - 1
    values = np.array([[0, 20 * top // 255, top]], dtype=f"u{bits // 8}")
    data = file_of(Image.fromarray(values), "PNG", transparency=0)
    assert np.asarray(decode_image(data))[0, :, 0].tolist() == [255, 20, 255]


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data).getpixel((0, 0)) == (255, 0, 0)
    opened = Image.open(io.BytesIO(data))
    opened.seek(1)
    assert decode_image(opened).getpixel((0, 0)) == (255, 0, 0)


def test_decoded_image_passes_through() -> None:
    image = Image.new("RGB", (3, 2), (1, 2, 3))
    assert decode_image(image).getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_cut_short_is_refused(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = file_of(Image.fromarray(pixels), kind)
    with pytest.raises(BadImage) as caught:
        decode_image(data[: len(data) // 2])
    assert caught.value.reason in ("truncated", "broken", "not-an-image")
    if kind == "JPEG":
        assert caught.value.reason == "truncated"


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"hello, world" * 20, "not-an-image"), (b"\x89PNG\r\n\x1a\n", "broken")],
)
def test_what_is_no_image_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage) as caught:
        decode_image(data)
    assert caught.value.reason in (reason, "truncated", "not-an-image")
    assert caught.value.detail


def test_too_many_pixels_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    small, large, bomb = (file_of(Image.new("RGB", (side, side)), "PNG") for side in (10, 12, 100))
    assert decode_image(small).size == (10, 10)
    for data in (large, bomb):
        with pytest.raises(BadImage, match="too-large"):
            decode_image(data)


def test_a_jpeg_may_be_decoded_smaller_and_nothing_else() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((163, 121), Image.Resampling.BICUBIC)
    for kind, size in (("JPEG", (41, 31)), ("PNG", (163, 121))):
        out = io.BytesIO()
        picture.save(out, kind)
        asked = []
        found = decode_image(
            out.getvalue(), least_size=lambda *full, asked=asked: asked.append(full) or (40, 30)
        )
        assert found.size == size
        assert asked == ([(163, 121)] if kind == "JPEG" else [])
        assert decode_image(out.getvalue()).size == (163, 121)
        assert decode_image(out.getvalue(), least_size=lambda *full: full).size == (163, 121)
        assert decode_image(out.getvalue(), least_size=lambda *_: (999, 9)).size == (163, 121)


@pytest.mark.parametrize("format", [name for name in SUFFIXES_OF if name not in ("DIB", "TGA")])
def test_every_format_is_read_from_folders_and_shards_alike(
    format: str, tmp_path: Path, write_tar: Callable[..., Path]
) -> None:
    Image.init()
    if format not in Image.SAVE or (format == "AVIF" and not features.check("avif")):
        pytest.skip(f"this Pillow does not write {format}")
    out = io.BytesIO()
    Image.new("RGB", (32, 32), (10, 20, 30)).save(out, format)
    assert image_suffix(out.getvalue()) == SUFFIXES_OF[format][0]
    for suffix in SUFFIXES_OF[format]:
        (tmp_path / "d" / "cat").mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / "cat" / f"a{suffix.upper()}").write_bytes(out.getvalue())
        shard = write_tar(tmp_path / "a.tar", {f"0{suffix}": out.getvalue()})
        assert decode_image(open_source(shard).read(0).image).size == (32, 32)
    assert len(open_source(tmp_path / "d")) == len(SUFFIXES_OF[format])


def test_the_suffix_of_what_is_no_image() -> None:
    for data, reason in ((b"", "empty"), (b"what is this", "not-an-image")):
        with pytest.raises(BadImage) as caught:
            image_suffix(data)
        assert caught.value.reason == reason
