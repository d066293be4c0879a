"""The tokenizer of a run: a known one, a saved one, or one learned from the training captions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from clip_eval.data import BadSample, Source
from clip_models import CLIPConfig, ConfigError
from clip_tokenizer import Tokenizer, get_tokenizer, holds_tokenizer

from clip_train.config.run import Config
from clip_train.randomness import keyed_permutation

MAX_TOKENIZER_CAPTIONS = 20_000


def make_tokenizer(config: Config, source: Source, context_length: int) -> Tokenizer:
    """The tokenizer that the config describes; kind `train` learns it from the source's captions.

    Raises:
        TokenizerError: A saved one cannot be read, or the vocabulary cannot be learned.
    """
    kind = config.tokenizer.kind
    if kind == "auto" and config.model.pretrained:
        found = _tokenizer_of(config.model.pretrained, context_length)
        if found is not None:
            return found
    if kind == "auto":
        kind = "openai"
    if kind == "openai":
        return Tokenizer.openai(context_length=context_length)
    if kind == "bytes":
        return Tokenizer.from_bytes(context_length=context_length)
    if kind == "directory":
        is_set = config.model.pretrained or "context_length" in config.model.text
        options = {"context_length": context_length} if is_set else {}
        return Tokenizer.from_pretrained(config.tokenizer.path, **options)
    return Tokenizer.train(
        _sample_captions(source, config.train.seed),
        config.tokenizer.vocab_size,
        context_length=context_length,
    )


def _tokenizer_of(pretrained: str, context_length: int) -> Tokenizer | None:
    """The tokenizer that came with a model; None if none did.

    Raises:
        ConfigError: It is not BPE, which training needs.
    """
    if not (pretrained.startswith("hf-hub:") or holds_tokenizer(Path(pretrained))):
        return None
    found = get_tokenizer(pretrained, context_length=context_length)
    if not isinstance(found, Tokenizer):
        raise ConfigError(
            f"{pretrained} has a {type(found).__name__}, and training reads BPE tokenizers; "
            "convert the captions' tokenizer, or start from other weights"
        )
    return found


def check_vocabulary(config: Config, clip_config: CLIPConfig, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that a pretrained model was not trained with.

    Raises:
        ConfigError: The vocabulary or the end token is another one.
    """
    text, path = clip_config.text, config.model.pretrained
    end = text.end_token_id
    remedy = "give the model's tokenizer, as in --tokenizer.kind directory --tokenizer.path DIR"
    if config.tokenizer.kind == "train":  # ids of another vocabulary of the same size would fit
        raise ConfigError(
            f"tokenizer.kind 'train' learns a vocabulary that {path} was not trained with; {remedy}"
        )
    if (tokenizer.vocab_size, tokenizer.eot_token_id) != (text.vocab_size, end):
        raise ConfigError(
            f"{path} was trained with {text.vocab_size} tokens and end token {end}, "
            f"the tokenizer has {tokenizer.vocab_size} and {tokenizer.eot_token_id}; {remedy}"
        )


def _sample_captions(source: Source, seed: int) -> Iterable[str]:
    """Captions of up to `MAX_TOKENIZER_CAPTIONS` samples, in a keyed order."""
    if source.classnames and source.templates:
        for name, template in itertools.product(source.classnames, source.templates):
            yield template.replace("{c}", name)
        return
    order = keyed_permutation(seed, 0, len(source), "tokenizer")
    for index in np.sort(order[:MAX_TOKENIZER_CAPTIONS]).tolist():
        try:
            yield from source.read(index).captions
        except BadSample:
            continue  # counted when training meets it
