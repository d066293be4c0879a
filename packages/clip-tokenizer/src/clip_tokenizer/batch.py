"""Checks of a batch and its options, and batches as tensors. N texts, T context length."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from clip_tokenizer.errors import TokenizerError

if TYPE_CHECKING:
    import torch

TruncateMode = Literal["eot", "error"]
MAX_CONTEXT = 2**24
"""Bound on the columns of a batch."""
TRUNCATE_MODES: tuple[TruncateMode, ...] = get_args(TruncateMode)


def check_truncate_mode(truncate: str) -> TruncateMode:
    """`truncate` itself if it is a known mode."""
    for known in TRUNCATE_MODES:
        if truncate == known:
            return known
    raise TokenizerError(f"truncate must be 'eot' or 'error', got {truncate!r}")


def check_context_length(context_length: object) -> int:
    """`context_length` as a positive int."""
    if isinstance(context_length, bool):
        pass  # an int in Python, a mistake here
    elif isinstance(context_length, (int, np.integer)) and 0 < context_length <= MAX_CONTEXT:
        return int(context_length)
    least = "" if _is_small(context_length) else f" of at most {MAX_CONTEXT:,}"
    raise TokenizerError(f"context_length must be a positive int{least}, got {context_length!r}")


def _is_small(context_length: object) -> bool:
    """Whether a wrong context length is not wrong by its size."""
    return not isinstance(context_length, (int, np.integer)) or int(context_length) <= MAX_CONTEXT


def check_pad_token_id(pad_token_id: object, vocab_size: int) -> None:
    """Check that the padding is an id of the vocabulary."""
    if not isinstance(pad_token_id, (int, np.integer)) or not 0 <= pad_token_id < vocab_size:
        raise TokenizerError(f"pad_token_id must be in [0, {vocab_size}), got {pad_token_id!r}")


def check_dtype(dtype: npt.DTypeLike, vocab_size: int) -> np.dtype[Any]:
    """`dtype` as an integer type that holds every id."""
    found = np.dtype(dtype)
    if found.kind not in "iu" or np.iinfo(found).max < vocab_size - 1:
        raise TokenizerError(
            f"dtype must be an integer type that holds {vocab_size} ids, got {found}"
        )
    return found


def check_fit(lengths: npt.NDArray[np.int64], context_length: int, *, first: int = 0) -> None:
    """Check that each text fits into `context_length` columns.

    Args:
        lengths: (N,) number of columns that each text needs.
        context_length: Number of columns.
        first: Position of the first of these texts in the caller's batch.
    """
    too_long = np.flatnonzero(lengths > context_length)
    if len(too_long):
        at = int(too_long[0])
        raise TokenizerError(
            f"texts[{first + at}] needs {int(lengths[at])} tokens, context_length is "
            f"{context_length}; shorten it, raise context_length, or use truncate='eot'"
        )


def as_batch(texts: object) -> list[str]:
    """The texts as a list of str; one str is a batch of one.

    Raises:
        TokenizerError: If an element is not a str; the message names its position.
    """
    if isinstance(texts, str):
        return [texts]
    no_batch = isinstance(texts, (bytes, bytearray, Mapping)) or getattr(texts, "ndim", 1) == 0
    if no_batch or not isinstance(texts, Iterable):
        raise TokenizerError(
            f"texts must be a str or a sequence of str, got {type(texts).__name__}"
        )
    batch = texts if isinstance(texts, list) else list(texts)
    return batch if set(map(type, batch)) <= {str} else list(require_strings(batch))


def require_strings(texts: Iterable[object]) -> Iterator[str]:
    """Give the texts one by one, each of them a str.

    Raises:
        TokenizerError: If one is not; the message names its position.
    """
    for at, text in enumerate(texts):
        if not isinstance(text, str):
            raise TokenizerError(f"texts[{at}] must be a str, got {_describe(text)}")
        yield text


def _describe(value: object) -> str:
    """The value as a message names it, with a remedy."""
    if value is None or (isinstance(value, numbers.Real) and math.isnan(value)):
        return f"{value!r}; a missing caption must be dropped or replaced by ''"
    if isinstance(value, (bytes, bytearray)):
        return f"{type(value).__name__}; decode it first"
    return f"{type(value).__name__} ({value!r:.40})"


def as_row(ids: object) -> list[int]:
    """The ids of one row as a list of int.

    Raises:
        TokenizerError: If they are not one row of integers.
    """
    values: Any = getattr(ids, "tolist", lambda: ids)()
    try:
        return [operator.index(index) for index in values]
    except TypeError:
        shape = tuple(getattr(ids, "shape", (0,)))
        got = f"shape {shape}" if len(shape) != 1 else f"{ids!r:.40}"
        raise TokenizerError(f"ids must be one row of ints, got {got}; decode each row") from None


def to_tensor(array: npt.NDArray[np.int64]) -> torch.LongTensor:
    """The array as a tensor that shares its memory.

    Raises:
        ImportError: If torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "calling a tokenizer gives a torch tensor, and torch is not installed; install "
            "clip-tokenizer[torch], or use encode_batch, which gives a NumPy array"
        ) from error
    tensor: torch.LongTensor = torch.from_numpy(array)  # type: ignore[assignment]
    return tensor
