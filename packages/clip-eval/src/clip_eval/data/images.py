"""Decoding one image to RGB by fixed rules.

The rules, which make a metric comparable between machines:

- gray, 1-bit and palette images become RGB; a transparent color counts as alpha
- alpha is laid over white
- CMYK, YCbCr, LAB and HSV are converted by Pillow without a color profile
- 16-bit gray is scaled to 8 bits (`value / 257`); 32-bit integers must fit into 16 bits
- of an animation or a multi-page file, the first frame
- EXIF orientation is not applied, as in most training pipelines
- refused: no bytes, not an image of a format in `FORMATS`, cut short, floating point pixels,
  more pixels than Pillow's `Image.MAX_IMAGE_PIXELS` (89 million)
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable

import numpy as np
import PIL
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from clip_eval.data.faults import BadImage

FORMATS = (
    *("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB"),
    *("TIFF", "PPM", "JPEG2000", "QOI", "TGA", "ICO"),
)
"""Formats that are decoded, by Pillow's names. The list is closed, whatever else Pillow reads:
its PostScript reader, for one, starts Ghostscript on the file."""
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
)
"""Suffixes, lower case, by which files are taken for images."""
DECODING = f"decoding 1, Pillow {PIL.__version__}"
"""Version of the decoding rules, for the keys of caches: it changes when pixels may change."""
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


def open_image(data: bytes) -> Image.Image:
    """A Pillow image of a file's bytes, in one of `FORMATS`, not decoded yet.

    Raises:
        UnidentifiedImageError: It is in none of these formats.
    """
    return Image.open(io.BytesIO(data), formats=_installed_formats())


@functools.cache
def _installed_formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def decode_image(
    data: bytes | Image.Image, *, least_size: Callable[[int, int], tuple[int, int]] | None = None
) -> Image.Image:
    """An RGB image from an encoded file or from a Pillow image, by the rules of this module.

    Args:
        data: The bytes of an image file, or an image that Pillow already opened.
        least_size: Given width and height of the file, the width and height that are needed. A
            JPEG is then decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 of its size that has
            them: faster, with slightly other pixels. None decodes everything in full.

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
            image = data if isinstance(data, Image.Image) else open_image(data)
            if least_size is not None and isinstance(image, JpegImageFile):
                image.draft(None, least_size(*image.size))
            return _to_rgb(_first_frame(image))
        except BadImage:
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise BadImage("too-large", str(error)) from error
        except UnidentifiedImageError as error:
            raise BadImage("not-an-image", f"expected one of {', '.join(FORMATS)}") from error
        except MemoryError as error:
            raise BadImage("too-large", "not enough memory to decode it") from error
        except Exception as error:  # Pillow's plugins raise nearly everything on broken files
            reason = "truncated" if _reports_truncation(str(error)) else "broken"
            raise BadImage(reason, str(error) or type(error).__name__) from error


def _first_frame(image: Image.Image) -> Image.Image:
    if getattr(image, "n_frames", 1) > 1:
        image.seek(0)
    if isinstance(image, ImageFile.ImageFile):
        image.load()
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image
    if mode in SIXTEEN_BIT_MODES or mode == "I":
        return _scale_to_eight_bits(image).convert("RGB")
    if mode == "F":
        raise BadImage("unsupported-mode", "floating point pixels have no agreed range")
    if mode in ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(page, rgba).convert("RGB")
    return image.convert("RGB")


def _scale_to_eight_bits(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
        raise BadImage("unsupported-mode", "32-bit pixels outside 0…65535 have no agreed range")
    scaled = ((pixels + 128) // 257).astype(np.uint8)
    if "transparency" in image.info:
        scaled[pixels == image.info["transparency"]] = 255  # laid over white
    return Image.fromarray(scaled)


def _reports_truncation(message: str) -> bool:
    words = ("truncated", "premature", "unexpected end", "end of file", "not enough image data")
    return any(word in message.lower() for word in words)
