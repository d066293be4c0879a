"""Decoding one image to RGB by fixed rules.

The rules, which make a metric comparable between machines:

- gray, 1-bit and palette images become RGB; a transparent color counts as alpha
- alpha is laid over white
- CMYK, YCbCr, LAB and HSV are converted by Pillow without a color profile
- 16-bit gray is scaled to 8 bits (`value / 257`); 32-bit integers must fit into 16 bits
- of an animation or a multi-page file, the first frame
- EXIF orientation is applied only if it is asked for (`exif_orientation`): open_clip, torchvision
  and webdataset do not apply it, transformers does; that of TIFF is always applied by Pillow
- refused: no bytes, not an image of a format in `FORMATS`, cut short, floating point pixels,
  more pixels than Pillow's `Image.MAX_IMAGE_PIXELS` (89 million, or `CLIP_EVAL_MAX_PIXELS`), files
  that would keep the decoder busy for long (a JPEG of a thousand passes, a large QOI)

Large images are converted in strips, so that memory is that of the decoded image and its RGB copy.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Callable

import numpy as np
import PIL
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from clip_eval.data.bounds import PIXELS
from clip_eval.data.faults import BadImage, DataError

FORMATS = (
    *("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB"),
    *("TIFF", "PPM", "JPEG2000", "QOI", "TGA", "ICO"),
)
"""Formats that are decoded, by Pillow's names. The list is closed, whatever else Pillow reads:
its PostScript reader, for one, starts Ghostscript on the file."""
SUFFIXES_OF = {
    "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "QOI": (".qoi",),
    "TGA": (".tga",),
    "ICO": (".ico",),
}
MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"P6": "PPM",
    b"P5": "PPM",
}
"""How files of some formats begin."""
IMAGE_SUFFIXES = tuple(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)
"""Suffixes, lower case, by which files are taken for images, in folders and in shards alike."""
DECODING = f"decoding 1, Pillow {PIL.__version__}"
"""Version of the decoding rules, for the keys of caches: it changes when pixels may change."""
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
STRIP = 2**22  # pixels that are converted at once
MOST_PASSES = 2 * 10**9  # pixels times passes of a JPEG: some seconds
MOST_QOI_BYTES = 3 * 2**20  # Pillow's decoder of QOI is a loop in Python
ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
ORIENTATION = 0x0112  # the tag of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of each orientation upright, as in `PIL.ImageOps.exif_transpose`."""
SIDEWAYS = (5, 6, 7, 8)  # orientations whose width is the height of the upright image


def open_image(data: bytes) -> Image.Image:
    """A Pillow image of a file's bytes, in one of `FORMATS`, not decoded yet.

    Raises:
        UnidentifiedImageError: It is in none of these formats.
    """
    return Image.open(io.BytesIO(data), formats=_installed_formats())


