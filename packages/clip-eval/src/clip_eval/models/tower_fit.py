"""Whether a tokenizer belongs to a text tower, of whichever library the two are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clip_tokenizer import TokenizerError, check_text_tower
from torch import nn

from clip_eval.errors import EvaluationError

OLD_END = 2
"""`eos_token_id` in configs of transformers that read the feature at the largest id."""


@dataclass(frozen=True)
class _Sizes:
    vocab_size: int
    context_length: int | None
    eot_token_id: int | None


def require_fit(model: Any, tokenizer: Any, source: str = "") -> None:
    """Check that the ids of a tokenizer are those that the text tower knows, as far as both say.

    Args:
        model: A dual encoder of ours, of open_clip or of transformers, or any other.
        tokenizer: Its tokenizer, or one of them in an adapter.
        source: What to name before the message.

    Raises:
        EvaluationError: They do not belong together.
    """
    known = describe_tokenizer(tokenizer)
    if known is None:
        return
    try:
        check_text_tower(known, describe_tower(model))
    except TokenizerError as error:
        raise EvaluationError(f"{source}: {error}" if source else str(error)) from error


def describe_tokenizer(tokenizer: Any) -> _Sizes | None:
    """Number of ids, columns and end token of a tokenizer; None if it does not say."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # open_clip and adapters wrap one
    if hasattr(inner, "get_vocab"):  # of transformers, which counts added tokens in its length
        size = max(len(inner), 1 + max(inner.get_vocab().values(), default=0))
        return _Sizes(size, None, getattr(inner, "eos_token_id", None))
    known: Any = getattr(inner, "vocab_size", None)
    if not isinstance(known, int):
        return None
    end = getattr(inner, "eot_token_id", None)
    return _Sizes(known, getattr(inner, "context_length", None), end)


def describe_tower(model: Any) -> dict[str, int | None]:
    """Number of ids and positions of a text tower, and its end token where it reads one."""
    config: Any = getattr(model, "config", None)
    ours: Any
    theirs: Any
    ours, theirs = getattr(config, "text", None), getattr(config, "text_config", None)
    if hasattr(ours, "end_token_id"):
        end = ours.end_token_id if ours.readout == "end_token" else None
        sizes = {"vocab_size": ours.vocab_size, "context_length": ours.context_length}
        return {**sizes, "end_token_id": end}
    if theirs is not None:
        reads_end = getattr(config, "model_type", None) == "clip"
        end = getattr(theirs, "eos_token_id", None) if reads_end else None
        size = getattr(theirs, "vocab_size", None)
        return {"vocab_size": size, "end_token_id": None if end == OLD_END else end}
    table = getattr(getattr(model, "text", model), "token_embedding", None)
    size = table.num_embeddings if isinstance(table, nn.Embedding) else None
    return {"vocab_size": size, "end_token_id": None}
