"""Sample images of a report: their choice, and their encoding as `data:` addresses."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from clip_eval.data.faults import BadSample
from clip_eval.data.images import decode_image
from clip_eval.data.samples import Source
from clip_eval.results.result import Prediction

THUMBNAIL = 224
SMALL = 64


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A prediction with its image as a `data:` address; a small image is shown pixel by pixel."""

    prediction: Prediction
    address: str
    is_small: bool


def choose_predictions(
    predictions: Sequence[Prediction], count: int, seed: int
) -> list[Prediction]:
    """Choose up to `count` predictions, half of them wrong ones if there are enough.

    The choice depends on the seed only. Wrong predictions come first.
    """
    draw = random.Random(seed)
    wrong = [p for p in predictions if not p.correct]
    right = [p for p in predictions if p.correct]
    take_wrong = min(len(wrong), max(count // 2, count - len(right)))
    take_right = min(len(right), count - take_wrong)
    return draw.sample(wrong, take_wrong) + draw.sample(right, take_right)


def most_confident_errors(predictions: Sequence[Prediction], count: int) -> list[Prediction]:
    """Return the wrong predictions of highest probability, highest first."""
    wrong = [p for p in predictions if p.guesses and not p.correct]
    return sorted(wrong, key=lambda p: (-p.probabilities[0], p.index))[:count]


def load_pictures(source: Source, predictions: Sequence[Prediction]) -> list[Picture]:
    """Load the images of predictions; an image that does not exist any more is left out."""
    pictures = []
    for prediction in predictions:
        try:
            sample = source.read(prediction.index)
            image = decode_image(sample.image, exif_orientation=source.exif_orientation)
        except (BadSample, IndexError):
            continue
        if sample.key != prediction.key:  # the data has changed since
            continue
        pictures.append(
            Picture(
                prediction=prediction,
                address=picture_address(image),
                is_small=max(image.size) <= SMALL,
            )
        )
    return pictures


def picture_address(image: Image.Image) -> str:
    """Encode an image, at most 224 pixels wide and high, as a `data:` address."""
    if max(image.size) <= SMALL:
        return png_address(image)
    out = io.BytesIO()
    image = image.copy()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(out, "JPEG", quality=85)
    return data_address("image/jpeg", out.getvalue())


def png_address(image: Image.Image) -> str:
    """Encode an image without loss as a `data:` address."""
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return data_address("image/png", out.getvalue())


def data_address(kind: str, data: bytes) -> str:
    """Encode bytes as a `data:` address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