def image_suffix(data: bytes) -> str:
    """The usual suffix of a file of these bytes, such as `.jpg`.

    Raises:
        BadImage: It is not an image of a format in `FORMATS`.
    """
    if not data:
        raise BadImage("empty", "the file has no bytes")
    for magic, format in MAGIC.items():  # of a file that is cut too
        if data.startswith(magic):
            return SUFFIXES_OF[format][0]
    try:
        with warnings.catch_warnings(), open_image(data) as image:
            return SUFFIXES_OF["JPEG" if image.format == "MPO" else str(image.format)][0]
    except UnidentifiedImageError as error:
        raise BadImage("not-an-image", f"expected one of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's plugins raise nearly everything on broken files
        raise BadImage("broken", str(error) or type(error).__name__) from error


def read_image_size(
    data: bytes | Image.Image, *, exif_orientation: bool = False
) -> tuple[int, int]:
    """Width and height by the header of an image file, whose pixels are not decoded.

    Args:
        data: The bytes of an image file, or an image that Pillow already opened.
        exif_orientation: Those of the image upright, as its EXIF says.

    Raises:
        BadImage: It is not an image of a format in `FORMATS`, or its header is damaged.
    """
    if not isinstance(data, Image.Image) and len(data) == 0:
        raise BadImage("empty", "the file has no bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = data if isinstance(data, Image.Image) else open_image(data)
            return _Turned(image if exif_orientation else None).swap(image.size)
    except UnidentifiedImageError as error:
        raise BadImage("not-an-image", f"expected one of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's plugins raise nearly everything on broken files
        raise BadImage("broken", str(error) or type(error).__name__) from error


@functools.cache
def _installed_formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def decode_image(
    data: bytes | Image.Image,
    *,
    least_size: Callable[[int, int], tuple[int, int]] | None = None,
    exif_orientation: bool = False,
) -> Image.Image:
    """An RGB image from an encoded file or from a Pillow image, by the rules of this module.

    Args:
        data: The bytes of an image file, or an image that Pillow already opened.
        least_size: Given width and height of the file, the width and height that are needed. A
            JPEG is then decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 of its size that has
            them: faster, with slightly other pixels. None decodes everything in full.
        exif_orientation: Turn the image upright, as its EXIF says; sizes are of the upright image.

    Raises:
        BadImage: With `reason` one of `empty`, `not-an-image`, `truncated`,
            `too-large`, `unsupported-mode`, `broken`.
    """
    if isinstance(data, bytes | bytearray | memoryview) and len(data) == 0:
        raise BadImage("empty", "the file has no bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = data if isinstance(data, Image.Image) else _open_bounded(data)
            if least_size is not None and isinstance(image, JpegImageFile):
                upright = _Turned(image if exif_orientation else None)
                image.draft(None, upright.swap(least_size(*upright.swap(image.size))))
            image = _first_frame(image)
            return _Turned(image if exif_orientation else None).turn(_to_rgb(image))
        except BadImage:
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise BadImage("too-large", str(error)) from error
        except UnidentifiedImageError as error:
            raise BadImage("not-an-image", f"expected one of {', '.join(FORMATS)}") from error
        except MemoryError as error:
            raise BadImage("too-large", "not enough memory to decode it") from error
        except DataError:  # a bound of the environment that is no number
            raise
        except Exception as error:  # Pillow's plugins raise nearly everything on broken files
            reason = "truncated" if _reports_truncation(str(error)) else "broken"
            raise BadImage(reason, str(error) or type(error).__name__) from error


class _Turned:
    """The orientation that an image's EXIF tells: none without an image, or where it is damaged."""

    def __init__(self, image: Image.Image | None) -> None:
        self.orientation: object = None
        if image is not None:
            with contextlib.suppress(Exception):  # Pillow's reader of EXIF raises nearly everything
                self.orientation = image.getexif().get(ORIENTATION)

    def swap(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height upright, of those in the file; or the other way."""
        return (size[1], size[0]) if self.orientation in SIDEWAYS else size

    def turn(self, image: Image.Image) -> Image.Image:
        """The image upright."""
        method = next((turn for value, turn in TURNS.items() if value == self.orientation), None)
        return image if method is None else image.transpose(method)


def _open_bounded(data: bytes) -> Image.Image:
    """The image of a file, unless decoding it would take very long."""
    if os.environ.get(PIXELS.variable):
        Image.MAX_IMAGE_PIXELS = PIXELS.value()
    image = open_image(data)
    width, height = image.size
    if image.format == "QOI" and len(data) > MOST_QOI_BYTES:
        raise BadImage("too-large", f"a QOI file of {len(data):,} bytes, which takes minutes")
    if isinstance(image, JpegImageFile):
        passes = bytes(data).count(b"\xff\xda")
        if passes * width * height > MOST_PASSES:
            raise BadImage("too-large", f"{width} x {height} pixels in {passes:,} passes")
    return image


def _first_frame(image: Image.Image) -> Image.Image:
    if image.tell() != 0:  # frames are not counted: a file may hold millions
        image.seek(0)
    if isinstance(image, ImageFile.ImageFile):
        image.load()
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image
    if mode in SIXTEEN_BIT_MODES or mode == "I":
        return _convert_strips(image, _scale_to_eight_bits)
    if mode == "F":
        raise BadImage("unsupported-mode", "floating point pixels have no agreed range")
    if mode in ALPHA_MODES or "transparency" in image.info:
        return _convert_strips(image, _lay_over_white)
    return image.convert("RGB")


def _convert_strips(
    image: Image.Image, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """The RGB image whose strips are the converted strips of an image."""
    width, height = image.size
    rows = max(1, STRIP // max(1, width))
    if rows >= height:
        return convert(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows)))
        whole.paste(convert(strip), (0, top))
    return whole


def _lay_over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    page = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(page, rgba).convert("RGB")


def _scale_to_eight_bits(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
        raise BadImage("unsupported-mode", "32-bit pixels outside 0…65535 have no agreed range")
    scaled = ((pixels + 128) // 257).astype(np.uint8)
    if "transparency" in image.info:
        scaled[pixels == image.info["transparency"]] = 255  # laid over white
    return Image.fromarray(scaled).convert("RGB")


def _reports_truncation(message: str) -> bool:
    words = ("truncated", "premature", "unexpected end", "end of file", "not enough image data")
    return any(word in message.lower() for word in words)
