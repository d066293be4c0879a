"""Small text files of a user's: read whole, with errors that name the file."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

from clip_eval.data.bounds import TEXT, read_bounded, refuse_exhaustion
from clip_eval.data.faults import DataError


def normal_form(text: str) -> str:
    """Text in Unicode NFC, so that names match however a file system stored them."""
    return unicodedata.normalize("NFC", text)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; a byte-order mark is dropped.

    Raises:
        DataError: The file is missing, unreadable, not UTF-8, no regular file, or too large.
    """
    try:
        text = read_bounded(path, TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        refuse_exhaustion(error, str(path))
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")  # as Python reads text files


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        DataError: The file cannot be read, or is not valid JSON.
    """
    try:
        return json.loads(read_text(path))
    except DataError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError: of numbers with too many digits
        raise DataError(f"{path}: not valid JSON ({error})") from error
